"""Prove the files of an exported encoder by the hashes in its configuration.

`config.json` names the length and xxh3-128 of the weights, and of what else a run leaves beside them, and carries a
digest of its own content. Whoever reads such a folder compares first: a flipped bit in a weight would otherwise be
scored, or become a teacher, without a word. Exports of earlier versions name no hashes; they are read, with a note.
"""

from __future__ import annotations

import json
import logging
from functools import cache
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import DamageError
from usjepa.cache.identity import Json, digest_of, hash_file, parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

logger = logging.getLogger(__name__)

WEIGHTS, CONFIG = "model.safetensors", "config.json"
"""The names that timm, transformers and model hubs look for."""
RECIPE = "recipe.json"
"""What a run lays beside its encoder, and no other program does."""
EARLIER_WEIGHTS = "encoder.safetensors"
"""What version 0.1 called the weights."""
_OURS = ("usjepa", "files", "digest")
"""Fields of a configuration that no other program writes."""
_MEND = (
    "Run the same usjepa-train command again: it writes the file anew from a whole checkpoint. Or restore the folder "
    "from a copy."
)


def config_text(content: dict[str, Json], folder: Path, names: Iterable[str]) -> bytes:
    """Return the bytes of a configuration that names the hashes of files of its folder, which must be there."""
    files = {name: _proof(folder / name) for name in names}
    sealed = {**content, "files": files}
    return (json.dumps({**sealed, "digest": digest_of(sealed)}, indent=1, sort_keys=True) + "\n").encode()


def exported_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of an exported encoder.

    Raises:
        FileNotFoundError: the folder has none.
        DamageError: it is not as it was written.
    """
    path = folder / CONFIG
    content = parse_json(path.read_bytes(), str(path))
    digest = content.pop("digest", None)
    if digest is None and not any(key in content for key in _OURS):
        return content  # another program's
    if digest is None and "files" not in content:
        _say_unproved(path)
    elif digest != digest_of(content):
        raise DamageError(f"{path}: changed after it was written. {_MEND}")
    return content


@cache
def _say_unproved(path: Path) -> None:
    """Say once per file that nothing proves an export."""
    logger.info(
        f"{path}: written by an earlier version, without hashes: nothing proves that the weights are as exported. "
        "The same usjepa-train command as before adds them."
    )


def proves(content: dict[str, Any], name: str) -> bool:
    """Return whether a configuration names the hash of a file."""
    return name in content.get("files", {})


def difference(folder: Path, content: dict[str, Any], name: str) -> str | None:
    """Return how a file differs from what the configuration names; None where it is whole, or not named there."""
    if not proves(content, name):
        return None
    wanted = content["files"][name]
    try:
        found = _proof(folder / name)
    except FileNotFoundError:
        return "is gone"
    if found["bytes"] != wanted["bytes"]:
        return f"has {found['bytes']:,} bytes, and {wanted['bytes']:,} were written"
    return None if found == wanted else "changed after it was written"


def check_exported(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """Return the configuration of an exported encoder whose named files are whole.

    Raises:
        FileNotFoundError: the folder has no configuration.
        DamageError: one of the files, or the configuration, is not as it was written.
    """
    content = exported_config(folder)
    for name in names:
        found = difference(folder, content, name)
        if found is not None:
            raise DamageError(f"{folder / name}: {found}. {_MEND}")
    return content


def weights_name(folder: Path) -> str:
    """Return what an exported encoder's weights are called in its folder, or would be."""
    earlier = (folder / EARLIER_WEIGHTS).is_file() and not (folder / WEIGHTS).is_file()
    return EARLIER_WEIGHTS if earlier else WEIGHTS


def is_exported(folder: Path) -> bool:
    """Return whether a folder holds an encoder that usjepa-train exported, whole or not, and not another program's."""
    if (folder / EARLIER_WEIGHTS).is_file():
        return True
    try:
        content = json.loads((folder / CONFIG).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (ValueError, RecursionError):
        return (folder / RECIPE).is_file()  # whoever reads it says what is wrong
    return isinstance(content, dict) and any(key in content for key in _OURS)


def weights_file(path: Path) -> Path:
    """Return the file of weights that a path names: itself, or that of an exported encoder's folder, proved first.

    Raises:
        DamageError: it belongs to an exported encoder, and is not as it was written.
    """
    file = path / weights_name(path) if path.is_dir() else path
    if file.name in {WEIGHTS, EARLIER_WEIGHTS} and (file.parent / CONFIG).is_file() and file.is_file():
        check_exported(file.parent, (file.name,))
    return file


def _proof(path: Path) -> dict[str, Json]:
    return {"bytes": path.stat().st_size, "xxh3_128": hash_file(path)}
