# `make demo` and `make test` first set up all they need in .venv. That takes Python 3.11 or newer with its venv module,
# and a package index that pip reaches; a second run takes neither.

PYTHON ?= python3
IMAGE ?= scripts/images/china.jpg

VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test quality style clean
.DELETE_ON_ERROR:

# Segments a photo with the model that comes along and writes the overlay: make demo IMAGE=path/to/photo.jpg
demo: $(VENV)/.installed
	$(RUN) scripts/segment.py "$(IMAGE)"

# All tests. For the quick ones: .venv/bin/python -m pytest
test: $(VENV)/.installed-for-tests
	$(RUN) -m pytest -m "slow or not slow" --numprocesses auto --maxprocesses 4

quality: $(VENV)/.installed-for-tests
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

style: $(VENV)/.installed-for-tests
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache

$(RUN):
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { \
		echo "Python 3.11 or newer is needed, but $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
		echo "Name another: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c "import ensurepip, venv" || { \
		echo "$(PYTHON) has no venv module. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: setup.py | $(RUN)
	$(RUN) -m pip install --disable-pip-version-check --editable .
	touch $@

# With transformers' own test-suite, which its wheels do not contain.
$(VENV)/.installed-for-tests: setup.py tests/transformers_suite.py | $(RUN)
	$(RUN) -m pip install --disable-pip-version-check --editable ".[test]"
	$(RUN) tests/transformers_suite.py
	touch $@
