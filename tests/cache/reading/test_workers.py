"""Threads that share pieces of work: each piece is done once, and what fails is raised once all have stopped."""

from __future__ import annotations

import threading
import weakref
from functools import partial
from itertools import count

import pytest

from usjepa.cache.reading.workers import Workers


@pytest.mark.parametrize("helpers", [0, 1, 3])
@pytest.mark.parametrize("alone", [False, True])
def test_every_piece_is_done_once_whatever_the_number_of_threads(helpers: int, alone: bool) -> None:
    workers = Workers(helpers)
    done: list[int] = []
    threads = set()
    workers.run(200, lambda number: (done.append(number), threads.add(threading.get_ident())), alone)
    assert sorted(done) == list(range(200))
    assert not alone or threads == {threading.get_ident()}
    workers.close()


def test_the_first_piece_that_fails_is_the_one_raised_and_none_runs_on() -> None:
    workers, seen = Workers(3), list[int]()

    def do(number: int) -> None:
        seen.append(number)
        if number >= 10:
            raise ValueError(str(number))

    for _ in range(20):
        with pytest.raises(ValueError, match=r"^10$"):
            workers.run(400, do)
        count = len(seen)
        assert count <= 14
        seen.clear()
    workers.close()


class _Batch:
    """Stands for a batch that pins open shards."""


def test_a_batch_that_failed_is_let_go_of_with_its_error_and_not_when_garbage_is_collected() -> None:
    workers, batch = Workers(1), _Batch()
    gone = weakref.ref(batch)

    def fail(_: int, batch: _Batch = batch) -> None:
        raise ValueError(f"{batch} failed")

    with pytest.raises(ValueError, match="failed"):
        workers.run(2, fail)
    del batch, fail
    workers.run(2, int)  # whoever helped has let go of the call
    assert gone() is None
    workers.close()


def test_helpers_end_when_their_workers_are_closed_or_forgotten() -> None:
    workers = Workers(2)
    workers.run(9, int)
    closed, forgotten = list(workers._threads), Workers(2)
    workers.close()
    assert not any(thread.is_alive() for thread in closed)
    left = list(forgotten._threads)
    del forgotten
    for thread in left:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in left)


def _as_if(monkeypatch: pytest.MonkeyPatch, wall_s: float, own_s: float) -> None:
    """Let clocks say that each call takes so long, and computes for so much of it."""
    for name, step in (("perf_counter", wall_s), ("thread_time", own_s)):
        monkeypatch.setattr(f"usjepa.cache.reading.workers.{name}", partial(next, count(0, step)))


def test_spare_helpers_join_after_a_call_that_mostly_waited_and_leave_after_one_that_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers = Workers(1, spare=2)

    def at_once(threads: int) -> None:
        together = threading.Barrier(threads)
        workers.run(threads, lambda _: together.wait(timeout=120))  # ends only where so many work at the same time

    _as_if(monkeypatch, wall_s=9, own_s=1)
    at_once(2)
    assert workers.threads == 4
    at_once(4)
    assert workers.threads == 4
    _as_if(monkeypatch, wall_s=9, own_s=8)
    at_once(4)
    assert workers.threads == 2
    workers.run(50, int)
    everyone = list(workers._threads)
    assert len(everyone) == 3
    workers.close()
    assert not any(thread.is_alive() for thread in everyone)


def test_spare_helpers_are_not_started_before_they_are_needed() -> None:
    workers = Workers(1, spare=6)
    assert len(workers._threads) == 1
    workers.close()


def test_workers_that_are_closed_start_no_thread_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    workers, done = Workers(1, spare=6), list[int]()
    _as_if(monkeypatch, wall_s=9, own_s=1)
    workers.run(2, int)
    workers.close()
    workers.run(9, done.append)
    assert len(workers._threads) == 1
    assert sorted(done) == list(range(9))


def test_workers_that_are_closed_while_another_call_starts_a_spare_thread_end_that_one_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers, closing = Workers(1, spare=1), threading.Event()
    _as_if(monkeypatch, wall_s=9, own_s=1)
    workers.run(2, int)
    closer = threading.Thread(target=lambda: (closing.set(), workers.close()))

    class Slow(threading.Thread):
        def start(self) -> None:
            closer.start()
            assert closing.wait(timeout=120)
            closer.join(timeout=0.2)  # time to close everything, were it not kept waiting
            super().start()

    monkeypatch.setattr("usjepa.cache.reading.workers.threading.Thread", Slow)
    workers.run(3, int)
    closer.join(timeout=30)
    assert not closer.is_alive()
    assert len(workers._threads) == 2
    assert not any(thread.is_alive() for thread in workers._threads)
