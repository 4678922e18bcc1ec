"""Find a store's trainings by their folders and by their pins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from usjepa.cache.errors import DamageError, UsageError
from usjepa.cache.storage.pins import Pin, pins
from usjepa.cache.teacher.exported import CONFIG, weights_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from usjepa.cache.storage.protocol import Storage


class Run(NamedTuple):
    """A training that began on some generation of a store."""

    folder: str
    generation: int
    finished: bool
    host: str = ""
    """Of a run that is known by its pin alone."""

    def __str__(self) -> str:
        where = f" on {self.host}" if self.host else ""
        return f"{self.folder}{where} ({'finished' if self.finished else 'unfinished'}, generation {self.generation})"


def runs_under(folders: Iterable[str], digests: Mapping[str, int]) -> Iterator[Run]:
    """Yield the runs in folders, at any depth, that began on one of some generations.

    Args:
        folders: where runs lie.
        digests: of generations, with their numbers.

    Raises:
        UsageError: there is no such folder.
        DamageError: none of a run's checkpoints tells on what it began.
    """
    for folder in folders:
        if not Path(folder).is_dir():
            raise UsageError(f"--runs {folder}: no such folder.")
        for state in sorted({path.parent for path in Path(folder).rglob("state/step-*.json")}):
            for digest in _digests_of(state) & set(digests):
                yield Run(str(state.parent), digests[digest], _is_finished(state.parent))


def _is_finished(run: Path) -> bool:
    return (run / CONFIG).exists() and (run / weights_name(run)).exists()


def _digests_of(state: Path) -> set[str]:
    """Return the digest of the generation that a run began on; of several stores, those of all."""
    for record in sorted(state.glob("step-*.json"), reverse=True):
        try:
            remembered = json.loads(record.read_bytes())["progress"]["store"]
            return {str(one["digest"]) for one in remembered.get("stores") or [remembered]}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    raise DamageError(
        f"{state}: no checkpoint tells on which store the run began. Mend it, or move the run away if it is done with."
    )


def pinned(storage: Storage, known: Iterable[Run]) -> tuple[list[Run], list[Pin]]:
    """Return the unfinished runs that pin a generation, and the pins that mean nothing any more.

    Args:
        storage: of the store.
        known: runs that were found by their folders.
    """
    found = {str(Path(run.folder).resolve()): run for run in known}
    needed, stale = [run for run in found.values() if not run.finished], []
    for one in pins(storage):
        run = found.get(one.run)
        if run is None and one.is_here:
            run = Run(one.run, one.generation, _is_finished(Path(one.run)) or not Path(one.run).is_dir())
            needed += [] if run.finished else [run]
        elif run is None:
            run = Run(one.run, one.generation, False, one.host)
            needed.append(run)
        if run.finished:
            stale.append(one)
    return needed, stale
