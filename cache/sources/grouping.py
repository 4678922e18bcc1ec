"""Decide which sources are of one patient or clip (`cache.group`).

| `cache.group`   | a source's group                                                                              |
|-----------------|-----------------------------------------------------------------------------------------------|
| `auto`          | as a manifest or a known layout names it; a DICOM's patient; else the file itself              |
| `file`          | the file itself: its path without the ending                                                  |
| `folder`        | its folder                                                                                    |
| `dicom-patient` | the patient of its DICOM header; a file that names none is refused                            |
| REGEX           | what the parentheses of the expression find in its path; a path that does not fit is refused  |

Any rule but `auto` takes the place of what a manifest says.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from xxhash import xxh3_64_intdigest

from usjepa.cache.errors import UsageError
from usjepa.cache.places.packed import fields_of
from usjepa.cache.sources.base import packed_entries
from usjepa.cache.sources.folders import folder_group
from usjepa.cache.sources.patients import group_key, hashed_patient, patient_group
from usjepa.cache.sources.registry import folders_of, reader_of_member, readers, source_file, without_ending

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usjepa.cache.places.packed import Packed
    from usjepa.cache.sources.base import Entry

PatientsIn = Callable[[Sequence[tuple[Path, str]]], Sequence[str]]
"""(file, reader) of each -> what the file itself says of its patient, "" for nothing."""
AUTO, FILE, FOLDER, DICOM_PATIENT = "auto", "file", "folder", "dicom-patient"
BY_FILE = "the file itself"
_NUMBERED = re.compile(r"(?P<series>.*[^\W\d].*?)[\s_.-]*(frame|img|image|slice|f|t|z)?[\s_.-]*\d+", re.IGNORECASE)
"""The name of a numbered file: frames that were cut from a clip are called so."""


def with_groups(root: Path, entries: Sequence[Entry], rule: str, patients_in: PatientsIn) -> Packed[Entry]:
    """Return entries with a group each.

    Args:
        root: folder that the entries' paths are relative to.
        entries: their groups are empty where nothing beside the file names one.
        rule: `cache.group`.
        patients_in: opens files of formats that tell their patient; a parser of hostile files.

    Raises:
        UsageError: the rule finds no group for a file.
    """
    if rule == FILE:
        return packed_entries(_by_file(entry) for entry in entries)
    if rule == FOLDER:
        return packed_entries(
            replace(entry, group=folder_group(entry.path), grouped_by="its folder") for entry in entries
        )
    if rule in (AUTO, DICOM_PATIENT):
        return packed_entries(_by_patient(root, entries, rule == DICOM_PATIENT, patients_in))
    pattern = re.compile(rule)
    return packed_entries(_by_pattern(entry, pattern) for entry in entries)


def group_of_file(path: str) -> str:
    """Return the group of a file that is one of its own: its path without the ending."""
    return without_ending(folders_of(path))


def _by_file(entry: Entry) -> Entry:
    return replace(entry, group=group_of_file(entry.path), grouped_by=BY_FILE)


def _by_pattern(entry: Entry, pattern: re.Pattern[str]) -> Entry:
    found = pattern.search(entry.path)
    group = "/".join(part for part in found.groups() if part) if found else ""
    if not group:
        raise UsageError(
            f"{entry.path}: cache.group={pattern.pattern!r} finds no group in this path. Widen the expression, or name "
            "groups in a manifest.csv."
        )
    return replace(entry, group=group, grouped_by=f"cache.group={pattern.pattern!r}")


def _by_patient(root: Path, entries: Sequence[Entry], insist: bool, patients_in: PatientsIn) -> Iterator[Entry]:
    telling = {name for name, reader in readers().items() if getattr(reader, "tells_patient", False)}
    asked = {
        source_file(entry.path): entry.reader
        for entry in entries
        if entry.reader in telling and _tells(entry.path, telling) and (insist or not entry.group)
    }
    patients = dict(zip(asked, patients_in([(root / file, reader) for file, reader in asked.items()]), strict=True))
    first: dict[str, str] = {}
    for file in sorted(asked):
        first.setdefault(patients[file], file)
    for entry in entries:
        patient = patients.get(source_file(entry.path), "")
        if patient:
            source = f"{patient.partition('=')[0]} of its header"
            name = hashed_patient(patient) or without_ending(first[patient])
            yield replace(entry, group=patient_group(name), grouped_by=source)
        elif insist:
            raise UsageError(
                f"{entry.path}: cache.group={DICOM_PATIENT}, but this file names no patient. Leave it out, or take "
                "cache.group=auto, which makes a group of each such file."
            )
        else:
            yield entry if entry.group else _by_file(entry)


def _tells(path: str, telling: set[str]) -> bool:
    """Return whether a file may name its patient; in an archive, one without an ending that a reader takes may too."""
    reader = reader_of_member(path)
    return reader is None or reader.name in telling


def describe_groups(entries: Sequence[Entry]) -> list[str]:
    """Return lines that say how many sources share a group, where groups come from, and what looks wrong."""
    if not entries:
        return []
    groups: dict[str, array[int]] = {}
    by_file = _Numbered()
    told = fields_of(entries, "dataset", "group", "grouped_by", "path")
    for place, (dataset, group, grouped_by, path) in enumerate(told):
        groups.setdefault(grouped_by or "the source", array("Q")).append(_hash("\0".join(group_key(dataset, group))))
        if grouped_by == BY_FILE:
            by_file.add(place, path)
    lines = []
    for source, hashes in sorted(groups.items()):
        sizes = np.unique(np.asarray(hashes), return_counts=True)[1]
        few, many = int(sizes.min()), int(sizes.max())
        each = "1 each" if many == 1 else f"{few:,} to {many:,} each" if few < many else f"{many:,} each"
        lines.append(f"groups: {len(hashes):,} sources in {len(sizes):,} groups, {each}; from {source}")
    return lines + _look_like_frames(entries, by_file)


def _hash(name: str) -> int:
    return xxh3_64_intdigest(name.encode(errors="surrogatepass"))


class _Numbered:
    """Files whose names end in a number, each by hashes of its folder and of its series."""

    def __init__(self) -> None:
        self.files = 0
        """Those that were added, numbered or not."""
        self._folder, self._series, self._place = array("Q"), array("Q"), array("q")

    def add(self, place: int, path: str) -> None:
        """Add a file by its place in the listing."""
        self.files += 1
        file = PurePosixPath(without_ending(path))
        numbered = _NUMBERED.fullmatch(file.name)
        if numbered is not None:
            folder = str(file.parent)
            self._folder.append(_hash(folder))
            self._series.append(_hash(f"{folder}\0{numbered['series']}"))
            self._place.append(place)

    def several(self) -> tuple[int, int, int, int]:
        """Return how many files are of series of two or more beside which there are others in their folder.

        Then the number of these series, and the places of the first and the last file of that which comes first.
        """
        folder_n, series_n = np.asarray(self._folder), np.asarray(self._series)
        _, first_s, size_s = np.unique(series_n, return_index=True, return_counts=True)
        _, of_s, count_f = np.unique(folder_n[first_s], return_inverse=True, return_counts=True)
        begins_f = np.full(len(count_f), len(series_n))
        np.minimum.at(begins_f, of_s, first_s)
        found = np.flatnonzero((count_f[of_s] > 1) & (size_s > 1))
        if not len(found):
            return 0, 0, 0, 0
        leads = found[np.lexsort((first_s[found], begins_f[of_s[found]]))[0]]
        first = int(first_s[leads])
        last = int(np.flatnonzero(series_n == series_n[first])[-1])
        return int(size_s[found].sum()), len(found), self._place[first], self._place[last]


def _look_like_frames(entries: Sequence[Entry], by_file: _Numbered) -> list[str]:
    """Return a warning where names of files suggest that many are frames of fewer clips or patients."""
    files, series, first, last = by_file.several()
    if not files or 2 * files < by_file.files:
        return []
    return [
        f"warning: {files:,} files are a group each, but their names fall into {series:,} numbered series, such "
        f"as {entries[first].path} and {entries[last].path}. If a series is one clip or patient, say so: "
        r"""--set 'cache.group="(.*?)[ _.-]*\d+\.\w+$"', or a manifest.csv."""
    ]
