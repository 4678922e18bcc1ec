"""Read CAMUS as published: as NIfTI, and the older MHD."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.layouts.base import NO_SPLITS, Folder, Listed, Row
from usjepa.cache.sources.layouts.tables import read_text
from usjepa.cache.sources.splits import split_within

if TYPE_CHECKING:
    from pathlib import Path

_PATIENT = re.compile(r"patient-?\d{3,}")
_FILE = re.compile(
    r"(?P<before>.*/)?(?P<patient>patient-?\d{3,})/patient-?\d{3,}_(?P<view>[24]CH)_(?P<kind>ED|ES|(half_)?sequence)"
    r"(?P<mask>_gt)?\.(nii|nii\.gz|mhd|mha|png)"
)
_PARTS = ("database_nifti", "training", "testing")
_SUBGROUP = re.compile(r"subgroup_(\w+)\.txt")


class Camus:
    """Folders `patient0001/patient0001_2CH_ED.nii.gz`, and `subgroup_testing.txt` or a folder `testing/`."""

    name = "camus"
    title = "CAMUS"

    def recognises(self, folder: Folder) -> bool:
        """Return whether a folder holds patients, or `database_nifti`, `training` or `testing` that do."""
        parts = [part for name in _PARTS if (part := folder.below(name)) is not None]
        return any(_holds_patients(part) for part in (folder, *parts))

    def rows(self, folder: Folder) -> Listed:
        """Return the images and sequences; masks (`_gt`) are left out."""
        files = [found for path in folder.tree if (found := _FILE.fullmatch(path)) and not found["mask"]]
        subgroups, source = _subgroups(folder)
        rows, unlisted = [], set()
        for file in files:
            before = (file["before"] or "").removeprefix("database_nifti/")
            split = subgroups.get(file["patient"]) if subgroups else split_within(before)
            if split is None:
                unlisted.add(file["patient"])
            # Numbers of patients start anew in the older release's `testing`.
            rows.append(Row(file[0], file["view"], before + file["patient"], split or ""))
        notes = [f"{len(unlisted):,} patients stand in no subgroup, such as {min(unlisted)}."] if unlisted else []
        splits = source or ("folders" if any(row.split for row in rows) else NO_SPLITS)
        return Listed(tuple(rows), splits, "the patient, by its folder", tuple(notes))


def _holds_patients(folder: Folder) -> bool:
    patient = next((name for name in folder.folders if _PATIENT.fullmatch(name)), None)
    return patient is not None and any(_FILE.fullmatch(f"{patient}/{name}") for name in folder.child(patient).files)


def _subgroups(folder: Folder) -> tuple[dict[str, str], str]:
    """Return the split of each patient, and where it comes from; nothing where there are no lists."""
    lists = [path for path in folder.tree if _SUBGROUP.fullmatch(path.rpartition("/")[2])]
    splits: dict[str, str] = {}
    for path in lists:
        split = _split_of(folder.path / path)
        for patient in read_text(folder.path / path).split():
            if splits.setdefault(patient, split) != split:
                raise UsageError(
                    f"{folder.path / path}: {patient} stands in another subgroup, too ({splits[patient]})."
                )
    return splits, ", ".join(path.rpartition("/")[2] for path in lists)


def _split_of(file: Path) -> str:
    split = split_within(file.stem.removeprefix("subgroup_"))
    if not split:
        raise UsageError(f"{file}: which split it is can't be told from its name. Call it subgroup_testing.txt or so.")
    return split
