"""
Runs a script as processes with accelerators do, where there are none: `accelerate launch ... on_cpu.py SCRIPT ...`

accelerate shards models over accelerators only. Here each process takes the CPU for one, together with
`ACCELERATE_TORCH_DEVICE=cpu`, and sends through gloo.
"""

import runpy
import sys

from accelerate import DistributedType
from accelerate.state import PartialState


def main():
    PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
