"""What all tests share: one tiny configuration, random inputs for it, and fresh interpreters."""

import functools
import importlib
import importlib.util
import multiprocessing
import os
import runpy
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import huggingface_hub.constants
import numpy as np
import torch

from segmenter_hf import SegmenterConfig


# This is for an interpreter that has imported this and done nothing else: no threads run, and no session is open.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["segmenter_hf.hub.converted", "segmenter_hf.hub.push_trained"])
REPOSITORY = Path(__file__).resolve().parent.parent
# A folder holds these files so that it loads by `trust_remote_code=True`.
CODE_FILES = {
    "configuration_segmenter.py",
    "image_processing_pil_segmenter.py",
    "image_processing_segmenter.py",
    "modeling_segmenter.py",
    "windows_segmenter.py",
}


@functools.cache
def load_script(name: str) -> ModuleType:
    """A script as a module, of which tests take functions and classes."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # Annotations of its dataclasses are looked up there.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def tiny_config(**overrides) -> SegmenterConfig:
    """
    A Segmenter of some 30 thousand weights. Encoder and decoder differ in every size, so that no test passes where one
    is taken for the other, and all dropout is off, so that training mode is deterministic.
    """
    settings = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
        "drop_path_rate": 0.0,
        "decoder_hidden_size": 24,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 3,
        "decoder_intermediate_size": 29,
        "decoder_dropout_prob": 0.0,
    }
    if "id2label" not in overrides:
        settings["num_labels"] = 5
    return SegmenterConfig(**{**settings, **overrides})


def random_pixel_values(batch_size: int = 2, height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    """Standard normal `(batch_size, 3, height, width)`, the same for the same arguments."""
    return torch.randn(batch_size, 3, height, width, generator=torch.Generator().manual_seed(seed))


def random_labels(
    batch_size: int = 2, height: int = 32, width: int = 32, num_labels: int = 5, seed: int = 1
) -> torch.Tensor:
    """Uniform labels `(batch_size, height, width)`, the same for the same arguments."""
    return torch.randint(num_labels, (batch_size, height, width), generator=torch.Generator().manual_seed(seed))


def encode_png(values: np.ndarray) -> bytes:
    """`(height, width, channels)` of 16 bits as PNG, which PIL writes for a single channel only."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    # No row is predicted from the one above it.
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def run_in_child(function: Callable[[], object]) -> int:
    """
    Calls `function` in a copy of this process, and returns how that ended: 0, 1 after an error, or the negative number
    of a signal. Only for functions that do without threads, which a copy has not.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def encode_tiff(
    values: np.ndarray, photometric: int = 2, extra_samples: tuple[int, ...] = (), byte_order: str = "<", **tags: int
) -> bytes:
    """
    `(height, width, bands)` of 8 or 16 bits, or floats, as TIFF without compression. PIL writes neither several bands
    of 16 bits nor more than four; `photometric` is 1 for grey, 2 for RGB, 5 for CMYK; `extra_samples` says of each
    further band what it is, 0 for anything. Other tags by their number, such as `_274=6` for the orientation.
    """
    height, width, bands = values.shape
    kind = values.dtype.kind
    entries = {
        **{256: [width], 257: [height], 258: [8 * values.dtype.itemsize] * bands, 259: [1], 262: [photometric]},
        **{273: [0], 277: [bands], 278: [height], 279: [values.nbytes], 284: [1], 338: list(extra_samples)},
        339: [{"u": 1, "i": 2, "f": 3}[kind]] * bands,
        **{int(name[1:]): [value] for name, value in tags.items()},
    }
    entries = {tag: numbers for tag, numbers in sorted(entries.items()) if numbers}
    position = 8 + 2 + 12 * len(entries) + 4
    # What does not fit into an entry comes behind all of them, and the pixels last.
    behind, offsets = b"", {}
    for tag, numbers in entries.items():
        if len(numbers) > 2:
            offsets[tag] = position + len(behind)
            behind += struct.pack(f"{byte_order}{len(numbers)}H", *numbers)
    entries[273] = [position + len(behind)]
    header = {"<": b"II", ">": b"MM"}[byte_order] + struct.pack(f"{byte_order}HIH", 42, 8, len(entries))
    for tag, numbers in entries.items():
        is_long = tag in (273, 279)
        content = struct.pack(f"{byte_order}{len(numbers)}{'I' if is_long else 'H'}", *numbers)
        if tag in offsets:
            content = struct.pack(f"{byte_order}I", offsets[tag])
        header += struct.pack(f"{byte_order}HHI", tag, 4 if is_long else 3, len(numbers)) + content.ljust(4, b"\0")
    pixels = values.astype(values.dtype.newbyteorder(byte_order)).tobytes()
    return header + bytes(4) + behind + pixels


def run_python(
    code: str, *arguments, cwd: Path, with_package: bool = True, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    """
    Runs `code` in a fresh interpreter that works in `cwd` and keeps the caches of transformers and the Hub there, with
    or without `segmenter_hf` importable; offline, or in another `environment`. Fails with the interpreter's output if
    it does not exit with 0.
    """
    if environment is None:
        environment = {**os.environ, "HF_HOME": str(Path(cwd) / "hf_home"), "HF_HUB_OFFLINE": "1"}
    environment = dict(environment)
    if with_package:
        environment["PYTHONPATH"] = str(REPOSITORY)
    else:
        environment.pop("PYTHONPATH", None)
        # An editable install is found by a hook: this one is asked before, and says that there is no such module.
        code = (
            "import sys\n"
            "class HidePackage:\n"
            "    def find_spec(name, path=None, target=None):\n"
            "        if name.partition('.')[0] == 'segmenter_hf':\n"
            "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
            "sys.meta_path.insert(0, HidePackage)\n"
        ) + code
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, f"exit code {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


class ForkedScript:
    """
    A script in a process of its own, which may be killed. It starts as a copy of an interpreter that has imported the
    libraries already, which takes a fresh one seconds.

    Args:
        script (`str`): Its name, such as `"convert_checkpoint.py"`.
        arguments: Its arguments.
        cwd (`Path`): The folder that it works in. It prints to `stdout.txt` and `stderr.txt` there.
        environment (`dict[str, str]`): Its environment.
    """

    def __init__(self, script: str, *arguments, cwd: Path, environment: dict[str, str]):
        self.outputs = [Path(cwd) / "stdout.txt", Path(cwd) / "stderr.txt"]
        command = [str(REPOSITORY / "scripts" / script), *map(str, arguments)]
        self.process = FORKS.Process(target=_run_forked, args=(command, cwd, environment, self.outputs))
        self.process.start()

    def kill(self) -> int:
        """Kills it, and returns its exit code."""
        self.process.kill()
        self.process.join()
        return self.process.exitcode

    def finish(self) -> subprocess.CompletedProcess:
        """Waits for its end."""
        self.process.join(300)
        stdout, stderr = (file.read_text() for file in self.outputs)
        return subprocess.CompletedProcess(self.process.name, self.process.exitcode, stdout, stderr)


def _run_forked(command: list[str], cwd: Path, environment: dict[str, str], outputs: list[Path]):
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    # Libraries read these from the environment when they are imported.
    importlib.reload(huggingface_hub.constants)
    for number, file in enumerate(outputs, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")
