"""A worker of a cluster: runs flow into one pipeline, make only what is missing, and end with their client."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builds import SMALL, small, tree
from tests.support.processes import forked
from tests.support.processes.commands import LIMIT_S, run_python, stop_python
from usjepa.cache.building.build import build, seal
from usjepa.cache.building.cluster import client, worker
from usjepa.cache.building.cluster.client import runs_of
from usjepa.cache.building.cluster.connecting import connect, connecting
from usjepa.cache.building.cluster.order import Told, WorkOrder
from usjepa.cache.building.cluster.worker import forget, make_run
from usjepa.cache.building.parts import WHOLE
from usjepa.cache.building.pipeline import Pipeline
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.building.shard_maker import ShardMaker
from usjepa.cache.building.stages import Stages
from usjepa.cache.decoding import cutters
from usjepa.cache.errors import ClaimedError, Interrupted, StoreError
from usjepa.cache.storage.claims import Claim
from usjepa.cache.storage.location import open_storage
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.teacher.resolve import resolve_teacher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIVE_SHARDS = "cache.rows_per_shard=4"


@contextlib.contextmanager
def ordered(root: Path, *sets: str) -> Iterator[tuple[WorkOrder, Claim]]:
    """An order for a store whose last shard is made, as a client gives it, and the client's claim."""
    shards = 5 if FIVE_SHARDS in sets else 3
    settings = small(*sets).cache
    assert build(str(root), small(*sets), BuildRequest(teacher="random", part=f"{shards}/{shards}")) is None
    claim = Claim(open_storage(str(root)), WHOLE)
    claim.take(False)
    teacher = resolve_teacher("random", settings.teacher)
    order = WorkOrder(str(root), settings, "phantom", None, teacher, "cpu", False, claim.token)
    try:
        yield order, claim
    finally:
        if order.claim in worker._lines:
            worker._lines.pop(order.claim).close()
        claim.release()


def test_a_run_makes_only_what_is_not_committed_and_the_store_is_that_of_one_build(
    tmp_path: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = []
    real = ShardMaker.pixels_of
    monkeypatch.setattr(
        ShardMaker, "pixels_of", lambda self, shard, turn=None: cut.append(shard) or real(self, shard, turn)
    )
    with ordered(tmp_path / "s") as (order, _):
        cut.clear()
        make_run(order, [1])
        make_run(order, [0, 1, 2])  # as after the death of a worker that had made shard 1 of them
    assert cut == [1, 0]
    seal(str(tmp_path / "s"))
    assert tree(tmp_path / "s") == tree(small_store)


def test_a_run_ends_with_its_client_and_writes_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after the run's last shard, but at the next safe point."""
    monkeypatch.setattr(worker, "_ASK_EVERY_S", 0.0)
    first, over, real = threading.Lock(), threading.Event(), ShardMaker.write
    with ordered(tmp_path / "s", FIVE_SHARDS) as (order, claim):

        def write(self: ShardMaker, *args: Any) -> None:
            if first.acquire(blocking=False):
                real(self, *args)
                claim.release()
                over.set()
                return
            assert over.wait(LIMIT_S)
            real(self, *args)

        monkeypatch.setattr(ShardMaker, "write", write)
        with pytest.raises((Interrupted, ClaimedError), match="is gone"):
            make_run(order, [0, 1, 2, 3])
        with pytest.raises(Interrupted, match="is gone"):
            make_run(order, [3])
    commits = {file.name for file in (tmp_path / "s/commits/pixels").iterdir()}
    assert len(commits) == 2  # the last shard, made before, and the one that was made here


def test_a_share_that_fails_for_a_moment_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_ASK_EVERY_S", 0.0)

    def fails(*_: object) -> None:
        raise StoreError("stale file handle")

    monkeypatch.setattr(worker, "check_claim", fails)
    worker._ClientLives(open_storage(str(tmp_path)), ("claims/build.json", "x"))()


def test_a_worker_keeps_teacher_and_pipeline_from_run_to_run_and_frees_them_when_it_is_told(tmp_path: Path) -> None:
    with ordered(tmp_path / "s") as (order, _):
        make_run(order, [0])
        line = worker._lines[order.claim]
        make_run(order, [1])
        assert worker._lines == {order.claim: line}
        forget(order.claim)
        assert not worker._lines
        with pytest.raises(Interrupted, match="ended the build"):
            line.client_lives()


def test_what_a_worker_kept_for_a_client_that_died_is_freed_by_the_next_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_ASK_EVERY_S", 0.0)
    with ordered(tmp_path / "a") as (first, claim):
        make_run(first, [0])
        claim.release()
        with ordered(tmp_path / "b") as (second, _):
            make_run(second, [0])
            assert set(worker._lines) == {second.claim}


def test_a_build_whose_client_has_ended_ends_no_other_that_the_worker_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, made, close, cut = threading.Event(), threading.Event(), Pipeline.close, ShardMaker.pixels_of

    def late(self: Pipeline) -> None:
        ending.set()
        assert made.wait(LIMIT_S)
        close(self)

    with ordered(tmp_path / "a") as (first, _), ordered(tmp_path / "b") as (second, _):
        make_run(first, [0])

        def while_the_other_ends(self: ShardMaker, *shard: Any) -> Any:
            forget(first.claim)
            assert ending.wait(LIMIT_S)
            return cut(self, *shard)

        monkeypatch.setattr(Pipeline, "close", late)
        monkeypatch.setattr(ShardMaker, "pixels_of", while_the_other_ends)
        try:
            make_run(second, [0, 1])
        finally:
            made.set()
    seal(str(tmp_path / "b"))


@pytest.mark.parametrize(("processes", "neighbours", "lookahead"), [(3, 1, 3), (3, 4, 3), (None, 1, 8), (None, 4, 2)])
def test_a_worker_decodes_in_as_many_processes_as_the_recipe_says_else_in_its_share_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int | None, neighbours: int, lookahead: int
) -> None:
    monkeypatch.setattr(cutters, "_SMALL_ROWS", 0)
    monkeypatch.setattr(cutters, "cores", lambda: 16)
    settings = small().cache.model_copy(update={"decode_processes": processes})
    build(str(tmp_path / "s"), small("cache.phantom.patients=1"), BuildRequest())
    writer = StoreWriter(open_storage(str(tmp_path / "s")))
    writer.attach()
    order = WorkOrder(str(tmp_path / "s"), settings, "phantom", None, None, None, False, ("", ""), neighbours)
    found = worker._cutters(order, writer)
    assert found is not None
    assert found.lookahead == lookahead
    found.close()


def _two_runs_at_once(root: Path) -> None:
    """Build with two runs of which the first can't end before the second has begun."""
    from distributed import Client, LocalCluster

    begun, real_pixels, real_write = threading.Event(), ShardMaker.pixels_of, ShardMaker.write

    def pixels_of(self: ShardMaker, shard: int, turn: int | None) -> Any:
        if shard == 1:
            begun.set()
        return real_pixels(self, shard, turn)

    def write(self: ShardMaker, shard: int, *args: Any) -> None:
        assert shard != 0 or begun.wait(LIMIT_S)
        real_write(self, shard, *args)

    ShardMaker.pixels_of, ShardMaker.write = pixels_of, write  # type: ignore[method-assign, assignment]
    with (
        ordered(root) as (order, _),
        LocalCluster(
            1,
            processes=False,
            threads_per_worker=1,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        ) as cluster,
        Client(cluster) as asking,
    ):
        runs = [asking.submit(make_run, order, [shard], pure=False) for shard in (0, 1)]
        for run in runs:
            run.result()
        assert {event["shard"] for _, event in asking.get_events(order.topic)} == {0, 1}


def test_a_run_begins_while_the_last_shards_of_the_one_before_it_are_made(tmp_path: Path) -> None:
    assert forked.run(_two_runs_at_once, tmp_path / "s") == 0


def _nobody_left(root: Path) -> None:
    client._ALONE_S = 1.0
    with ordered(root) as (order, _), connect("local:1") as asking:
        asking.retire_workers(close_workers=True)
        with pytest.raises(StoreError, match=r"worker processes .* are gone, and none came in their place. Committed"):
            client.make_shards_on(asking, order, [0, 1], lambda _: 8)


def test_a_cluster_here_whose_workers_left_for_good_is_not_waited_for_without_end(tmp_path: Path) -> None:
    assert forked.run(_nobody_left, tmp_path / "s") == 0


@forked.in_own_process
def test_two_clusters_on_one_machine_need_no_port_of_their_own_and_workers_import_before_they_work() -> None:
    with connecting("local:1") as first, connecting("local:1") as second:
        for cluster in (first, second):
            imported = cluster().run(lambda: "usjepa.cache.building.cluster.worker" in sys.modules)
            assert list(imported.values()) == [True]


@given(st.integers(0, 3000), st.integers(0, 70))
def test_runs_cover_all_shards_in_order_and_are_short_enough_to_end_together(shards: int, threads: int) -> None:
    todo = list(range(0, 2 * shards, 2))
    runs = runs_of(todo, threads)
    assert [shard for run in runs for shard in run] == todo
    assert all(len(run) <= 8 for run in runs)
    if shards >= 16 * 8 * max(threads, 1):
        assert len(runs[0]) == 8
    assert not runs or len(runs) >= min(shards, 16 * threads)


def test_shards_whose_workers_died_again_and_again_are_named_without_those_that_are_committed() -> None:
    from distributed.scheduler import KilledWorker

    class Asked:
        def scheduler_info(self, **_: object) -> dict[str, Any]:
            return {"workers": {f"tcp://{i}": {"host": f"node{i % 2}", "nthreads": 1} for i in range(5)}}

    class Shown:
        rows = 0

        def update(self, rows: int, **_: object) -> None:
            self.rows += rows

    class Dead:
        def result(self) -> None:
            raise KilledWorker("make_run-1", None, 3)  # type: ignore[arg-type]

    order, shown = WorkOrder("s", small().cache, None, None, None, None, False, ("", "id")), Shown()
    side = client._Client(Asked(), order, shown, lambda shard: 100 + shard)  # type: ignore[arg-type]
    assert side._order.neighbours == 3
    for shard in (8, 9, 8):  # 8 was told twice: its run was made again
        side._told.put(Told(worker="tcp://1", how="decodes", shard=shard, stages=Stages().told()))
    with pytest.raises(StoreError, match="a worker died with shard 10 or 11 in hand, 4 times: out of memory"):
        side._result(Dead(), [8, 9, 10, 11])  # type: ignore[arg-type]
    assert shown.rows == 217


@pytest.mark.slow
def test_ctrl_c_ends_client_and_workers_and_the_next_build_goes_on(tmp_path: Path, small_store: Path) -> None:
    sets = [part for item in (*SMALL, FIVE_SHARDS, "cache.phantom.patients=40") for part in ("--set", item)]
    command = ["-m", "usjepa.cache.cli", "build", tmp_path / "s", "--pipeline", "demo", *sets, "--teacher", "random"]
    commits = tmp_path / "s/commits/latents/demo"
    ended = stop_python(
        signal.SIGINT, lambda: commits.exists() and any(commits.iterdir()), *command, "--dask", "local:1"
    )
    assert "stopped by SIGINT" in ended.stderr
    made = len(list(commits.iterdir()))
    assert made < 100
    run_python(*command, "--dask", "local:1")
    assert len(list(commits.iterdir())) == 100
