"""Hold columns as NumPy arrays, and write and read them as Parquet.

The bytes are a pure function of the values and of pyarrow's version: no timestamps, no pandas metadata, one row group,
fixed compression. So a build that was killed and resumed writes the same file as one that was not. A column that says
nothing of any line is not written, and what is not there is unknown: tables of older versions are read, and those of
sources that say no more stay the same bytes.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from usjepa.cache.errors import DamageError
from usjepa.cache.places.growing import GrowingColumn
from usjepa.cache.places.spill import Spill

if TYPE_CHECKING:
    import dataclasses
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

_TableT = TypeVar("_TableT", bound="Columns")

_INTEGERS = dict.fromkeys(
    ("source", "frame", "view", "top", "left", "height", "width", "frames", "passed_over"), pa.int32()
)
_FLAGS = dict.fromkeys(("flip_horizontal", "flip_vertical"), pa.bool_())
LENGTHS = dict.fromkeys(("spacing_down", "spacing_across"), pa.float64())
"""Columns of millimetres per pixel, NaN where it is not known."""
_TYPES: dict[str, pa.DataType] = _INTEGERS | _FLAGS | LENGTHS
"""Type on disk of every column; the ones not named here are strings."""
_UNSAID: dict[str, float] = {**dict.fromkeys(LENGTHS, np.nan), "passed_over": 0}
"""Columns that are written only where they say something of a line, and what stands for nothing said."""

BATCH = 1 << 16
"""Lines that are decoded at a time, where not all are wanted at once."""
_LITTLE_TEXT_NBYTES, _BUFFER_NBYTES = 4 << 20, 1 << 18


_NUMPY: dict[pa.DataType, Any] = {
    pa.int32(): np.int32, pa.bool_(): np.bool_, pa.string(): np.object_, pa.float64(): np.float64,
}  # fmt: skip


def nothing() -> NDArray[Any]:
    """Return the default of a column that need not be given."""
    return np.empty(0)


def _unsaid(name: str, count: int) -> NDArray[Any]:
    """Return a column that says nothing of so many lines, in the memory of one."""
    return np.broadcast_to(np.array(_UNSAID[name], _NUMPY[_TYPES[name]]), count)


def _says(name: str, column: NDArray[Any]) -> bool:
    """Return whether a column says anything; those that every table has always do."""
    if name not in _UNSAID:
        return True
    return bool((~np.isnan(column) if column.dtype.kind == "f" else column != _UNSAID[name]).any())


class Columns:
    """What both tables share: equal column lengths, slicing, equality, and Parquet in both directions."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def __post_init__(self) -> None:
        count = len(getattr(self, next(iter(self.__dataclass_fields__))))
        for name in _UNSAID.keys() & self.__dataclass_fields__.keys():
            if not len(getattr(self, name)):
                object.__setattr__(self, name, _unsaid(name, count))
        lengths = {name: len(column) for name, column in self.columns().items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{type(self).__name__}: columns of unequal length: {lengths}")

    def __len__(self) -> int:
        return len(next(iter(self.columns().values())))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        mine, theirs = self.columns(), other.columns()
        return mine.keys() == theirs.keys() and all(
            np.array_equal(mine[name], theirs[name], equal_nan=name in LENGTHS) for name in mine
        )

    __hash__ = None  # type: ignore[assignment]  # compares by value, and arrays can change

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return name -> array of the columns that say something, in the table's column order."""
        columns = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: column for name, column in columns.items() if _says(name, column)}

    def take(self: _TableT, which: slice | NDArray[Any]) -> _TableT:
        """Return the table of the chosen rows: a slice, indices or a mask."""
        return type(self)(**{name: getattr(self, name)[which] for name in self.__dataclass_fields__})

    @classmethod
    def joined(cls: type[_TableT], tables: Sequence[_TableT]) -> _TableT:
        """Return the lines of one table or more, one after the other."""
        names = cls.__dataclass_fields__
        return cls(**{name: np.concatenate([getattr(table, name) for table in tables]) for name in names})

    def to_parquet(self) -> bytes:
        """Return the table as the bytes of a Parquet file."""
        types = _types(type(self))
        return bytes(_parquet({name: pa.array(column, type=types[name]) for name, column in self.columns().items()}))

    @classmethod
    def from_parquet(cls: type[_TableT], data: bytes, most: int | None = None) -> _TableT:
        """Return the table that `to_parquet` wrote.

        Args:
            data: the file's bytes.
            most: refuse a table of more lines before anything is allocated for them; none: as many as it has bytes.

        Raises:
            DamageError: these bytes are not such a table.
        """
        names = tuple(cls.__dataclass_fields__)
        return cls(**dict(zip(names, read_columns(cls, data, names, most), strict=True)))


def parquet_of(kind: type[_TableT], parts: Iterable[_TableT]) -> tuple[memoryview, int]:
    """Return the Parquet bytes of the lines of some tables, one after the other, and their number.

    The bytes are those of `to_parquet` of all of them joined. One part is held at a time: the values of all, and these
    bytes, lie in temporary files where they are many. Raises WriteError where those can't be written.
    """
    types, count = _types(kind), 0
    grown = {name: GrowingColumn(type_) for name, type_ in types.items() if name not in _UNSAID}
    for part in parts:
        for name in part.columns():
            if name not in grown:
                grown[name] = GrowingColumn(types[name])
                grown[name].add(_unsaid(name, count))
        for name, growing in grown.items():
            growing.add(getattr(part, name))
        count += len(part)
    return _parquet({name: grown[name].array() for name in types if name in grown}), count


class _Sink(io.RawIOBase):
    """Takes what Arrow writes."""

    def __init__(self) -> None:
        self.spill = Spill()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return len(self.spill)

    def write(self, data: Any) -> int:
        self.spill.add(data)
        return len(data)


def _parquet(columns: dict[str, pa.Array | pa.ChunkedArray]) -> memoryview:
    table, sink = pa.table(columns), _Sink()
    pq.write_table(table, sink, row_group_size=max(len(table), 1), compression="zstd", store_schema=False)
    return sink.spill.view()


def as_file(data: bytes | memoryview) -> BinaryIO:
    """Return the bytes of a table as a file, which are not copied."""
    file: BinaryIO = pa.BufferReader(data)
    return file


def batches(
    kind: type[Columns], data: BinaryIO, names: Sequence[str], most: int | None = None, lines: int = BATCH
) -> Iterator[list[NDArray[Any]]]:
    """Yield columns of the Parquet file of a table of that kind, so many lines at a time; see `from_parquet`."""
    file, found = _opened(kind, data, names, most, _LITTLE_TEXT_NBYTES)
    left, wanted = file.metadata.num_rows, [name for name in names if name in found]
    if not wanted:
        yield from ([_unsaid(name, min(lines, left - start)) for name in names] for start in range(0, left, lines))
        return
    try:
        for batch in file.iter_batches(lines, columns=wanted, use_threads=False):
            left -= batch.num_rows
            yield _columns_of(kind, pa.Table.from_batches([batch]), names, found)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(kind, error) from error
    finally:
        pa.default_memory_pool().release_unused()  # Arrow would keep what it decoded into
    if left:
        raise _of_other_length(kind, file)


def lines_of(kind: type[Columns], data: BinaryIO) -> int:
    """Return how many lines the Parquet file of a table of that kind has; raises DamageError as `from_parquet`."""
    return int(_opened(kind, data, (), None)[0].metadata.num_rows)


def read_columns(kind: type[Columns], data: bytes, names: Sequence[str], most: int | None) -> list[NDArray[Any]]:
    """Return columns of the Parquet bytes of a table of that kind; see `from_parquet`."""
    file, found = _opened(kind, io.BytesIO(data), names, most)
    try:
        table = file.read(columns=[name for name in names if name in found], use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(kind, error) from error
    columns = _columns_of(kind, table, names, found)
    if {len(column) for column in columns} - {file.metadata.num_rows}:
        raise _of_other_length(kind, file)
    return columns


def _opened(
    kind: type[Columns], data: BinaryIO, names: Sequence[str], most: int | None, most_text: float = math.inf
) -> tuple[pq.ParquetFile, Collection[str]]:
    """Return the Parquet file of a table of that kind, columns and number of lines checked, and which columns it has.

    Text of columns of at most `most_text` bytes stays in dictionaries: a forged file can't make a long text be copied
    once a line. But a dictionary grows from batch to batch, so in batches columns of much text are read without.
    """
    who, every = kind.__name__, _types(kind)
    try:
        size = data.seek(0, io.SEEK_END)
        described = pq.ParquetFile(data, pre_buffer=False, buffer_size=_BUFFER_NBYTES)
        lines, found = described.metadata.num_rows, {field.name: field.type for field in described.schema_arrow}
        if not 0 <= lines <= (size if most is None else most):
            raise DamageError(f"{who}: {lines:,} lines are not plausible: damaged or forged.")
        expected = {name: type_ for name, type_ in every.items() if name not in _UNSAID or name in found}
        if {name: found.get(name) for name in expected} != expected:  # columns of later versions are left alone
            raise DamageError(f"{who}: columns {_told(found)} where {_told(expected)} were written.")
        texts = [name for name in names if every[name] == pa.string()]
        if most_text < math.inf:
            texts = [name for name in texts if _text_nbytes(described, name) <= most_text]
        # No threads of Arrow's: one that lets go of these bytes while Python ends aborts the process (SIGABRT). And a
        # buffer, or all of a column would be read before its first line.
        file = pq.ParquetFile(data, read_dictionary=texts, pre_buffer=False, buffer_size=_BUFFER_NBYTES)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(kind, error) from error
    return file, found


def _types(kind: type[Columns]) -> dict[str, pa.DataType]:
    return {name: _TYPES.get(name, pa.string()) for name in kind.__dataclass_fields__}


def _text_nbytes(file: pq.ParquetFile, name: str) -> int:
    """Return how many bytes a column of a file has, unpacked."""
    place, groups = file.schema_arrow.get_field_index(name), range(file.metadata.num_row_groups)
    for group in groups:
        # Arrow checks here what the file says of the column: it raises, where the line below would abort the process.
        next(file.iter_batches(1, row_groups=[group], columns=[name], use_threads=False), None)
    return sum(file.metadata.row_group(group).column(place).total_uncompressed_size for group in groups)


def _columns_of(
    kind: type[Columns], table: pa.Table, names: Sequence[str], found: Collection[str]
) -> list[NDArray[Any]]:
    who, types = kind.__name__, _types(kind)
    return [
        _to_numpy(who, table.column(name), types[name]) if name in found else _unsaid(name, table.num_rows)
        for name in names
    ]


def _unreadable(kind: type[Columns], error: Exception) -> DamageError:
    return DamageError(f"{kind.__name__}: bytes that are no Parquet table ({error}).")


def _of_other_length(kind: type[Columns], file: pq.ParquetFile) -> DamageError:
    lines = file.metadata.num_rows
    return DamageError(f"{kind.__name__}: its columns do not hold {lines:,} lines each: damaged or forged.")


def _to_numpy(table: str, column: pa.ChunkedArray, kind: pa.DataType) -> NDArray[Any]:
    if column.null_count:
        raise DamageError(f"{table}: a cell without a value: damaged or forged.")
    parts = []
    try:
        if not pa.types.is_dictionary(column.type):
            return np.asarray(column.to_numpy(), dtype=_NUMPY[kind])
        for chunk in column.chunks:
            places = chunk.indices.to_numpy(zero_copy_only=False)
            if len(places) and not 0 <= places.min() <= places.max() < len(chunk.dictionary):
                raise DamageError(f"{table}: a cell names no text: damaged or forged.")
            used, place = np.unique(places, return_inverse=True)
            texts = np.empty(len(used), dtype=object)
            texts[:] = chunk.dictionary.take(pa.array(used)).to_pylist()
            parts.append(texts[place])
    except UnicodeDecodeError as error:
        raise DamageError(f"{table}: a cell that is not UTF-8: damaged or forged.") from error
    return np.concatenate(parts) if parts else np.empty(0, dtype=object)


def _told(kinds: dict[str, pa.DataType]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
