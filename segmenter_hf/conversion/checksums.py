"""
Tells whether a file of weights is still what was written. Zip archives, which `torch.save` has written since PyTorch
1.6 and NumPy writes as `.npz`, hold a checksum of each record. Older files of PyTorch and those of safetensors hold
none: only their SHA-256 tells, if it is compared with that of whoever published them.
"""

import hashlib
import zipfile
from pathlib import Path

from .errors import ConversionError, refuse_os_errors


def has_checksums(archive: zipfile.ZipFile) -> bool:
    """Whether there are any: after `torch.serialization.set_crc32_options(False)` they are 0 in all records."""
    records = [record for record in archive.infolist() if record.file_size]
    return not records or any(record.CRC for record in records)


def check_records(path: Path, archive: zipfile.ZipFile):
    """
    Reads all records, a piece at a time, and compares what they hold with their checksums.

    Raises:
        ConversionError: if one differs, naming the first that does.
        zipfile.BadZipFile, OSError, RuntimeError, zlib.error: if they cannot be read at all.
    """
    damaged = archive.testzip()
    if damaged is not None:
        raise ConversionError(
            f"{path} is damaged: what it holds does not fit its checksums, in {damaged}. Remove it, and copy or "
            "download it again."
        )


def sha256_of(path: Path) -> str:
    """
    The SHA-256 of a file, in hexadecimal digits.

    Raises:
        ConversionError: if it cannot be read.
    """
    with refuse_os_errors(f"{path} cannot be read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


__all__ = ["check_records", "has_checksums", "sha256_of"]
