"""Pack rows as plain files: Parquet, npy arrays, or the tar files of WebDataset.

The bytes depend on the rows alone: no times, no users, fixed compression.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.store.origins.table import Origin


@dataclass(frozen=True)
class Part:
    """The rows of one shard."""

    number: int
    rows: NDArray[np.int64]
    """[n] row numbers."""
    origins: Sequence[Origin]
    arrays: Mapping[str, NDArray[Any]]
    """Layer name -> [n, *shape], as they are stored."""
    spacing: NDArray[np.float64] | None = None
    """[n, 2] millimetres per stored pixel, down and across, NaN where not known; None: the store knows of no row."""

    def columns(self) -> dict[str, list[Any]]:
        """Return what is known of each row, a list a column."""
        found: dict[str, list[Any]] = {"row": self.rows.tolist()}
        for name in ("path", "dataset", "group", "label", "split"):
            found[name] = [getattr(origin.source, name) for origin in self.origins]
        found |= {"frame": [one.frame for one in self.origins], "view": [one.view for one in self.origins]}
        if self.spacing is not None:
            for name, lengths in zip(_LENGTHS, self.spacing.T.tolist(), strict=True):
                found[name] = [None if math.isnan(length) else length for length in lengths]  # JSON has no NaN
        return found


_LENGTHS = ("spacing_down", "spacing_across")
"""Columns of numbers that may all be unknown, from which no type could be told."""


def file_name(layer: str) -> str:
    """Return a layer's name as files and columns have it."""
    return layer.replace("/", "-")


def _parquet(columns: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> bytes:
    sink = io.BytesIO()
    lengths = {name: pa.array(columns[name], pa.float64()) for name in _LENGTHS if name in columns}
    table = pa.table({**columns, **lengths})
    table = table.replace_schema_metadata({"shapes": json.dumps({name: list(shape) for name, shape in shapes.items()})})
    pq.write_table(table, sink, compression="zstd", store_schema=True)
    return sink.getvalue()


def pack_parquet(part: Part) -> dict[str, bytes]:
    """Return one Parquet file: a line a row, a layer a list of fixed length, its shape in the file's metadata."""
    columns: dict[str, Any] = part.columns()
    for name, array in part.arrays.items():
        flat = pa.array(np.ascontiguousarray(array).reshape(-1))
        columns[file_name(name)] = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(array.shape[1:])))
    shapes = {file_name(name): array.shape[1:] for name, array in part.arrays.items()}
    return {f"part-{part.number:06d}.parquet": _parquet(columns, shapes)}


def pack_npy(part: Part) -> dict[str, bytes]:
    """Return an npy file a layer, [n, *shape], and a Parquet file that says what the rows are."""
    files = {f"{file_name(name)}-{part.number:06d}.npy": _npy(array) for name, array in part.arrays.items()}
    return {**files, f"rows-{part.number:06d}.parquet": _parquet(part.columns(), {})}


def _npy(array: NDArray[Any]) -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.ascontiguousarray(array), allow_pickle=False)
    return sink.getvalue()


def pack_webdataset(part: Part) -> dict[str, bytes]:
    """Return one tar file: of each row an npy file a layer, and a JSON file that says what it is."""
    columns = part.columns()
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for i, row in enumerate(part.rows.tolist()):
            told = {name: values[i] for name, values in columns.items()}
            _add(tar, f"{row:012d}.json", json.dumps(told, sort_keys=True).encode())
            for name, array in part.arrays.items():
                _add(tar, f"{row:012d}.{file_name(name)}.npy", _npy(array[i]))
    return {f"part-{part.number:06d}.tar": sink.getvalue()}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    tar.addfile(entry, io.BytesIO(data))


FORMATS: dict[str, Callable[[Part], dict[str, bytes]]] = {
    "parquet": pack_parquet,
    "npy": pack_npy,
    "webdataset": pack_webdataset,
}
"""Format -> what returns the files of a part, by name."""


def names_of(format_: str, number: int, layers: Sequence[str]) -> list[str]:
    """Return the names of a part's files."""
    if format_ == "npy":
        return [*(f"{file_name(name)}-{number:06d}.npy" for name in layers), f"rows-{number:06d}.parquet"]
    return [f"part-{number:06d}.{'tar' if format_ == 'webdataset' else 'parquet'}"]
