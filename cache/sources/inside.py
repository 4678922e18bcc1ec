"""Paths of datasets within HDF5 files: `file.h5::train/images`."""

from __future__ import annotations

import re

HDF5_ENDINGS = (".h5", ".hdf5")

_SPLIT = re.compile(r"(?i)(?<=\.h5)::|(?<=\.hdf5)::")


def split_inside(path: str) -> tuple[str, str]:
    """Return (file, dataset within it) of a source's path; the dataset is "" where none is named."""
    file, *inside = _SPLIT.split(path, maxsplit=1)
    return file, inside[0] if inside else ""


def join_inside(file: str, dataset: str) -> str:
    """Return the source's path of a dataset within a file."""
    return f"{file}::{dataset}"
