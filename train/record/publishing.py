"""Publish a finished run's encoder on the Hugging Face hub, or as its folder.

The folder is the export with a card that names licence, base model and datasets. The run itself stays as it is.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import UsageError, UsjepaError, WriteError
from usjepa.cache.storage.durable import write_durably
from usjepa.cache.teacher.exported import CONFIG, RECIPE, WEIGHTS, check_exported, config_text, weights_name
from usjepa.train.record.folder import CARD, CURVE, RunFolder

if TYPE_CHECKING:
    from usjepa.train.record.front_matter import FrontMatter

_BESIDE = (CARD, CURVE, RECIPE)
"""What is published beside the encoder; log and checkpoints are not."""
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_WHO_ARE_YOU, _REFUSED = 401, range(400, 500)
"""HTTP status codes."""


def check_names(repository: str, metadata: FrontMatter) -> None:
    """Raise UsageError unless the names are such as the hub takes: ORG/NAME, and a licence such as apache-2.0."""
    for what, name in (("REPOSITORY", repository), *(("--base-model", name) for name in metadata.base_model)):
        if not _REPOSITORY.fullmatch(name):
            raise UsageError(f"{what} {name}: write it as ORG/NAME, as the hub's page shows it.")
    if not _LICENCE.fullmatch(metadata.license):
        raise UsageError(f"--license {metadata.license}: write it as the hub does, such as apache-2.0 or cc-by-nc-4.0.")


def write_folder(run: Path, folder: Path, metadata: FrontMatter) -> list[Path]:
    """Write the files that a hub takes into a new or empty folder, and return them.

    Raises:
        UsageError: the run has not finished, or the folder holds something.
        DamageError: a file of the run is not as it was exported.
        WriteError: the folder can't take the files.
    """
    if not RunFolder(run).exported:
        raise UsageError(f"{run}: no finished run. Give the folder that usjepa-train wrote, and let it finish first.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: exists already. Give the name of a new folder.")
    weights = weights_name(run)
    # The card may have been edited, and shall be: only what nobody edits is compared.
    content = check_exported(run, (weights, CURVE, RECIPE))
    for name in (CURVE, RECIPE):
        write_durably(folder / name, (run / name).read_bytes())
    write_durably(folder / WEIGHTS, (run / weights).read_bytes())
    write_durably(folder / CARD, metadata.placed_in((run / CARD).read_text(encoding="utf-8")).encode())
    plain = {name: value for name, value in content.items() if name not in {"files", "digest"}}
    write_durably(folder / CONFIG, config_text(plain, folder, (WEIGHTS, *_BESIDE)))
    return sorted(folder.iterdir())


def push(run: Path, repository: str, metadata: FrontMatter, private: bool) -> str:
    """Upload a finished run's encoder to the hub, and return the address of its page.

    Args:
        run: folder of the finished run.
        repository: ORG/NAME; made if it is not there.
        metadata: of the card.
        private: whether a repository that is made is private.

    Raises:
        UsageError: the run has not finished, or the hub refuses: no token, no right, no such organisation.
        WriteError: the hub can't be reached.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory(prefix="usjepa-push-") as place:
        write_folder(run, Path(place) / "model", metadata)
        api: Any = HfApi()
        try:
            api.create_repo(repository, private=private or None, exist_ok=True)
            api.upload_folder(
                repo_id=repository, folder_path=str(Path(place) / "model"), commit_message="Upload by usjepa-train push"
            )
        except Exception as error:  # whatever the hub, the network or the place of the token raise
            raise _refusal(repository, error) from error
        return f"{api.endpoint}/{repository}"


def _refusal(repository: str, error: Exception) -> UsjepaError:
    """Return what to do about an error of the hub's client."""
    from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

    said = " ".join(str(error).split())[:300] or type(error).__name__
    status = int(getattr(getattr(error, "response", None), "status_code", 0) or 0)
    if isinstance(error, LocalTokenNotFoundError) or status == _WHO_ARE_YOU:
        return UsageError(f"{repository}: the hub asks who you are ({said}). Run `hf auth login`, or set HF_TOKEN.")
    if isinstance(error, OfflineModeIsEnabled):
        return UsageError(f"{repository}: HF_HUB_OFFLINE is set. Unset it, or write the folder with --dry-run FOLDER.")
    if status in _REFUSED:
        return UsageError(f"{repository}: the hub refuses it ({said}). Does your token allow to write there?")
    return WriteError(f"{repository}: the hub can't be reached ({said}). --dry-run FOLDER writes the files here.")
