"""Find out which DICOM files are of one patient."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING

from usjepa.cache.sources.formats.dicom.header import header_of

if TYPE_CHECKING:
    from pathlib import Path

PATIENT, STUDY = "PatientID", "StudyInstanceUID"

_PLACEHOLDER = re.compile(
    r"0*|x+|\W*|anon\w*|unknown|none|null|na|nil|removed|deleted|redacted|blank|empty|patient|patientid|id|test"
    r"|(de)?identified|noname|undefined|notavailable|\d?de\W?identified"
)
"""What tools write in place of a patient's number; several patients may share it."""


def patient_of(file: Path) -> str:
    """Return `PatientID=...`, or `StudyInstanceUID=...` where no patient is named; "" where neither is.

    A study is of one patient, so its files stay together even when a tool has blanked the number.
    """
    header = header_of(file, [PATIENT, STUDY])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote the values that they complain about
        for name in (PATIENT, STUDY):
            value = str(header.get(name, "") or "").strip(" \0")
            if value and not _PLACEHOLDER.fullmatch(re.sub(r"[\W_]", "", value.lower())):
                return f"{name}={value}"
    return ""
