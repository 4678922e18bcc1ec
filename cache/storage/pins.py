"""Note in a store which generation an unfinished run needs, so that none collects it.

A pin is a file `pins/<hash of machine and folder>.json`. A run writes it when it begins or goes on and removes it when
it has ended; one that was killed stays, as the run may go on. A store that can't be written is not pinned: whoever
collects there says where runs lie.
"""

from __future__ import annotations

import contextlib
import logging
import platform
from typing import TYPE_CHECKING, NamedTuple

from usjepa.cache.errors import DamageError, StoreError
from usjepa.cache.identity import canonical, digest_of, parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from usjepa.cache.storage.protocol import Storage

logger = logging.getLogger(__name__)


class Pin(NamedTuple):
    """What an unfinished run needs."""

    file: str
    host: str
    run: str
    """Its folder there."""
    generation: int

    @property
    def is_here(self) -> bool:
        """Whether the run lies on this machine, as far as names tell."""
        return self.host == platform.node()


def _file_of(run: Path) -> str:
    return f"pins/{digest_of([platform.node(), str(run.resolve())])}.json"


def pin(storage: Storage, run: Path, generation: int) -> None:
    """Note that a run needs a generation; say so where the store takes no note."""
    body = {"host": platform.node(), "run": str(run.resolve()), "generation": generation}
    try:
        storage.publish(_file_of(run), canonical(body) + b"\n")
    except StoreError as error:
        logger.info(
            f"{storage.url}: takes no note that this run needs generation {generation} ({error}). Before old "
            "generations are collected there, name the runs: usjepa-cache gc STORE --runs FOLDER"
        )


def unpin(storage: Storage, run: Path) -> None:
    """Remove a run's note: it has ended."""
    with contextlib.suppress(StoreError):
        if storage.size(_file_of(run)) is not None:
            storage.delete(_file_of(run))


def pins(storage: Storage) -> Iterator[Pin]:
    """Yield the pins of a store; raises DamageError where one can't be read."""
    for name in storage.names("pins"):
        file = f"pins/{name}"
        try:
            data = storage.read(file)
        except FileNotFoundError:
            continue  # the run has ended since the pins were listed
        body = parse_json(data, f"{storage.url}/{file}")
        try:
            yield Pin(file, str(body["host"]), str(body["run"]), int(body["generation"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DamageError(
                f"{storage.url}/{file}: does not say which generation its run needs ({error}): damaged. Remove it once "
                "no run on this store is unfinished."
            ) from error
