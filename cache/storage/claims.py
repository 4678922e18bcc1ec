"""Claim a part of a store, so that only one process writes it.

A claim is a file created with O_EXCL that names its holder (host, pid, a random id) and has a counter that the holder
rewrites every 20 s. A process that finds one waits: when the counter has not moved for 90 s of the waiter's own clock,
the holder counts as dead and the claim is taken over. No locks, no hard links, and no two clocks are compared ("since"
is for people only). On the same machine, a holder whose process is gone is replaced at once.

The claim is checked just before each rename that publishes something, its own heartbeats included. A holder that was
stopped exactly between check and rename finds its temp file gone when it wakes up, because taking over a whole build
removes such files first. Where nothing removes them (parts, object storage) it could still replace a shard by its own.
That shard then holds the same bytes or differs from its commit record, so reading it is right or raises, and
`verify --repair` mends it. In object storage, a heartbeat could in the same way bring back a claim that was taken over;
the successor then stops at its next check.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import platform
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import ClaimedError, DamageError, Interrupted, StoreError, WriteError
from usjepa.cache.identity import canonical, parse_json
from usjepa.cache.interrupt import safe_point
from usjepa.cache.terminal.streams import shown_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usjepa.cache.storage.protocol import Storage

logger = logging.getLogger(__name__)

HEARTBEAT_S = 20.0
"""Time between two increments of a holder's counter."""
TAKEOVER_S = 90.0
"""Time without one after which a holder counts as dead: over four heartbeats, for slow shares."""
_READS, _BETWEEN_READS_S = 3, 0.05
_STEAL = "; `--steal` takes over from a builder that you know is dead"


def _boot_and_start(pid: int) -> str | None:
    """Return boot, namespace and start of a process: unique together, as a pid is not. None where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # Field 22 of stat is the start time; the name before it may hold spaces and brackets.
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        space = os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None
    return f"{boot} {space} {started}"


class Claim:
    """A claim of this process. Call `check` just before publishing: a stopped holder can lose its claim."""

    def __init__(self, storage: Storage, part: str, doing: str = "built") -> None:
        self._storage, self._doing = storage, doing
        self.name = f"claims/{part}.json"
        self._id = uuid.uuid4().hex
        self._count = 0
        self._since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._done = threading.Event()
        self._lost: BaseException | None = None
        self._kept_at = time.monotonic()
        self._thread = threading.Thread(target=self._beat, name="claim", daemon=True)

    def _content(self) -> bytes:
        mine = {"host": platform.node(), "pid": os.getpid(), "process": _boot_and_start(os.getpid())}
        return canonical({**mine, "since": self._since, "id": self._id, "count": self._count}) + b"\n"

    @property
    def token(self) -> tuple[str, str]:
        """(file name, id): lets another process check this claim with `check_claim`."""
        return self.name, self._id

    def check(self) -> None:
        """Raise ClaimedError unless this process still holds the claim."""
        if self._lost is not None:
            raise ClaimedError(f"{self._storage.url}: the claim could not be kept up: {self._lost}") from self._lost
        check_claim(self._storage, self.token)

    def _beat(self) -> None:
        """Move the counter until released; runs in a thread of its own."""
        while not self._done.wait(HEARTBEAT_S):
            try:
                self.check()
                self._count += 1
                self._storage.publish(self.name, self._content(), self.check)
                self._kept_at = time.monotonic()
            except (StoreError, Interrupted, OSError) as error:
                # A share that fails once loses no claim: nobody takes it over before the counter stood for 90 s.
                if isinstance(error, ClaimedError) or time.monotonic() - self._kept_at > TAKEOVER_S / 2:
                    self._lost = error  # raised by the next check, in the holder's own thread
                    return

    def take(self, steal: bool, patient: bool = False) -> None:
        """Create the claim, taking over a dead holder's.

        Args:
            steal: take it over without checking whether the holder is alive.
            patient: wait while the holder lives, instead of raising.

        Raises:
            ClaimedError: another builder is alive.
        """
        while not self._storage.create(self.name, self._content()):
            wait_until_free(self._storage, self.name, steal, patient, self._doing)
        self._kept_at = time.monotonic()
        self._thread.start()

    def release(self) -> None:
        """Remove the claim if this process still holds it."""
        self._done.set()
        self._thread.join()
        if _read(self._storage, self.name).get("id") == self._id:
            self._storage.delete(self.name)


def _read(storage: Storage, name: str) -> dict[str, Any]:
    """Return the fields of a claim; {} where there is none."""
    for _ in range(_READS):
        try:
            return parse_json(storage.read(name), name)
        except FileNotFoundError:
            return {}
        except DamageError:
            time.sleep(_BETWEEN_READS_S)  # it is being written, or the network gave it in part
    return {"id": "unreadable"}


def _is_dead_here(holder: dict[str, Any]) -> bool:
    """Return whether the holder ran on this machine, since this boot, and its process is gone."""
    process, pid = holder.get("process"), holder.get("pid")
    mine = _boot_and_start(os.getpid())
    if not isinstance(process, str) or not isinstance(pid, int) or mine is None:
        return False
    same_place = process.split()[:2] == mine.split()[:2]
    return same_place and _boot_and_start(pid) != process


def _describe(holder: dict[str, Any]) -> str:
    """Return who holds a claim and since when (by the holder's clock), for messages."""
    return ", ".join(f"{key} {shown_name(str(holder.get(key, '?')))}"[:200] for key in ("host", "pid", "since"))


def check_claim(storage: Storage, token: tuple[str, str]) -> None:
    """Raise ClaimedError unless the claim with this (file name, id) still stands."""
    name, mine = token
    holder = _read(storage, name)
    if not holder:
        raise ClaimedError(
            f"{storage.url}: the claim {name} of this process is gone: the folder was removed or moved, or another "
            "process took over this part and ended. Nothing more is written from here."
        )
    if holder.get("id") != mine:
        raise ClaimedError(
            f"{storage.url}: another process ({_describe(holder)}) took over this part; nothing more is written from "
            "here."
        )


def wait_until_free(storage: Storage, name: str, steal: bool, patient: bool = False, doing: str = "built") -> None:
    """Wait until nobody holds a claim, and remove a dead holder's.

    Args:
        storage: where the claim lies.
        name: its file.
        steal: do not wait.
        patient: wait for as long as the holder is alive, instead of raising.
        doing: past participle of the holder's work, for messages.

    Raises:
        ClaimedError: the holder is alive.
        Interrupted: a stop was requested while waiting.
    """
    holder = _read(storage, name)
    if not holder:
        return
    if not (steal or _is_dead_here(holder)):
        _wait_until_dead(storage, name, holder, patient, doing)
    logger.info(f"taking over from {_describe(holder)}")
    # Another process may have taken it over meanwhile: its claim must not be removed.
    if _read(storage, name).get("id") == holder.get("id"):
        storage.delete(name)


def _wait_until_dead(storage: Storage, name: str, holder: dict[str, Any], patient: bool, doing: str) -> None:
    logger.info(
        f"{storage.url} is being {doing} by {_describe(holder)}; waiting up to {TAKEOVER_S:.0f} s "
        "to see whether it is still running"
    )
    last, seen_since = holder, time.monotonic()
    while time.monotonic() - seen_since < TAKEOVER_S:
        time.sleep(min(1.0, TAKEOVER_S / 10))
        safe_point()
        now = _read(storage, name)
        if not now or (patient and now.get("id") != holder.get("id")):
            return
        if now != last and not patient:
            raise ClaimedError(
                f"{storage.url} is being {doing} by {_describe(now)} (its counter moves). Wait for it to end, or stop "
                f"it{_STEAL if doing == 'built' else ''}."
            )
        if now != last:
            last, seen_since = now, time.monotonic()


@contextlib.contextmanager
def hold_claim(
    storage: Storage, part: str, steal: bool, patient: bool = False, doing: str = "built"
) -> Iterator[Claim]:
    """Hold the claim on a part during a `with` block; other arguments and errors as in `wait_until_free`."""
    claim = Claim(storage, part, doing)
    claim.take(steal, patient)
    try:
        yield claim
    finally:
        with contextlib.suppress(WriteError):  # a full or vanished disk has already been reported
            claim.release()
