"""Read a checkpoint file, or the shards of one, into plain containers and tensors.

safetensors, alone or in shards listed by an index, and torch files of both formats. A torch file is a pickle: whatever
it holds beside tensors and containers becomes inert (`stand_ins.py`).
"""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from usjepa.cache.errors import TeacherError, UsageError
from usjepa.cache.teacher.checkpoints.stand_ins import Replaced

if TYPE_CHECKING:
    from pathlib import Path

INDEX_ENDING = ".index.json"
"""Of the file that lists the shards of one set of weights."""


_ZIP = b"PK\x03\x04"
_NO_WEIGHTS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file that it points to. Fetch that: git lfs pull.",
    b"<!doctype html": "a web page: a download that ended at a page to log in or to confirm. Download the file itself.",
    b"<html": "a web page: a download that ended at a page to log in or to confirm. Download the file itself.",
}
"""Beginnings of files that downloads leave in the place of weights -> what they are."""


class Content(NamedTuple):
    """What a file holds."""

    value: object
    """Dicts, lists, tensors, numbers, texts and stand-ins."""
    replaced: tuple[str, ...] = ()
    """Full names of the classes whose objects became stand-ins."""


def read_content(path: Path) -> Content:
    """Return what a checkpoint file holds.

    Args:
        path: a safetensors file, an index of shards (`model.safetensors.index.json`), or a torch file.

    Raises:
        UsageError: there is no such file.
        TeacherError: it can't be read: cut, damaged or of another format.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such checkpoint file.")
    _check_begins(path)
    if path.name.endswith(INDEX_ENDING):
        return Content(_shards(path))
    if path.suffix == ".safetensors":
        return Content(_safetensors(path))
    return _torch_file(path)


def _check_begins(path: Path) -> None:
    """Refuse what a download left in the place of weights; raises OSError where the file may not be read."""
    with path.open("rb") as file:  # safetensors calls a file that may not be read one that is not there
        begins = file.read(64).lstrip().lower()
    for mark, told in _NO_WEIGHTS.items():
        if begins.startswith(mark):
            raise TeacherError(f"{path}: {told}")


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise TeacherError(f"{path}: not readable as safetensors ({error}): cut, damaged or another format.") from error


def _shards(index: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of all shards that an index lists, each exactly once."""
    places = parse_foreign_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise TeacherError(f"{index}: lists no shards: an index has a weight_map from tensors to files.")
    tensors: dict[str, torch.Tensor] = {}
    for name in sorted(set(places.values())):
        file = index.parent / name
        if file.parent != index.parent or not file.is_file():
            raise TeacherError(f"{index}: lists {name!r}, which is no file beside it. Download all shards.")
        found = read_content(file).value
        tensors |= found if isinstance(found, dict) else {}
    if lacking := sorted(places.keys() - tensors.keys()):
        raise TeacherError(f"{index}: its shards lack {len(lacking)} of its tensors, {lacking[0]} among them.")
    return tensors


def _torch_file(path: Path) -> Content:
    """Read a torch file. Two kinds would have torch do more than unpickle, and are refused before it sees them."""
    if tarfile.is_tarfile(path):
        raise TeacherError(f"{path}: in the tar format of torch before 0.4. Load and save it with torch first.")
    replaced = Replaced()
    try:
        if _is_torchscript(path):
            raise TeacherError(
                f"{path}: a TorchScript program, not weights. Save its state_dict() as safetensors where you trust it."
            )
        value = torch.load(path, map_location="cpu", weights_only=False, pickle_module=replaced.pickle_module())
    except TeacherError:
        raise
    except Exception as error:  # on hostile bytes, the unpickler raises any type there is
        raise TeacherError(
            f"{path}: not readable as a torch checkpoint ({error}): cut, damaged or another format."
        ) from error
    return Content(value, replaced.names)


def _is_torchscript(path: Path) -> bool:
    """Return whether `torch.load` would hand a file to `torch.jit.load`; asks the reader that it asks."""
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            return False
    return "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records()


def parse_foreign_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file that other people wrote; raises TeacherError when it is none."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, or a number of too many digits
        raise TeacherError(f"{path}: not readable as JSON ({error}): cut, damaged or another format.") from error
    if not isinstance(value, dict):
        raise TeacherError(f"{path}: not a JSON object.")
    return value
