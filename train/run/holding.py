"""Hold what a run needs while it trains: its folder, its stores' generations, torch's settings."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from usjepa.cache.errors import UsageError
from usjepa.cache.storage.claims import hold_claim
from usjepa.cache.storage.durable import make_folders
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.storage.pins import pin, unpin
from usjepa.cache.storage.urls import is_url, shown
from usjepa.train.record.folder import CLAIMS, RunFolder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usjepa.cache.storage.claims import Claim
    from usjepa.train.run.ranks import Ranks
    from usjepa.train.run.state import TrainingRun

_OF_A_STORE = "zarr.json"
"""What every store has in its folder, and no run."""


def refuse_odd_place(run_dir: str) -> None:
    """Raise UsageError where the folder of the run is none, or a store."""
    if Path(run_dir).exists() and not Path(run_dir).is_dir():
        raise UsageError(f"{run_dir}: is a file. Give a folder as RUN, new or of an earlier call.")
    if is_url(run_dir):
        raise UsageError(
            f"{shown(run_dir)}: a run lies in a folder on this machine, not behind a URL. Give a path; RUN comes last, "
            "behind the stores."
        )
    if (Path(run_dir) / _OF_A_STORE).exists():
        raise UsageError(f"{run_dir}: is a store. Give the folder of the run last, behind all stores.")


@contextmanager
def pinned(run: TrainingRun) -> Iterator[None]:
    """Note in each store that this run needs its generation, from its first step until it has ended."""
    stores, path = run.plan.store.parts, run.folder.path
    if run.ranks.leads and not run.finished:
        for store in stores:
            pin(store.storage, path, store.generation)
    yield
    if run.ranks.leads and run.finished and run.folder.exported:
        for store in stores:
            unpin(store.storage, path)


@contextmanager
def rank_0_reports(ranks: Ranks) -> Iterator[None]:
    """Limit the reports of all other ranks to errors: they would repeat those of rank 0."""
    reports = logging.getLogger("usjepa")
    before = reports.level
    if not ranks.leads:
        reports.setLevel(logging.ERROR)
    try:
        yield
    finally:
        reports.setLevel(before)


@contextmanager
def alone_in(path: Path, ranks: Ranks) -> Iterator[RunFolder]:
    """Hold the run's claim: two runs in one folder would overwrite each other's checkpoints.

    Nothing is written to the folder without a look at the claim: a process that was stopped may have been overtaken.
    """
    held: list[Claim] = []
    with ExitStack() as stack:

        def claim() -> None:
            stack.callback(_leave_nothing, path)
            make_folders(path)
            storage = LocalStorage(path)
            held.append(stack.enter_context(hold_claim(storage, "run", steal=False, doing="trained")))
            RunFolder(path).sweep()

        ranks.while_rank_0(claim)
        yield RunFolder(path, held[0].check) if held else RunFolder(path)


def _leave_nothing(path: Path) -> None:
    """Remove the folders that a refused call made: `rmdir` fails on those that are not empty."""
    for empty in (path / CLAIMS, path):
        with suppress(OSError):
            empty.rmdir()


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """On a CPU, let torch refuse operations that are not bitwise repeatable; the caller's settings are restored."""
    if device.type != "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, finds no fault here
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
