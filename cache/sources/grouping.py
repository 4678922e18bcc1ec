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
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.folders import folder_group
from usjepa.cache.sources.patients import group_key, hashed_patient, patient_group
from usjepa.cache.sources.registry import folders_of, reader_of_member, readers, source_file, without_ending

if TYPE_CHECKING:
    from usjepa.cache.sources.base import Entry

PatientsIn = Callable[[Sequence[tuple[Path, str]]], Sequence[str]]
"""(file, reader) of each -> what the file itself says of its patient, "" for nothing."""
AUTO, FILE, FOLDER, DICOM_PATIENT = "auto", "file", "folder", "dicom-patient"
BY_FILE = "the file itself"
_NUMBERED = re.compile(r"(?P<series>.*[^\W\d].*?)[\s_.-]*(frame|img|image|slice|f|t|z)?[\s_.-]*\d+", re.IGNORECASE)
"""The name of a numbered file: frames that were cut from a clip are called so."""


def with_groups(root: Path, entries: Sequence[Entry], rule: str, patients_in: PatientsIn) -> tuple[Entry, ...]:
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
        return tuple(_by_file(entry) for entry in entries)
    if rule == FOLDER:
        return tuple(replace(entry, group=folder_group(entry.path), grouped_by="its folder") for entry in entries)
    if rule in (AUTO, DICOM_PATIENT):
        return _by_patient(root, entries, rule == DICOM_PATIENT, patients_in)
    pattern = re.compile(rule)
    return tuple(_by_pattern(entry, pattern) for entry in entries)


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


def _by_patient(root: Path, entries: Sequence[Entry], insist: bool, patients_in: PatientsIn) -> tuple[Entry, ...]:
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
    done = []
    for entry in entries:
        patient = patients.get(source_file(entry.path), "")
        if patient:
            source = f"{patient.partition('=')[0]} of its header"
            name = hashed_patient(patient) or without_ending(first[patient])
            done.append(replace(entry, group=patient_group(name), grouped_by=source))
        elif insist:
            raise UsageError(
                f"{entry.path}: cache.group={DICOM_PATIENT}, but this file names no patient. Leave it out, or take "
                "cache.group=auto, which makes a group of each such file."
            )
        else:
            done.append(entry if entry.group else _by_file(entry))
    return tuple(done)


def _tells(path: str, telling: set[str]) -> bool:
    """Return whether a file may name its patient; in an archive, one without an ending that a reader takes may too."""
    reader = reader_of_member(path)
    return reader is None or reader.name in telling


def describe_groups(entries: Sequence[Entry]) -> list[str]:
    """Return lines that say how many sources share a group, where groups come from, and what looks wrong."""
    if not entries:
        return []
    sizes: dict[str, dict[tuple[str, str], int]] = defaultdict(lambda: defaultdict(int))
    for entry in entries:
        sizes[entry.grouped_by or "the source"][group_key(entry.dataset, entry.group)] += 1
    lines = []
    for source, groups in sorted(sizes.items()):
        few, many = min(groups.values()), max(groups.values())
        each = "1 each" if many == 1 else f"{few:,} to {many:,} each" if few < many else f"{many:,} each"
        lines.append(f"groups: {sum(groups.values()):,} sources in {len(groups):,} groups, {each}; from {source}")
    return lines + _look_like_frames([entry for entry in entries if entry.grouped_by == BY_FILE])


def _look_like_frames(entries: Sequence[Entry]) -> list[str]:
    """Return a warning where names of files suggest that many are frames of fewer clips or patients."""
    series: dict[PurePosixPath, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        path = PurePosixPath(without_ending(entry.path))
        numbered = _NUMBERED.fullmatch(path.name)
        if numbered is not None:
            series[path.parent][numbered["series"]].append(entry.path)
    several = [names for found in series.values() if len(found) > 1 for names in found.values() if len(names) > 1]
    files = sum(map(len, several))
    if not several or 2 * files < len(entries):
        return []
    return [
        f"warning: {files:,} files are a group each, but their names fall into {len(several):,} numbered series, such "
        f"as {several[0][0]} and {several[0][-1]}. If a series is one clip or patient, say so: "
        r"""--set 'cache.group="(.*?)[ _.-]*\d+\.\w+$"', or a manifest.csv."""
    ]
