"""A build shared out among processes that know nothing of one another gives the store of a single one."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builds import small, tree
from tests.support.processes import forked
from tests.support.processes.commands import wait_until
from usjepa.cache.building.build import build, seal
from usjepa.cache.building.parts import Part, refuse_rivals
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import ClaimedError, NotSealedError, UsageError
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage import claims
from usjepa.cache.storage.local import LocalStorage

if TYPE_CHECKING:
    from pathlib import Path


@given(st.integers(1, 50), st.integers(0, 300))
def test_parts_are_disjoint_and_cover_every_shard(count: int, shards: int) -> None:
    dealt = [shard for i in range(count) for shard in Part(i + 1, count).of(range(shards))]
    assert sorted(dealt) == list(range(shards))


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/2", "1/2/3"])
def test_a_part_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"give i/n"):
        build(str(tmp_path / "s"), small(), BuildRequest(part=text))
    assert not (tmp_path / "s").exists()


def test_parts_one_after_the_other_give_the_bytes_of_a_single_build(tmp_path: Path, small_store: Path) -> None:
    root = tmp_path / "s"
    assert build(str(root), small(), BuildRequest(teacher="random", part="2/2")) is None
    with pytest.raises(NotSealedError, match=r"latents/demo has 1 of 3 shards"):
        seal(str(root))
    assert build(str(root), small(), BuildRequest(teacher="random", part="1/2")) is not None
    assert tree(root) == tree(small_store)


def _build_part(root: str, part: str, precision: str) -> None:
    build(root, small(f"cache.precision={precision}"), BuildRequest(teacher="random", part=part))


@pytest.mark.parametrize(
    "precision", ["int4", *(pytest.param(one, marks=pytest.mark.slow) for one in ("fp32", "int8"))]
)
def test_parts_at_the_same_time_give_the_bytes_of_a_single_build(tmp_path: Path, precision: str) -> None:
    root = tmp_path / "s"
    build(str(tmp_path / "whole"), small(f"cache.precision={precision}"), BuildRequest(teacher="random"))
    parts = [forked.start(_build_part, str(root), f"{i}/3", precision) for i in (1, 2, 3)]
    for part in parts:
        part.join()
        assert part.exitcode == 0
    seal(str(root))  # the two that ended last may each have seen the other's shard missing
    assert tree(root) == tree(tmp_path / "whole")


def _build_part_and_die(root: str, part: str, step: int) -> None:
    forked.die_at_durable_step(step)
    build(root, small(), BuildRequest(teacher="random", part=part))


@pytest.mark.parametrize("step", [5, 40, 62])
def test_a_part_that_was_killed_is_run_again_and_nothing_is_lost(tmp_path: Path, small_store: Path, step: int) -> None:
    root = tmp_path / "s"
    assert forked.run(_build_part_and_die, str(root), "1/2", step) == -signal.SIGKILL
    for part in ("2/2", "1/2"):
        build(str(root), small(), BuildRequest(teacher="random", part=part))
    seal(str(root))
    assert tree(root) == tree(small_store)


def _hold(root: str, name: str) -> None:
    with claims.hold_claim(LocalStorage(_path(root)), name, False):
        time.sleep(600)


def _path(root: str) -> Path:
    from pathlib import Path

    return Path(root)


@pytest.mark.parametrize(
    ("mine", "other", "rivals"),
    [
        ("build", "part-000001-of-000002", True),
        ("part-000001-of-000002", "build", True),
        ("part-000001-of-000002", "part-000002-of-000002", False),
        ("part-000001-of-000002", "part-000002-of-000003", True),
        ("build", "setup", False),
    ],
)
def test_builders_whose_work_overlaps_refuse_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: str, other: str, rivals: bool
) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.05)
    storage = LocalStorage(tmp_path)
    with claims.hold_claim(storage, other, False), claims.hold_claim(storage, mine, False):
        if rivals:
            with pytest.raises(ClaimedError, match=rf"pid {os.getpid()}, since 20.*its counter moves"):
                refuse_rivals(storage, mine, False)
        else:
            refuse_rivals(storage, mine, False)


def test_a_dead_rival_is_no_rival(tmp_path: Path, small_store: Path) -> None:
    root = tmp_path / "s"
    holder = forked.start(_hold, str(root), "part-000001-of-000002")
    wait_until((root / "claims/part-000001-of-000002.json").exists, holder)
    holder.kill()
    holder.join()
    build(str(root), small(), BuildRequest(teacher="random"))
    assert tree(root) == tree(small_store)


def test_a_part_waits_while_another_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setattr(claims, "TAKEOVER_S", 0.5)
    root = tmp_path / "s"
    claim = claims.Claim(LocalStorage(root), "setup")
    (root / "claims").mkdir(parents=True)
    (root / "claims/setup.json").write_bytes(json.dumps({"host": "other", "pid": 1, "id": "x", "count": 0}).encode())
    start = time.monotonic()
    claim.take(False, patient=True)
    claim.release()
    assert time.monotonic() - start >= 0.5
    assert "host other" in said[0]


def test_a_sealed_store_of_parts_reads_like_any_other(tmp_path: Path, small_store: Path) -> None:
    root = tmp_path / "s"
    for part in ("1/3", "2/3", "3/3"):
        build(str(root), small(), BuildRequest(teacher="random", part=part))
    rows = open_store(small_store).rows
    assert open_store(root).read(rows).latents.tobytes() == open_store(small_store).read(rows).latents.tobytes()
