"""Recognise the columns of tables that tell of patients, classes and splits.

A table may be a CSV, lines of JSON or a Parquet file: names of its columns count, and their cells as text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.splits import KNOWN, TEST, TRAIN, names_split, split_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from collections.abc import Set as AbstractSet

_GROUPS = """
group groupid patientorvideoid patientid patient patid ptid pid patientkey subject subjectid subj participant
participantid mrn caseid casenumber studyid studyuid studyinstanceuid examid accession accessionnumber videoid video
videoname clipid clip sequenceid
"""
GROUP_COLUMNS = tuple(_GROUPS.split())
"""Columns that name a group, the coarsest first, in the form of `plain`."""
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "diagnosis")
"""Columns that name a class, where a table is no manifest."""
MISSING = frozenset({"", "nan", "na", "n/a", "null", "<na>"})
"""Cells that hold nothing, lower case, as pandas writes or reads them; `none` may be the name of a class."""


def is_missing(cell: str) -> bool:
    """Return whether a cell says that there is no label, number or mask."""
    return cell.strip().lower() in MISSING


def plain(name: str) -> str:
    """Return the name of a column in the form that names are compared in: `Patient_ID` gives patientid."""
    return re.sub(r"[\W_]", "", name.lower())


def called(columns: Sequence[str], names: Iterable[str]) -> str | None:
    """Return the first column that is called one of these, in the form of `plain`; None where none is."""
    by_name = {plain(column): column for column in reversed(columns)}
    return next((by_name[name] for name in names if name in by_name), None)


def column_of_splits(columns: Sequence[str], cells: Callable[[str], AbstractSet[str]], where: str) -> str | None:
    """Return the column of splits: `split`, or the one whose cells are names of splits; None where none is.

    Args:
        columns: names, as the table has them.
        cells: gives the different cells of a column, as text.
        where: names the table in messages.

    Raises:
        UsageError: several may be it, or one is called like a split and its cells are none.
    """
    if (own := called(columns, ["split"])) is not None:
        return own
    found = [column for column in columns if column and _are_splits(cells(column))]
    if len(found) > 1:
        both = ", ".join(f"`{name}`" for name in found)
        raise UsageError(f"{where}: columns {both} may be splits. Call the right one `split`.")
    unclear = [column for column in columns if names_split(column) and len(cells(column)) > 1]
    if not found and unclear:
        raise UsageError(
            f"{where}: column `{unclear[0]}` looks like a split, and its cells are not understood. Add a "
            f"column `split` that says {KNOWN}, or rename it."
        )
    return found[0] if found else None


def _are_splits(cells: AbstractSet[str]) -> bool:
    known = {split_named(cell) for cell in cells}
    return None not in known and bool(known & {TRAIN, TEST})
