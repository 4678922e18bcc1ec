"""One builder per store: the second is told who builds; a dead one is replaced, a living one never."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from tests.support.processes import forked
from usjepa.cache.errors import ClaimedError
from usjepa.cache.storage import claims
from usjepa.cache.storage.claims import Claim, hold_claim
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.storage.protocol import Buffer, Guard, unguarded


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(claims, "TAKEOVER_S", 60.0)  # where a test waits for it, it says for how long


def foreign(root: Path) -> None:
    """Leave the claim of a builder on another machine, whose counter stands still."""
    (root / "claims").mkdir(parents=True)
    holder = {"host": "gpu-box", "pid": 4242, "process": "other-boot other-space 1", "id": "theirs", "count": 7}
    (root / "claims/build.json").write_text(json.dumps(holder))


def test_a_claim_is_held_and_given_back_without_a_trace(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with hold_claim(storage, "build", False) as claim:
        claim.check()
        content = json.loads((tmp_path / "claims/build.json").read_text())
        assert content["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_second_builder_is_told_host_and_pid(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with (
        hold_claim(storage, "build", False),
        pytest.raises(ClaimedError, match=rf"host .*, pid {os.getpid()}.*its counter moves"),
        hold_claim(storage, "build", False),
    ):
        raise AssertionError("two builders held one claim")


def _claim_and_die(root: str) -> None:
    with hold_claim(LocalStorage(Path(root)), "build", False):
        os.kill(os.getpid(), 9)


def test_a_builder_killed_on_this_machine_is_replaced_at_once(tmp_path: Path, said: list[str]) -> None:
    assert forked.run(_claim_and_die, str(tmp_path)) == -9
    start = time.monotonic()
    with hold_claim(LocalStorage(tmp_path), "build", False):
        assert time.monotonic() - start < claims.TAKEOVER_S
    assert any("taking over" in line for line in said)


def test_a_foreign_builder_whose_counter_stands_still_is_taken_over_after_the_wait(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "TAKEOVER_S", 1.0)
    foreign(tmp_path)
    start = time.monotonic()
    with hold_claim(LocalStorage(tmp_path), "build", False):
        assert time.monotonic() - start >= claims.TAKEOVER_S
    assert "gpu-box, pid 4242" in said[0]


def test_steal_skips_the_wait(tmp_path: Path) -> None:
    foreign(tmp_path)
    start = time.monotonic()
    with hold_claim(LocalStorage(tmp_path), "build", True):
        assert time.monotonic() - start < claims.TAKEOVER_S


def test_a_builder_that_was_overtaken_writes_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A heartbeat that sleeps between its look at the claim and its rename would bring the claim back.
    monkeypatch.setattr(claims, "HEARTBEAT_S", 600.0)
    storage = LocalStorage(tmp_path)
    with hold_claim(storage, "build", False) as slept, hold_claim(storage, "build", True) as taken:
        taken.check()
        with pytest.raises(ClaimedError, match="took over this part"):
            slept.check()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_cut_short_by_a_crash_counts_as_a_holder_that_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "TAKEOVER_S", 1.0)
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims/build.json").write_bytes(b"")
    start = time.monotonic()
    with hold_claim(LocalStorage(tmp_path), "build", False) as claim:
        assert time.monotonic() - start >= claims.TAKEOVER_S
        claim.check()


def test_two_parts_have_a_claim_each(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with hold_claim(storage, "part-1", False) as one, hold_claim(storage, "part-2", False) as two:
        one.check()
        two.check()
        assert sorted(storage.names("claims")) == ["part-1.json", "part-2.json"]


class _StoppedBeforePublishing(LocalStorage):
    """A folder whose writer is stopped just before it publishes, once, and overtaken meanwhile."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.successor = Claim(LocalStorage(root), "build")
        self.overtaken = threading.Event()

    def publish(self, name: str, data: Buffer, guard: Guard = unguarded) -> None:
        if not self.overtaken.is_set():
            self.successor.take(True)
            self.overtaken.set()
        super().publish(name, data, guard)


def test_a_holder_overtaken_within_a_heartbeat_does_not_take_the_claim_back(tmp_path: Path) -> None:
    storage = _StoppedBeforePublishing(tmp_path)
    with hold_claim(storage, "build", False) as slept:
        assert storage.overtaken.wait(120)
        slept._thread.join(60.0)  # the heartbeat that was overtaken ends by itself
        storage.successor.check()
        with pytest.raises(ClaimedError, match="took over this part"):
            slept.check()
    storage.successor.release()
    assert list(tmp_path.iterdir()) == []
