"""Read lists that describe files: CSV with its usual columns, JSON, and plain text."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.columns import GROUP_COLUMNS, called, column_of_splits
from usjepa.cache.sources.formats.packed.members import open_list
from usjepa.cache.sources.splits import KNOWN, split_named
from usjepa.cache.terminal.refusals import advice

if TYPE_CHECKING:
    from pathlib import Path

_DELIMITERS = ",;\t|"
_MOST_BYTES = 1 << 30
_HEAD_NBYTES = 1 << 14
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
"""How text begins that Excel saved as "Unicode"."""


@dataclass(frozen=True)
class Line:
    """A line of a table that is not empty."""

    number: int
    cells: dict[str, str]
    """Column, as `Table.columns` has it -> cell, stripped."""


@dataclass(frozen=True)
class Table:
    """A table with a header."""

    file: Path
    columns: tuple[str, ...]
    """Lower case, stripped."""
    lines: tuple[Line, ...]

    def column(self, *names: str) -> str | None:
        """Return the first column that is called one of these, in the form of `plain`; None where none is."""
        return called(self.columns, names)

    def group_column(self) -> str | None:
        """Return the column that names patients or clips; None where none does."""
        return self.column(*GROUP_COLUMNS)

    def split_column(self) -> str | None:
        """Return the column of splits: `split`, or the one whose cells are names of splits.

        Raises:
            UsageError: several may be it, or one is called like a split and its cells are none.
        """
        return column_of_splits(self.columns, lambda name: {line.cells[name] for line in self.lines}, str(self.file))

    def split_of(self, line: Line, column: str | None) -> str:
        """Return the split of a line; UsageError where its name is not known."""
        name = line.cells[column] if column else ""
        known = split_named(name)
        if known is None:
            raise self.wrong(
                line,
                f"the split {name!r} is not known; write {KNOWN}, or leave the cell empty. Nothing is trained on"
                " that may be for testing",
            )
        return known

    def wrong(self, line: Line, reason: str) -> UsageError:
        """Return the error of a line."""
        return UsageError(f"{self.file}, line {line.number}: {reason}.")


def read_table(file: Path) -> Table:
    """Return the table of a file; its first line that is not empty names the columns.

    Raises:
        UsageError: it is no such table: naming the line, where there is one.
    """
    text = read_text(file)
    delimiter, text, skipped = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    try:
        columns = tuple(name.strip().lower() for name in next(reader, []))
        _require_columns(file, columns)
        lines = []
        for cells in reader:
            number = reader.line_num + skipped
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(columns):
                raise UsageError(
                    f"{file}, line {number}: {len(cells)} cells where there are {len(columns)} columns; quote cells "
                    f"that hold {_NAMES[delimiter]}."
                )
            lines.append(Line(number, dict(zip(columns, map(str.strip, cells), strict=True))))
    except csv.Error as error:
        raise UsageError(f"{file}, line {reader.line_num + skipped}: not CSV ({error}).") from error
    return Table(file, columns, tuple(lines))


def table_as_far_as_it_goes(file: Path) -> Table | None:
    """Return the table of a file, lines left out that don't fit and whatever its encoding; None where it has no header.

    For those who only look whether it may say something; who uses a table reads it with `read_table`.
    """
    try:
        with open_list(file) as opened:
            data = opened.read(_MOST_BYTES)
    except OSError:
        return None
    encoding = "utf-16" if data[:2] in _UTF16 else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    delimiter, text, skipped = _delimiter(text)
    lines = []
    try:
        cells = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        columns = tuple(name.strip().lower() for name in next(cells, []))
        for number, line in enumerate(cells, skipped + 2):
            if len(line) == len(columns):
                lines.append(Line(number, dict(zip(columns, map(str.strip, line), strict=True))))
    except csv.Error:
        return None
    return Table(file, columns, tuple(lines)) if columns and lines else None


_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def read_text(file: Path) -> str:
    """Return the text of a file that describes others; UsageError where it is none."""
    try:
        with open_list(file) as opened:
            data = opened.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise UsageError(f"{file}: more than {_MOST_BYTES >> 30} GiB are no list of files.")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from error
    except OSError as error:
        raise UsageError(f"{file}: can't be read ({error.strerror}). {advice(error)}") from error


def head_of(file: Path) -> str:
    """Return the whole lines at the beginning of a text; "" where it is none."""
    try:
        with open_list(file) as opened:
            data = opened.read(_HEAD_NBYTES)
    except OSError:
        return ""
    whole = data if len(data) < _HEAD_NBYTES else data[: data.rfind(b"\n") + 1]
    try:
        return whole.decode("utf-8-sig")
    except UnicodeDecodeError:
        return ""


def _delimiter(text: str) -> tuple[str, str, int]:
    """Return the delimiter, the text from the header on, and the lines before it (Excel's `sep=;`)."""
    first, _, rest = text.partition("\n")
    said = re.fullmatch(r"sep=(.)\r?", first)
    if said and said[1] in _DELIMITERS:
        return said[1], rest, 1
    header = re.sub(r'"[^"]*"', "", first)
    return max(_DELIMITERS, key=header.count), text, 0


def _require_columns(file: Path, columns: tuple[str, ...]) -> None:
    twice = sorted({name for name in columns if columns.count(name) > 1 and name})
    if twice:
        raise UsageError(f"{file}: column `{twice[0]}` stands there twice.")


def read_json(file: Path) -> Any:
    """Return what a JSON file holds; UsageError where it is none."""
    try:
        with open_list(file) as opened:
            data = opened.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise UsageError(f"{file}: more than {_MOST_BYTES >> 30} GiB are no list of files.")
        return json.loads(data)
    except OSError as error:
        raise UsageError(f"{file}: can't be read ({error.strerror}). {advice(error)}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: can't be read as JSON ({error}).") from error


def objects(value: object, where: str) -> list[dict[str, Any]]:
    """Return an array of objects; UsageError where it is something else."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise UsageError(f"{where}: not an array of objects.")
    return value
