"""
Recognises, by their first bytes, the files that lie where a checkpoint should: what servers answer instead of one, and
what stands for one in a repository.
"""

import re
from typing import NamedTuple


# So many bytes are enough to tell.
START_LENGTH = 512


class OtherFile(NamedTuple):
    """
    A kind of file that is no checkpoint.

    Args:
        kind (`str`): With an article.
        remedy (`str`): A sentence.
    """

    kind: str
    remedy: str


_FAILED_DOWNLOAD = "Did the download end on an error page?"
# How files of each kind begin, after blanks and a byte order mark. A header of safetensors, whose first bytes are a
# number, may begin with a few of these characters too, but never goes on with text.
_STARTS = [
    (rb"<(!doctype html|html|head|body|title|!--)", OtherFile("a web page", _FAILED_DOWNLOAD)),
    (rb"<(\?xml|!doctype|[a-z]{2,})", OtherFile("an XML document", _FAILED_DOWNLOAD)),
    (rb"[{\[]\s*[\"{\[][\s\w\"'{\[]", OtherFile("a JSON document", "Is it an error that a server answered?")),
    (
        rb"version https://git-lfs",
        OtherFile("a pointer of Git LFS", "Get the file that it stands for: git lfs pull, in its repository."),
    ),
]
EMPTY_FILE = OtherFile("an empty file", "Copy or download it again.")
TORCHSCRIPT = OtherFile("a TorchScript archive", "Save the weights in it: torch.save(model.state_dict(), path).")


def recognise_other_file(start: bytes) -> OtherFile | None:
    """
    The kind of a file that is no checkpoint.

    Args:
        start (`bytes`): Its first bytes, `START_LENGTH` of them if there are so many.

    Returns:
        `OtherFile`, or `None` if it may be a checkpoint.
    """
    if not start:
        return EMPTY_FILE
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        start = start.decode("utf-16", errors="ignore").encode()
    start = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    return next((other for pattern, other in _STARTS if re.match(pattern, start, re.IGNORECASE)), None)


__all__ = ["EMPTY_FILE", "START_LENGTH", "TORCHSCRIPT", "OtherFile", "recognise_other_file"]
