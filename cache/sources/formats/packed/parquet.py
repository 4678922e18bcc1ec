"""Read images in the cells of Parquet files, as Hugging Face stores them.

Each is a source, `a.parquet::image/17`. A column of images is one of bytes, alone or beside their path in a structure.
Labels, groups and splits come from the columns that a manifest would have; names of labels from what Hugging Face
writes beside them. A file called `test-00000-of-00002.parquet` is of that split.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import UsageError
from usjepa.cache.interrupt import safe_point
from usjepa.cache.sources.base import Described, Reader
from usjepa.cache.sources.columns import (
    GROUP_COLUMNS,
    LABEL_COLUMNS,
    called,
    column_of_splits,
    is_missing,
    plain,
)
from usjepa.cache.sources.formats.images import ImageReader
from usjepa.cache.sources.formats.packed.memory import MemoryFiles
from usjepa.cache.sources.splits import KNOWN, names_split, split_named, split_of_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from numpy.typing import NDArray

    from usjepa.cache.sources.base import FileFacts

_MASKS = re.compile(r"(?:.*_)?(masks?|labels?|seg|segmentations?|annotations?|gt)(?:_.*)?", re.I)
_SHARD = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")
_MOST_CELLS = 1 << 22


class ParquetReader(Reader):
    """Read images of Parquet files; keep the row group that was read last."""

    name = "parquet"
    version = 2
    title = "Parquet with images"
    endings = (".parquet",)
    container = True
    frames_apart = True

    def __init__(self) -> None:
        self._cells: tuple[Path, str, int, Any] | None = None
        self._images = ImageReader()
        self._held: tuple[Path, str, MemoryFiles, Path] | None = None

    def images(self, file: Path) -> list[str]:
        """Return the names of the images, `column/row`, rows with as many digits as the last needs."""
        with _opened(file) as opened:
            count = opened.metadata.num_rows
            if count > _MOST_CELLS:
                raise ValueError(f"it claims {count:,} rows; at most {_MOST_CELLS:,} are read")
            digits = len(str(max(count - 1, 0)))
            return [f"{column}/{row:0{digits}}" for column in _columns(opened) for row in range(count)]

    def doubts(self, file: Path) -> Mapping[str, str]:
        """Return the images of columns that are called like masks."""
        names = {name: _MASKS.fullmatch(name.rpartition("/")[0]) for name in self.images(file)}
        return {name: f"{match[1].lower()}, by its name" for name, match in names.items() if match}

    def described(self, file: Path) -> Mapping[str, Described]:
        """Return label, group and split of each image; UsageError for a split that is not known, or splits alone."""
        with _opened(file) as opened:
            texts = _Texts(file.name, opened)
            if not _columns(opened) and (names_split(file.stem) or texts.split_column() is not None):
                raise UsageError(
                    f"{file.name}: it holds splits and no images. Test frames could be trained on: write a "
                    "manifest.csv with the columns path, group and split from it, or move it out of the source."
                )
            labels, groups = texts.of(LABEL_COLUMNS), texts.of(GROUP_COLUMNS, insist=True)
            splits = _splits(file, texts)
            count = opened.metadata.num_rows
        rows = [
            Described(labels[row] if labels else "", groups[row] if groups else "", splits[row] if splits else "")
            for row in range(count)
        ]
        return {name: rows[int(name.rpartition("/")[2])] for name in self.images(file)}

    def probe(self, file: Path, image: str) -> FileFacts:
        """Decode an image and return its facts; ValueError where there is none."""
        self._cells = self._held = None
        if not image:
            with _opened(file) as opened:
                held = ", ".join(f"{field.name} {field.type}" for field in opened.schema_arrow)
            raise ValueError(f"none of its columns holds images as bytes: it has {held or 'none'}")
        return self._images.probe(self._unpacked(file, image))

    def frames(self, file: Path, image: str, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield frames of an image; but for TIFF and WebP it has one."""
        yield from self._images.frames(self._unpacked(file, image), "", wanted)

    def _unpacked(self, file: Path, image: str) -> Path:
        if self._held is None or self._held[:2] != (file, image):
            files = MemoryFiles()
            self._held = (file, image, files, files.add("image", [self._bytes(file, image)]))
            self._images = ImageReader()  # it knows files by their paths
        return self._held[3]

    def _bytes(self, file: Path, image: str) -> bytes:
        column, _, number = image.rpartition("/")
        row = int(number)
        with _opened(file) as opened:
            if column not in _columns(opened) or not 0 <= row < opened.metadata.num_rows:
                raise ValueError(f"it holds no image {image!r}")
            group = 0
            while row >= opened.metadata.row_group(group).num_rows:
                row -= opened.metadata.row_group(group).num_rows
                group += 1
            if self._cells is None or self._cells[:3] != (file, column, group):
                cells = opened.read_row_group(group, columns=[column], use_threads=False).column(column)
                self._cells = (file, column, group, cells)
        cell = self._cells[3][row].as_py()
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if data is None:
            where = cell.get("path") if isinstance(cell, dict) else None
            raise ValueError(
                f"its cell {image!r} is empty" + (f": the image lies elsewhere, in {where!r}" if where else "")
            )
        return bytes(data)


def _opened(file: Path) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    safe_point()
    return pq.ParquetFile(file, pre_buffer=False, memory_map=False)


def _columns(opened: pq.ParquetFile) -> list[str]:
    """Return the columns of images: structures with bytes, and bytes alone."""
    return [field.name for field in opened.schema_arrow if _holds_bytes(field.type)]


def _holds_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        names = [kind.field(place).name for place in range(kind.num_fields)]
        return "bytes" in names and _holds_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


class _Texts:
    """The columns of a file that describe its images, as text."""

    def __init__(self, name: str, opened: pq.ParquetFile) -> None:
        self.name, self.count, self._opened = name, opened.metadata.num_rows, opened
        images = _columns(opened)
        self.columns = [field.name for field in opened.schema_arrow if field.name not in images]

    def of(self, names: Sequence[str], insist: bool = False) -> list[str] | None:
        """Return the cells of the first column that is called one of these, "" for those that hold nothing.

        None where none is called so, or it holds neither text nor numbers; with `insist`, that is an error.

        Raises:
            UsageError: the column holds something else, and who would miss it can't know.
        """
        column = called(self.columns, names)
        if column is None:
            return None
        if not _is_text(self._kind(column)):
            if insist:
                raise UsageError(
                    f"{self.name}: its column `{column}` is {self._kind(column)}, neither text nor numbers. Write it "
                    "as text, or rename it."
                )
            return None
        classes = _classes(self._opened, column)
        return [_named(cell, classes) for cell in self._cells(column)]

    def split_column(self) -> str | None:
        """Return the column of splits; UsageError where it is not clear which one that is."""
        if (own := called(self.columns, ["split"])) is not None:
            return own
        texts = [name for name in self.columns if _is_text(self._kind(name))]
        return column_of_splits(texts, lambda name: set(map(_as_text, self._cells(name))), self.name)

    def _kind(self, column: str) -> pa.DataType:
        return self._opened.schema_arrow.field(column).type

    def _cells(self, column: str) -> list[Any]:
        cells: list[Any] = self._opened.read(columns=[column], use_threads=False).column(column).to_pylist()
        return cells


def _is_text(kind: pa.DataType) -> bool:
    """Return whether a column holds text or numbers, however they are written: Parquet has half a dozen ways."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = ("string", "large_string", "string_view", "integer", "floating", "boolean", "decimal", "null")
    return any(getattr(pa.types, f"is_{test}")(kind) for test in tests)


def _as_text(cell: object) -> str:
    """Return a cell as text: whole numbers without a point, "" for what is missing."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    text = "" if cell is None else str(cell)
    return "" if is_missing(text) else text.strip()


def _named(cell: object, classes: Sequence[str]) -> str:
    return classes[cell] if isinstance(cell, int) and 0 <= cell < len(classes) else _as_text(cell)


def _classes(opened: pq.ParquetFile, column: str) -> list[str]:
    """Return the names of a column's classes, as Hugging Face keeps them beside the schema."""
    try:
        kept = json.loads((opened.schema_arrow.metadata or {})[b"huggingface"])
        return [str(name) for name in kept["info"]["features"][column]["names"]]
    except (KeyError, TypeError, ValueError):
        return []


def _splits(file: Path, texts: _Texts) -> list[str] | None:
    """Return the split of each row: of a column, else of the file's name; UsageError where it is not known."""
    column = texts.split_column()
    own = None if column is None else texts.of([plain(column)], insist=True)
    shard = _SHARD.fullmatch(file.stem)
    if own is None:
        try:
            known = split_named(shard["split"]) if shard else split_of_folder(file.stem)
        except ValueError:
            known = None
        if known is None:
            raise UsageError(f"{file.name}: which split it is can't be told. Rename the file; splits are {KNOWN}.")
        return [known] * texts.count
    found = {name: split_named(name) for name in set(own)}
    if None in found.values():
        unknown = next(name for name, split in found.items() if split is None)
        raise UsageError(f"{file.name}: the split {unknown!r} is not known; write {KNOWN}, or leave the cell empty.")
    return [found[name] or "" for name in own]
