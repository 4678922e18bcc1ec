"""Fetch a model's folder from the Hugging Face hub, or from its local cache."""

from __future__ import annotations

import re
from pathlib import Path

import timm

from usjepa.cache.errors import UsageError
from usjepa.cache.teacher.names.folders import WEIGHTS

PREFIX = "hf-hub:"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")
_SAFE, _PICKLED = ("*.json", "*.safetensors"), ("*.json", "*.bin")


def is_hub_name(text: str) -> bool:
    """Return whether a text names a model on the hub: `hf-hub:ORG/NAME`, or timm's `NAME.TAG`."""
    return text.startswith(PREFIX) or ("." in text and "/" not in text and timm.is_model(text.partition(".")[0]))


def hub_folder(text: str) -> Path:
    """Return the local folder of a model on the hub, fetched where there is a network.

    Args:
        text: `hf-hub:ORG/NAME`, perhaps with `@REVISION`, or timm's `NAME.TAG`.

    Raises:
        UsageError: no such name, or neither network nor cache has it.
    """
    repository, _, revision = _repository(text).partition("@")
    for patterns in (_SAFE, _PICKLED):
        folder = _snapshot(repository, revision or None, patterns, text)
        if any((folder / name).is_file() for name in WEIGHTS):
            return folder
    raise UsageError(
        f"--teacher {text}: {repository} holds none of {', '.join(WEIGHTS)}. Download its file and name it."
    )


def _repository(text: str) -> str:
    if text.startswith(PREFIX):
        name = text.removeprefix(PREFIX)
        if not _REPOSITORY.fullmatch(name):
            raise UsageError(f"--teacher {text}: write it as {PREFIX}ORG/NAME, as the hub's page shows it.")
        return name
    base = text.partition(".")[0]
    known = timm.list_pretrained(f"{base}.*")
    config = timm.get_pretrained_cfg(text) if text in known else None
    if config is None:
        tags = ", ".join(known) or "none"
        raise UsageError(f"--teacher {text}: timm has no such weights. Of {base} there are: {tags}.")
    if not config.hf_hub_id:
        raise UsageError(f"--teacher {text}: timm knows no place on the hub for it. Download the file and name it.")
    return f"{config.hf_hub_id}{text}" if config.hf_hub_id.endswith("/") else str(config.hf_hub_id)


def _snapshot(repository: str, revision: str | None, patterns: tuple[str, ...], text: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # whatever the hub, the network or the cache raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UsageError(
            f"--teacher {text}: can't be fetched, and lies in no local cache ({reason}). Where there is no network, "
            f"download {repository} elsewhere and name the folder."
        ) from error
