"""Guess from names which groups may be of one patient.

Many data sets name clips or files alone. `case3_clip1` and `case3_clip2` are then groups of their own; their names
say that they are of one case. Nothing is decided by such a guess: it is counted and told beside the score.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_PATIENT = re.compile(
    r"(?<![a-z])(?:patients?|pat|pt|pid|cases?|subjects?|subj|sub|volunteers?|person)[ _#-]*0*\d+(?!\d)"
)
"""A word for a patient and its number, anywhere in a name."""
_PART = re.compile(
    r"[ _-]+(?:clip|video|vid|cine|view|loop|sequence|seq|frame|image|img|still|part)s?[ _#-]*\(?\d+\)?.*$"
)
"""A word for a part of a recording and its number, with all behind it: what stands before names the whole."""


def name_codes(names: Sequence[str]) -> NDArray[np.int64]:
    """Return a number per name, int64 [n]: equal where names suggest one patient, -1 where one suggests none.

    Args:
        names: of groups, or paths of files; case, folders and endings do not count.
    """
    numbers: dict[str, int] = {}
    keys = [_key(name) for name in names]
    return np.array([numbers.setdefault(key, len(numbers)) if key else -1 for key in keys], dtype=np.int64)


def _key(name: str) -> str:
    """Return what names the patient, "" where nothing does."""
    stem = _stem(name)
    found = _PATIENT.search(stem)
    if found is not None:
        return _words(stem[: found.end()])
    whole = _PART.sub("", stem)
    # A series of a publication, as "atlas_clip2", is not one patient: what is left must bear a number of its own.
    return _words(whole) if whole != stem and re.search(r"\d", whole) else ""


def _words(text: str) -> str:
    """Return the words and numbers of a text; 007 is 7."""
    return " ".join(word.lstrip("0") or word for word in re.findall(r"[a-z]+|\d+", text))


def _stem(name: str) -> str:
    """Return the last part of a path without its ending, lower case."""
    last = PurePosixPath(name).name.lower()
    return re.sub(r"\.(?:png|jpe?g|bmp|tiff?|gif|mp4|mpe?g|avi|mov|mkv|webm|dcm|nii(?:\.gz)?)$", "", last)
