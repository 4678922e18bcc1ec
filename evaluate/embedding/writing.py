"""Write features and what is known of their frames as Parquet, NumPy, CSV or Zarr.

| kind | features | what is known of the frames |
|---|---|---|
| `.parquet` | column `features`, a list of F float32 | a column each |
| `.npy` | float32 [n, F] | `NAME.csv` beside it, a line per row of the array |
| `.csv` | columns `f0`, `f1`, ... | a column each |
| `.zarr` | array `features`, float32 [n, F] | an array [n] each |

A file appears whole or not at all. Where a kind has room for it, the encoder's identity goes along, as JSON.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.storage.durable import TEMP_SUFFIX, check_output, explained, new_file
from usjepa.evaluate.report.scores_csv import defused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json

    Columns = Mapping[str, NDArray[Any]]

_LINES_AT_ONCE = 4096


def check_place(out: Path) -> None:
    """Raise UsageError for a place of no known kind, or where something lies that is not replaced."""
    if out.suffix not in KINDS:
        raise UsageError(f"-o {out}: what kind of file? Known are: {', '.join(KINDS)}.")
    if out.suffix != ".zarr":
        check_output(out)
    elif os.path.lexists(out):
        raise UsageError(f"-o {out}: exists already. Give the name of a new folder.")


def write(out: Path, features_NF: NDArray[np.float32], columns: Columns, identity: Json) -> None:
    """Write features float32 [n, F] and columns of n values each, in the kind that the file's name asks for.

    Raises:
        UsageError: as `check_place`.
        WriteError: the disk is full or refuses; what was there before is untouched.
    """
    check_place(out)
    KINDS[out.suffix](out, features_NF, columns, json.dumps(identity, sort_keys=True))


def _to_file(path: Path, nbytes: int, fill: Callable[[BinaryIO], None]) -> None:
    with new_file(path, nbytes) as handle, os.fdopen(os.dup(handle), "wb") as file:
        fill(file)


def _parquet(out: Path, features_NF: NDArray[np.float32], columns: Columns, identity: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(features_NF.reshape(-1)), features_NF.shape[1])
    table = pa.table({**{name: pa.array(values) for name, values in columns.items()}, "features": vectors})
    table = table.replace_schema_metadata({"usjepa.encoder": identity})
    _to_file(out, features_NF.nbytes, lambda file: pq.write_table(table, file))


def _npy(out: Path, features_NF: NDArray[np.float32], columns: Columns, _: str) -> None:
    beside = out.with_suffix(".csv")
    check_output(beside)
    _to_file(beside, 0, lambda file: _write_lines(file, list(columns), columns, None))
    _to_file(out, features_NF.nbytes, lambda file: np.save(file, features_NF))


def _csv(out: Path, features_NF: NDArray[np.float32], columns: Columns, _: str) -> None:
    names = [*columns, *(f"f{number}" for number in range(features_NF.shape[1]))]
    _to_file(out, features_NF.nbytes, lambda file: _write_lines(file, names, columns, features_NF))


def _write_lines(file: BinaryIO, names: list[str], columns: Columns, features_NF: NDArray[np.float32] | None) -> None:
    with io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True) as text:
        writer = csv.writer(text)
        writer.writerow(names)
        for start in range(0, len(next(iter(columns.values()))), _LINES_AT_ONCE):
            some = slice(start, start + _LINES_AT_ONCE)
            known = zip(*(map(defused, values[some].tolist()) for values in columns.values()), strict=True)
            if features_NF is None:
                writer.writerows(known)
            else:  # a float32 as NumPy prints it: the shortest text that reads back as the same number
                numbers = features_NF[some].astype(str)
                writer.writerows((*line, *values) for line, values in zip(known, numbers, strict=True))


def _zarr(out: Path, features_NF: NDArray[np.float32], columns: Columns, identity: str) -> None:
    import zarr

    temp = out.with_name(f".{out.name}.{uuid.uuid4().hex}{TEMP_SUFFIX}")
    with explained(out, features_NF.nbytes):
        try:
            group = zarr.create_group(str(temp), attributes={"encoder": json.loads(identity)})
            group.create_array("features", data=features_NF)
            for name, values in columns.items():
                texts = values.dtype == object
                group.create_array(name, data=values.astype(np.dtypes.StringDType()) if texts else values)
            temp.rename(out)
        finally:
            shutil.rmtree(temp, ignore_errors=True)


KINDS: dict[str, Callable[[Path, NDArray[np.float32], Columns, str], None]] = {
    ".parquet": _parquet,
    ".npy": _npy,
    ".csv": _csv,
    ".zarr": _zarr,
}
"""Suffix of a file -> its writer."""
