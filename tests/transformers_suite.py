"""
The test-suite that transformers' own models have to pass, run on ours.

Wheels of transformers do not contain it; its source distributions do, but only the files directly in `tests/`. So

    python tests/transformers_suite.py

(`make test` does it) downloads the source distribution of the installed version, keeps those files as a package named
`transformers_suite`, and puts small stand-ins beside them for the modules they import that are not distributed.
Nothing of it is part of this repository. With the suite in place, nothing is downloaded again. Takes ten seconds.
"""

import importlib
import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType


VERSION = importlib.metadata.version("transformers")
SUITE_FOLDER = Path(sys.prefix) / "share" / "transformers-suite" / VERSION

# The suite imports these, and the source distribution lacks them. Mixins that our tests do not use stand empty.
STAND_INS = {
    "transformers_suite/__init__.py": "",
    "transformers_suite/exporters/__init__.py": "",
    "transformers_suite/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "transformers_suite/generation/__init__.py": "",
    "transformers_suite/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "transformers_suite/utils/__init__.py": "",
    # Every configuration takes these arguments, each of which has a value here that is not its default.
    "transformers_suite/utils/test_configuration_utils.py": """\
config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["BertModel"],
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
    "problem_type": "regression",
}
""",
    # These stand for the pictures on the Hub: smooth noise for photographs, blocks of labels for label maps.
    "utils/fetch_hub_objects_for_ci.py": """\
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = tempfile.TemporaryDirectory()


def url_to_local_path(url):
    path = Path(FOLDER.name) / Path(url).name
    if not path.exists():
        random = np.random.default_rng(zlib.crc32(url.encode()))
        if path.suffix == ".png":
            labels = Image.fromarray(random.integers(0, 151, (12, 16), dtype=np.uint8))
            labels.resize((640, 480), Image.Resampling.NEAREST).save(path)
        else:
            pixels = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            pixels.resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=95)
    return str(path)
""",
}


def fetch(folder: Path = SUITE_FOLDER) -> None:
    """Puts the suite of the installed transformers into `folder`, unless it is there."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    # It is on the same disk as `folder`, so that the finished suite appears in one step.
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
        subprocess.run([*download, "--dest", temporary, f"transformers=={VERSION}"], check=True)
        staging = Path(temporary) / "staging"
        for name, content in STAND_INS.items():
            path = staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        with tarfile.open(Path(temporary) / f"transformers-{VERSION}.tar.gz") as archive:
            for member in archive:
                name = member.name.split("/")
                if member.isfile() and len(name) == 3 and name[1] == "tests" and name[2].endswith(".py"):
                    with (
                        archive.extractfile(member) as source,
                        open(staging / "transformers_suite" / name[2], "wb") as to,
                    ):
                        shutil.copyfileobj(source, to)
        staging.rename(folder)


def suite_module(name: str) -> ModuleType:
    """The module `name` of transformers' own tests, such as `"test_modeling_common"`."""
    if not SUITE_FOLDER.exists():
        raise RuntimeError(
            f"transformers' own test-suite for version {VERSION} is not in {SUITE_FOLDER}, and our models are only "
            f"tested with it. Fetch it (needs a package index): {sys.executable} {Path(__file__).resolve()}"
        )
    if str(SUITE_FOLDER) not in sys.path:
        # It comes last, because it has a folder `utils`.
        sys.path.append(str(SUITE_FOLDER))
    return importlib.import_module(f"transformers_suite.{name}")


if __name__ == "__main__":
    fetch()
    print(f"transformers' own test-suite is in {SUITE_FOLDER}")
