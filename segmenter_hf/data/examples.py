"""Images and label maps of a split, as training and evaluation read them, and what their files are called."""

import contextlib
import functools
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image as PILImage

from .image_files import ImageFile, UnreadableImageError, read_image_file


# Pillow, `datasets` and the image processor raise these on bad files and values. Others are errors of programs.
EXAMPLE_ERRORS = (
    *(EOFError, OSError, OverflowError, SyntaxError, ValueError, struct.error, zlib.error),
    PILImage.DecompressionBombError,
)


class ColumnNames(NamedTuple):
    """
    Names of the two columns of a dataset. Once it is loaded, they are those of [`COLUMNS`], and what they were called
    before is kept in one of these.

    Args:
        image (`str`): The column of the images.
        annotation (`str`): The column of the label maps.
    """

    image: str
    annotation: str


COLUMNS = ColumnNames("image", "annotation")


class ExampleError(ValueError):
    """An example that cannot be used. The message is one line, which names its files where those are known."""

    def __init__(self, message: str):
        # Torch wraps an error of a worker in one whose message is the traceback, which ends in the first message.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[-1].strip())


def require_length(examples: Any):
    """
    Raises:
        ValueError: for streaming datasets and generators, whose examples cannot be counted and read by their number;
            and for several splits in place of one.
    """
    if isinstance(examples, Mapping):
        for split in examples.values():
            require_length(split)
        raise ValueError(
            f"Expected the examples of one split, got {type(examples).__name__} of {', '.join(map(str, examples))}. "
            "Pass one of those."
        )
    if not hasattr(examples, "__len__") or not hasattr(examples, "__getitem__"):
        raise ValueError(
            f"Expected examples that are read by their number, such as a `datasets.Dataset` or a list, got "
            f"{type(examples).__name__}: streaming is not supported. Load the dataset without "
            "`streaming=True`, or store what it yields: `Dataset.from_generator(lambda: iter(stream), "
            "features=stream.features)`, with `stream.take(n)` for the first ones."
        )


def require_columns(examples: Any, columns: Sequence[str] = COLUMNS):
    """
    Raises:
        ValueError: for what [`require_length`] refuses, and for datasets whose columns are called differently.
    """
    require_length(examples)
    found = getattr(examples, "column_names", columns)
    if not set(columns) <= set(found):
        raise ValueError(
            f"Expected examples with the columns {' and '.join(columns)}, got {found}. Rename yours: "
            '`dataset.rename_columns({"photo": "image", "mask": "annotation"})`.'
        )


class ExampleFile:
    """
    An image as `datasets` stores it.

    Args:
        value (`dict`): Its path or its bytes; `None` where there is no image.
        row (`str`): What it is called if it is no file.
    """

    def __init__(self, value: dict | None, row: str):
        path, content = (value or {}).get("path"), (value or {}).get("bytes")
        # A file that is embedded is in its row, and its path is only a name.
        self.name = row if path is None else path if content is None else f"{row} ({path})"
        self.source = path if content is None else content

    def read(self, with_pixels: bool, all_bands: bool = False) -> ImageFile:
        if self.source is None:
            raise UnreadableImageError("there is none")
        return read_image_file(self.source, with_pixels, all_bands)


class ExampleReader:
    """
    Reads examples by their number. The image files of a `datasets.Dataset` are decoded as `datasets` does, but from
    regular files only, whatever texts they hold, and images with all bits and bands.

    Args:
        examples (`Sequence[dict]`): With an `image` and an `annotation` each, such as a `datasets.Dataset`.
        columns (`Sequence[str]`, *optional*): Those to read. Default: both.

    Raises:
        ValueError: for streaming datasets, and those without these columns.
    """

    def __init__(self, examples: Sequence[dict[str, Any]], columns: Sequence[str] = COLUMNS):
        require_length(examples)
        # A transform of users may make these columns of others.
        if not (hasattr(examples, "format") and examples.format["type"] == "custom"):
            require_columns(examples, columns)
        self.examples = examples
        self.columns = {column: {"image": "image", "annotation": "label map"}[column] for column in columns}
        # These columns are decoded here, into the mode that their feature asks for, if any.
        self.modes: dict[str, str | None] = {}
        # Where users have set a format or a transform, that decides on what is read.
        if hasattr(examples, "cast_column") and examples.format["type"] is None:
            # The import is here because the protocols work without `datasets`.
            from datasets import Image

            for column in self.columns:
                feature = examples.features.get(column)
                if isinstance(feature, Image):
                    self.modes[column] = feature.mode
                    self.examples = self.examples.cast_column(column, Image(decode=False))
            if set(self.modes) == set(self.columns):
                # Other columns would be decoded with each row.
                self.examples = self.examples.select_columns(list(self.columns))

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """
        An image, unless those are left out, and its label map: PIL images, upright and in the modes of their files, or
        what the examples hold in their place; for images of which Pillow does not have all, arrays `(height, width,
        bands)`.

        Raises:
            UnreadableImageError: if a file cannot be read, for whatever reason.
        """
        example = self.examples[index]
        return tuple(self._decode(example, column) for column in self.columns)

    def _decode(self, example: dict[str, Any], column: str) -> Any:
        if column not in self.modes:
            return example[column]
        mode = self.modes[column]
        all_bands = self.columns[column] == "image" and mode is None
        try:
            image = ExampleFile(example[column], "").read(with_pixels=True, all_bands=all_bands).pixels
        except UnreadableImageError as error:
            raise UnreadableImageError(f"the {self.columns[column]} cannot be read: {error}") from error
        return image if mode is None or mode == image.mode else image.convert(mode)

    def describe(self, index: int) -> str:
        """The files of an example, or where they are embedded; empty if nothing is known of them."""
        if not self.modes:
            return ""
        example = self.examples[index]
        files = [example[column] or {} for column in self.modes]
        paths = ", ".join(dict.fromkeys(file["path"] for file in files if file.get("path") is not None))
        if all(file.get("bytes") is None for file in files) and paths:
            return paths
        row = row_name(self.examples, index, str(self.examples.split or "the dataset"))
        # The path of an embedded file is only a name.
        return f"{row} ({paths})" if paths else row

    @contextlib.contextmanager
    def naming(self, index: int, what: str = "Example", use: str = "used") -> Iterator[None]:
        """
        Turns what goes wrong with an example into one line that names it.

        Args:
            index (`int`): Which.
            what (`str`, *optional*, defaults to `"Example"`): What it is called.
            use (`str`, *optional*, defaults to `"used"`): What cannot be done with it.

        Raises:
            ExampleError: if it cannot be read, or has values that do not do.
        """
        try:
            yield
        except EXAMPLE_ERRORS as error:
            where = self.describe(index)
            where = f" ({where})" if where else ""
            remedy = ""
            if isinstance(error, UnreadableImageError):
                remedy = ". Replace or remove it; training leaves such examples out with --skip_unreadable."
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ExampleError(f"{what} {index}{where} cannot be {use}: {reason}{remedy}") from error


def remember_files(dataset: Any, files: Iterable[str]):
    """Keeps with a `datasets.Dataset`, and with all that is selected of it, from which parquet files it is."""
    dataset.info.download_checksums = {str(file): {} for file in files}


def row_name(dataset: Any, index: int, split: str) -> str:
    """What a row of a `datasets.Dataset` is called: by its parquet file, if that is known."""
    numbers = _count_rows(tuple(dataset.info.download_checksums or ()))
    # Rows are counted in parquet files only, and where a dataset is but a part of those, it is not known which.
    if sum(numbers.values()) == len(dataset.data):
        # A dataset of selected rows keeps the places in which they are stored.
        stored = dataset._indices
        row = index if stored is None else stored.column(0)[index].as_py()
        for file, number in numbers.items():
            if row < number:
                return f"row {row} of {file}"
            row -= number
    return f"row {index} of {split}"


@functools.lru_cache(maxsize=8)
def _count_rows(files: tuple[str, ...]) -> dict[str, int]:
    import pyarrow.parquet as pq

    parquet = [file for file in files if file.endswith(".parquet") and os.path.isfile(file)]
    return {file: pq.read_metadata(file).num_rows for file in parquet}


__all__ = [
    "COLUMNS",
    "ColumnNames",
    "ExampleError",
    "ExampleFile",
    "ExampleReader",
    "remember_files",
    "require_columns",
    "require_length",
    "row_name",
]
