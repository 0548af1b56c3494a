"""Every test run is offline and single-threaded, in this process and in those that it starts."""

import os
from pathlib import Path


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_EVALUATE_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# The models of the tests are tiny: threads cost them more than they gain, and xdist already runs one worker per core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Scripts and examples run in processes of their own, and should find this checkout whatever is installed.
checkout = str(Path(__file__).resolve().parent.parent)
os.environ["PYTHONPATH"] = os.pathsep.join([checkout, *filter(None, [os.environ.get("PYTHONPATH")])])
