"""Claims: one builder per (store, part).

A claim is a file created with O_EXCL that holds who builds (host, pid, a random id) and a counter that is rewritten
every 20 s. Whoever finds one waits: when the counter stands still for 90 s on the waiter's own clock, the holder is
taken to be dead and the claim is taken over. No locks, no hard links, no clocks compared ("since" is for people only).
On the same machine a holder whose process is gone is replaced at once.

A claim is asked about just before each rename that publishes something. A builder that was stopped exactly between the
two finds its temp file gone when it wakes up: whoever takes over a whole build sweeps them first. Where nothing sweeps
(parts, object storage) it could still replace a shard by its own; that shard then holds the same bytes or differs from
its commit record, so a read of it is right or raises, and `verify --repair` mends it.
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

from usjepa.cache.errors import ClaimedError, DamageError, StoreError, WriteError
from usjepa.cache.identity import canonical, parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usjepa.cache.storage.protocol import Storage

logger = logging.getLogger(__name__)

HEARTBEAT_S = 20.0
TAKEOVER_S = 90.0
_STEAL = "; `--steal` takes over a builder that you know is dead"


def _boot_and_start(pid: int) -> str | None:
    """Return what tells this run of a process from another with its number, None where it can't be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # Field 22 of stat is the start time; the name before it may hold spaces and brackets.
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        space = os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None
    return f"{boot} {space} {started}"


class Claim:
    """A held claim. `check` must be called just before publishing: a claim can be taken from a stopped holder."""

    def __init__(self, storage: Storage, part: str, doing: str = "built") -> None:
        self._storage, self._doing = storage, doing
        self.name = f"claims/{part}.json"
        self._id = uuid.uuid4().hex
        self._count = 0
        self._since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._done = threading.Event()
        self._lost: BaseException | None = None
        self._thread = threading.Thread(target=self._beat, name="claim", daemon=True)

    def _content(self) -> bytes:
        mine = {"host": platform.node(), "pid": os.getpid(), "process": _boot_and_start(os.getpid())}
        return canonical({**mine, "since": self._since, "id": self._id, "count": self._count}) + b"\n"

    @property
    def token(self) -> tuple[str, str]:
        """(file name, id): what a helper of the holder needs to ask whether the claim still stands."""
        return self.name, self._id

    def check(self) -> None:
        """Raise ClaimedError unless this process still holds the claim."""
        if self._lost is not None:
            raise ClaimedError(f"{self._storage.url}: the claim could not be kept up: {self._lost}") from self._lost
        check_token(self._storage, self.token)

    def _beat(self) -> None:
        while not self._done.wait(HEARTBEAT_S):
            try:
                self.check()
                self._count += 1
                self._storage.publish(self.name, self._content(), self.check)
            except (StoreError, OSError) as error:
                self._lost = error  # raised by the next check, in the builder's own thread
                return

    def take(self, steal: bool, patient: bool = False) -> None:
        """Create the claim, taking over a dead holder's.

        Args:
            steal: take it over without looking whether the holder lives.
            patient: wait while the holder lives, instead of raising.

        Raises:
            ClaimedError: another builder is alive.
        """
        while not self._storage.create(self.name, self._content()):
            settle(self._storage, self.name, steal, patient, self._doing)
        self._thread.start()

    def release(self) -> None:
        """Give the claim back if it is still ours."""
        self._done.set()
        self._thread.join()
        if _read(self._storage, self.name).get("id") == self._id:
            self._storage.delete(self.name)


def _read(storage: Storage, name: str) -> dict[str, Any]:
    try:
        return parse_json(storage.read(name), name)
    except FileNotFoundError:
        return {}
    except DamageError:  # caught between O_EXCL and the first bytes: a holder we know nothing of yet
        return {"id": "unreadable"}


def _is_dead_here(holder: dict[str, Any]) -> bool:
    """Return whether the holder ran on this machine, since this boot, and its process is gone."""
    process, pid = holder.get("process"), holder.get("pid")
    mine = _boot_and_start(os.getpid())
    if not isinstance(process, str) or not isinstance(pid, int) or mine is None:
        return False
    same_place = process.split()[:2] == mine.split()[:2]
    return same_place and _boot_and_start(pid) != process


def describe(holder: dict[str, Any]) -> str:
    """Return who holds a claim and since when (by the holder's clock), for messages."""
    return f"host {holder.get('host', '?')}, pid {holder.get('pid', '?')}, since {holder.get('since', '?')}"


def check_token(storage: Storage, token: tuple[str, str]) -> None:
    """Raise ClaimedError unless the claim with this (file name, id) still stands."""
    name, mine = token
    holder = _read(storage, name)
    if holder.get("id") != mine:
        raise ClaimedError(
            f"{storage.url}: another builder ({describe(holder)}) took over this part; "
            "nothing more is written from here."
        )


def settle(
    storage: Storage,
    name: str,
    steal: bool,
    patient: bool = False,
    doing: str = "built",
) -> None:
    """Return once nobody holds the claim `name` any more, removing a dead holder's; arguments as in `Claim.take`."""
    holder = _read(storage, name)
    if not holder:
        return
    if not (steal or _is_dead_here(holder)):
        _wait_until_dead(storage, name, holder, patient, doing)
    logger.info(f"taking over from {describe(holder)}")
    # Somebody else may have taken it over meanwhile: theirs must not be removed.
    if _read(storage, name).get("id") == holder.get("id"):
        storage.delete(name)


def _wait_until_dead(storage: Storage, name: str, holder: dict[str, Any], patient: bool, doing: str) -> None:
    logger.info(
        f"{storage.url} is being {doing} by {describe(holder)}; waiting up to {TAKEOVER_S:.0f} s "
        "to see whether it lives"
    )
    last, seen_since = holder, time.monotonic()
    while time.monotonic() - seen_since < TAKEOVER_S:
        time.sleep(min(1.0, TAKEOVER_S / 10))
        now = _read(storage, name)
        if not now or (patient and now.get("id") != holder.get("id")):
            return
        if now != last and not patient:
            raise ClaimedError(
                f"{storage.url} is being {doing} by {describe(now)} (its counter moves). Wait for it to end, or stop "
                f"it{_STEAL if doing == 'built' else ''}."
            )
        if now != last:
            last, seen_since = now, time.monotonic()


@contextlib.contextmanager
def held(
    storage: Storage,
    part: str,
    steal: bool,
    patient: bool = False,
    doing: str = "built",
) -> Iterator[Claim]:
    """Hold a claim for the length of a `with` block; `doing` names the work, other arguments as in `Claim.take`."""
    claim = Claim(storage, part, doing)
    claim.take(steal, patient)
    try:
        yield claim
    finally:
        with contextlib.suppress(WriteError):  # a full or vanished disk has already been reported
            claim.release()
