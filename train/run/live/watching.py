"""Write a run's page again and again; whatever happens to it, the run goes on.

It is written when the run begins, with a line of the log every half minute, and when the run ends. What it costs is
measured: a page that takes long is written more rarely, so that it never takes more than a hundredth of the time.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from usjepa.cache.errors import ClaimedError, Interrupted
from usjepa.cache.identity import digest_of
from usjepa.train.record.folder import PAGE
from usjepa.train.run.live.page import FAILED, FINISHED, GENERATOR, RUNNING, STOPPED, About, Moment, render
from usjepa.train.run.plan import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from usjepa.train.record.folder import RunFolder
    from usjepa.train.record.history import History
    from usjepa.train.run.state import TrainingRun
    from usjepa.train.tracking.tracker import Line

logger = logging.getLogger(__name__)

_EVERY_S = 30.0
_SHARE = 0.01
"""Most of a run's time that its page may take."""
_HEAD = 4096
"""Bytes of a page within which it says whose it is."""


@contextmanager
def watched(run: TrainingRun) -> Iterator[None]:
    """Keep `RUN/index.html` while the block trains; what ends the block is said there. Rank 0 writes it."""
    if not run.ranks.leads or (run.finished and _is_of(run.folder.path / PAGE, FINISHED)):
        yield
        return
    page = LivePage(run.folder, about(run), lambda: run.history)
    run.show(page)
    page.show(RUNNING)
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as error:
        page.show(STOPPED, str(error))
        raise
    except BaseException as error:
        page.show(FAILED, str(error) or type(error).__name__)
        raise
    page.show(FINISHED if run.finished else STOPPED, "" if run.finished else "It was asked to stop here.")


class LivePage:
    """The page of a run; a tracker of its log."""

    def __init__(self, folder: RunFolder, about: About, history: Callable[[], History]) -> None:
        """Begin; an `index.html` that is no run's page is left as it is, and the run has none.

        Args:
            folder: of the run.
            about: what stays the same of it.
            history: returns what its log tells.
        """
        self._folder, self._about, self._history = folder, about, history
        self._place = folder.path / PAGE
        self._began, self._first = time.monotonic(), history().steps
        self._shown, self._cost, self._longest = float("-inf"), 0.0, 0.0
        self._warned = False
        self._foreign = _is_foreign(self._place)
        if self._foreign:
            logger.warning(f"{self._place}: is no page of usjepa-train and is left as it is; this run shows none.")

    def write(self, lines: Sequence[Line]) -> None:
        """Show the run again if the last page is old enough."""
        if time.monotonic() - self._shown >= max(_EVERY_S, self._cost / _SHARE):
            self.show(RUNNING)

    def close(self) -> None:
        """Leave the last page as it is."""

    def show(self, state: str, why: str = "") -> None:
        """Write the page now, or say once that it can't be written."""
        if self._foreign:
            return
        began = time.monotonic()
        if self._shown > 0:
            self._longest = max(self._longest, began - self._shown)
        try:
            text = render(self._about, self._history(), self._moment(state, why))
            self._folder.write(PAGE, text.encode("utf-8", "backslashreplace"))
        except ClaimedError:
            pass  # the folder is another's now: the next line of the log ends this run with that message
        except Exception as error:  # noqa: BLE001  # a page is no reason to end a run
            if not self._warned:
                logger.warning(
                    f"{self._place}: is not up to date ({error}). The run goes on; log.jsonl has everything."
                )
            self._warned = True
        self._shown = time.monotonic()
        self._cost = self._shown - began

    def _moment(self, state: str, why: str) -> Moment:
        steps = self._history().steps
        done, seconds = steps - self._first, time.monotonic() - self._began
        left = (self._about.epochs * self._about.steps_per_epoch - steps) * seconds / done if done > 0 else None
        return Moment(state, time.time(), left, max(300.0, 3 * self._longest), why)


def about(run: TrainingRun) -> About:
    """Return what a page says of a run that steps don't change; no path of this machine."""
    plan = run.plan
    recipe = plan.settings.shareable().model_dump(mode="json")
    stores = [("Store", part.digest) for part in plan.store.parts]
    versions = [(str(name), str(value)) for name, value in run.progress.soft.items()]
    return About(
        name=run.folder.path.resolve().name,
        epochs=plan.settings.epochs,
        steps_per_epoch=plan.steps_per_epoch,
        described=tuple(describe(plan)),
        recipe=tuple((name, json.dumps(value, ensure_ascii=False)) for name, value in recipe.items()),
        identity=(
            ("Run", digest_of(plan.identity)),
            *stores,
            ("Teacher", plan.targets.name),
            *versions,
        ),
    )


def _is_foreign(place: Path) -> bool:
    """Return whether something lies there that this room did not write."""
    if not (place.exists() or place.is_symlink()):
        return False
    return not _is_of(place, "")


def _is_of(place: Path, state: str) -> bool:
    """Return whether a run's page lies there, of a state (""; any)."""
    try:
        if not place.is_file() or place.is_symlink():
            return False
        text = place.read_bytes()
    except OSError:
        return False
    ours = f'<meta name="generator" content="{GENERATOR}">'.encode() in text[:_HEAD]
    return ours and (not state or f'id="state">{state}<'.encode() in text)
