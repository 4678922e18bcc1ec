"""Several ranks: the same run as one, ended together, never hanging."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.processes import forked
from tests.support.processes.commands import wait_until
from tests.support.runs import EVERY_STEP, STEPS, TINY_RUN, TINY_STORE, losses, numbers, recipe
from usjepa.cache.errors import ClaimedError, UsageError
from usjepa.cache.storage.durable import write_durably
from usjepa.train.cli import main
from usjepa.train.run.loop import train
from usjepa.train.run.ranks import Ranks, ranks_of_this_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAIN = "from usjepa.train.cli import main; main()"


@contextmanager
def own_port() -> Iterator[str]:
    """Hold a port below those that the system hands out: neither its connections nor other tests take it."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    with socket.socket() as held:
        for port in random.SystemRandom().sample(range(1024, lowest), 100):
            with contextlib.suppress(OSError):
                held.bind(("127.0.0.1", port))
                break
        else:
            raise OSError("no free port found")
        # Rank 0, which asks for that too, may listen there all the same. Set before, it would let in other tests.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yield str(port)


def test_a_port_that_is_held_is_nobody_elses_and_rank_0_may_listen_there() -> None:
    with own_port() as port, socket.socket() as other, socket.socket() as rank_0:
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", int(port)))
        rank_0.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rank_0.bind(("", int(port)))
        rank_0.listen()


def command(store: Path, run: Path, *overrides: str, options: Sequence[str] = ()) -> list[str]:
    settings = [part for one in (*TINY_STORE, *TINY_RUN, *overrides) for part in ("--set", one)]
    return [str(store), str(run), "--pipeline", "demo", "--device", "cpu", *settings, *options]


@contextmanager
def ranks(
    size: int, arguments: Sequence[str], log: Path, program: str = MAIN
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start ranks as torchrun does, but watched by nobody; none outlives the block."""
    with own_port() as port, _started(size, arguments, log, program, port) as started:
        yield started


@contextmanager
def _started(
    size: int, arguments: Sequence[str], log: Path, program: str, port: str
) -> Iterator[list[subprocess.Popen[bytes]]]:
    started = []
    for rank in range(size):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        env = {**os.environ, **place, **meeting}
        with (log / f"rank{rank}.log").open("ab") as out:
            started.append(
                subprocess.Popen([sys.executable, "-c", program, *arguments], env=env, stdout=out, stderr=out)
            )
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def run_ranks(size: int, arguments: Sequence[str], log: Path) -> None:
    with ranks(size, arguments, log) as started:
        codes = [process.wait(240) for process in started]
    assert codes == [0] * size, "\n".join((log / f"rank{rank}.log").read_text()[-2000:] for rank in range(size))


def wait_for_step(run: Path, step: int, started: Sequence[subprocess.Popen[bytes]]) -> None:
    wait_until(lambda: (run / "log.jsonl").exists() and len(numbers(run)) > step, *started)


@pytest.fixture(scope="module")
def alone(phantom_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    train(str(phantom_store), str(run), recipe(), "cpu")
    return run


def same_draws(run: Path, other: Path) -> bool:
    """Rows, masks and counts of every step: equal, whatever the floats."""
    keys = ("step", "epoch", "images", "unusable", "batch", "lr", "wd")
    return [[line[key] for key in keys] for line in numbers(run)] == [
        [line[key] for key in keys] for line in numbers(other)
    ]


@pytest.mark.slow
def test_one_then_two_then_one_ranks_draw_the_same_and_lose_the_same_within_1e_5(
    phantom_store: Path, alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(str(phantom_store), str(run), recipe(), "cpu", stop_after_steps=4)
    run_ranks(2, command(phantom_store, run, options=("--stop-after-steps", "7")), tmp_path)
    train(str(phantom_store), str(run), recipe(), "cpu")
    assert len(losses(run)) == STEPS
    assert same_draws(run, alone)
    np.testing.assert_allclose(losses(run), losses(alone), atol=1e-5)
    validation = [[line["loss"] for line in numbers(it, "validation")] for it in (run, alone)]
    np.testing.assert_allclose(validation[0], validation[1], atol=1e-5)


@pytest.mark.parametrize("accumulate", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_accumulated_parts_draw_the_same_and_lose_the_same_within_1e_5(
    phantom_store: Path, alone: Path, tmp_path: Path, accumulate: int
) -> None:
    train(str(phantom_store), str(tmp_path / "run"), recipe(f"train.accumulate={accumulate}"), "cpu")
    assert same_draws(tmp_path / "run", alone)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone), atol=1e-5)


@pytest.mark.slow
def test_ranks_with_regions_share_unusable_images_unevenly_and_still_agree(phantom_store: Path, tmp_path: Path) -> None:
    """Accumulating in more parts than there are images leaves some parts empty."""
    more = ("train.masks.regions=true", "train.batch_size=3", "train.epochs=2", "train.warmup_epochs=0")
    train(str(phantom_store), str(tmp_path / "one"), recipe(*more), "cpu")
    run_ranks(2, command(phantom_store, tmp_path / "two", *more, "train.accumulate=2"), tmp_path)
    assert same_draws(tmp_path / "one", tmp_path / "two")
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), atol=1e-5)


@pytest.mark.slow
def test_a_rank_asked_to_stop_ends_all_of_them_with_75_and_the_same_command_goes_on(
    phantom_store: Path, alone: Path, tmp_path: Path
) -> None:
    run, arguments = tmp_path / "run", command(phantom_store, tmp_path / "run", "train.epochs=1000")
    with ranks(2, arguments, tmp_path) as started:
        wait_for_step(run, 2, started)
        started[1].send_signal(signal.SIGTERM)
        assert [process.wait(120) for process in started] == [75, 75]
    assert "another rank was asked to stop" in (tmp_path / "rank0.log").read_text()
    saved = json.loads(max((run / "state").glob("step-*.json")).read_text())["progress"]["step"]
    assert saved == len(numbers(run))


def as_rank(rank: int, port: str, arguments: Sequence[str]) -> None:
    """Train as one of two ranks."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    main(list(arguments))


def test_a_dead_rank_ends_the_others_with_a_message_within_a_minute(phantom_store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    place = command(phantom_store, run, "train.epochs=1000", EVERY_STEP)
    with own_port() as port:
        started = [forked.start(as_rank, rank, port, place, stderr=tmp_path / f"rank{rank}.log") for rank in range(2)]
        try:
            wait_until(lambda: (run / "log.jsonl").exists() and len(numbers(run)) > 2, *started)
            started[1].kill()
            started[0].join(60)
            assert started[0].exitcode == 1
        finally:
            for process in started:
                process.kill()
    told = (tmp_path / "rank0.log").read_text()
    assert "another rank died or does not answer" in told
    assert "Traceback" not in told


STOPPED_AT_A_CHECKPOINT = f"""
import os, signal
from usjepa.train.run import ranks
ranks._TIMEOUT_S, real, calls = 4.0, ranks.Ranks.while_rank_0, []
def while_rank_0(self, work):
    calls.append(work)
    if self.rank == int(os.environ["STOPPED"]) and len(calls) == 6:
        os.kill(os.getpid(), signal.SIGSTOP)
    real(self, work)
ranks.Ranks.while_rank_0 = while_rank_0
{MAIN}
"""


@pytest.mark.parametrize("stopped", [1, pytest.param(0, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_rank_stopped_while_a_checkpoint_is_awaited_ends_the_others_as_any_lost_rank_does(
    phantom_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: int
) -> None:
    monkeypatch.setenv("STOPPED", str(stopped))
    run = tmp_path / "run"
    arguments = command(phantom_store, run, "train.epochs=1000", EVERY_STEP)
    with ranks(2, arguments, tmp_path, STOPPED_AT_A_CHECKPOINT) as started:
        assert started[1 - stopped].wait(120) == 1
        assert started[stopped].poll() is None
    told = (tmp_path / f"rank{1 - stopped}.log").read_text()
    assert "another rank died or does not answer" in told
    assert "Traceback" not in told
    train(str(phantom_store), str(run), recipe("train.epochs=1000"), "cpu", stop_after_steps=1)


SLOW_STORAGE = f"""
import time
from usjepa.train.record.checkpoint import Checkpoints
from usjepa.train.run import ranks
ranks._TIMEOUT_S, real, saves = 4.0, Checkpoints.save, []
def save(*args):
    saves.append(args)
    if len(saves) == 2:
        time.sleep(2 * ranks._TIMEOUT_S)  # the share, not a wait for anybody
    real(*args)
Checkpoints.save = save
{MAIN}
"""


@pytest.mark.slow
def test_storage_slower_than_the_longest_wait_for_a_rank_ends_nothing(phantom_store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with ranks(2, command(phantom_store, run, options=("--stop-after-steps", "3")), tmp_path, SLOW_STORAGE) as started:
        assert [process.wait(120) for process in started] == [0, 0]
    assert len(numbers(run)) == 3


@pytest.mark.slow
def test_what_rank_0_could_not_write_ends_the_others_at_once_and_its_own_message_says_why(
    phantom_store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "claims").write_text("a file in the way")
    with ranks(2, command(phantom_store, run), tmp_path) as started:
        assert [process.wait(120) for process in started] == [1, 1]
    assert "rank 0 failed; its own message says why" in (tmp_path / "rank1.log").read_text()
    assert f"{run / 'claims'}" in (tmp_path / "rank0.log").read_text()
    assert "Traceback" not in (tmp_path / "rank0.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 3, 4, 9, 17])
def test_torchrun_starts_ranks_and_sigterm_to_it_saves(phantom_store: Path, tmp_path: Path, at: int) -> None:
    run = tmp_path / "run"
    arguments = command(phantom_store, run, "train.epochs=1000")
    script = tmp_path / "main.py"
    script.write_text(MAIN)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    process = subprocess.Popen([*torchrun, str(script), *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"})
    wait_for_step(run, at, [process])
    process.send_signal(signal.SIGTERM)
    process.wait(120)
    saved = json.loads(max((run / "state").glob("step-*.json")).read_text())["progress"]["step"]
    assert saved == len(numbers(run))
    train(str(phantom_store), str(run), recipe("train.epochs=1000"), "cpu", stop_after_steps=1)
    assert len(numbers(run)) == saved + 1


@pytest.mark.slow
def test_two_runs_into_one_folder_are_refused(
    phantom_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usjepa.cache.storage.claims.HEARTBEAT_S", 0.1)
    run = tmp_path / "run"
    with ranks(1, command(phantom_store, run, "train.epochs=1000"), tmp_path) as started:
        wait_for_step(run, 1, started)
        claim = run / "claims" / "run.json"
        held = json.loads(claim.read_text())
        write_durably(
            claim, json.dumps({**held, "count": held["count"] + 1}).encode()
        )  # it lives: spare the test its 20 s
        process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *command(phantom_store, run)], stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        with process.stderr as said:
            lines: list[str] = []
            while f"is being trained by host {held['host']}, pid {started[0].pid}" not in "".join(lines):
                lines.append(said.readline())
                assert lines[-1], lines  # it ended without that line
            write_durably(claim, json.dumps({**held, "count": held["count"] + 2}).encode())
            assert process.wait(120) == ClaimedError.exit_code
            assert "its counter moves" in said.read()


def test_shares_of_the_ranks_are_the_batch_in_order() -> None:
    batch = np.arange(11)
    for size in (1, 2, 3, 5):
        for parts in (1, 2, 4):
            found = [share for rank in range(size) for share in Ranks(rank, size).shares(batch, parts)]
            assert len(found) == size * parts
            assert np.concatenate(found).tolist() == batch.tolist()


def test_half_an_environment_of_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="start the ranks with torchrun"), ranks_of_this_run("cpu"):
        pass
