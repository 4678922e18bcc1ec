"""A build on a Dask cluster: whoever dies, nothing is lost, and the store is the serial one, byte for byte."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from tests.support.builds import small, tree
from tests.support.processes import forked
from tests.support.processes.commands import run_python, wait_until
from usjepa.cache.building.build import build
from usjepa.cache.building.cluster.connecting import connecting
from usjepa.cache.building.cluster.order import WorkOrder
from usjepa.cache.building.cluster.worker import make_run
from usjepa.cache.building.parts import WHOLE
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import IdentityError, StoreError, UsageError, UsjepaError
from usjepa.cache.storage.claims import Claim
from usjepa.cache.storage.location import open_storage
from usjepa.cache.teacher.vit import load_vit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.process import BaseProcess

    from usjepa.cache.recipes.cache import TeacherSettings

# Some seconds of work, so that a kill hits in the middle of it.
SIZED = ("cache.phantom.patients=8", "cache.phantom.frames_per_patient=8", "cache.phantom.size=160")


class Cluster:
    """A scheduler and workers, each a process of its own that a test may kill."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scheduler.json"
        self.log = (folder / "cluster.log").open("ab")
        self.processes: list[subprocess.Popen[bytes]] = []
        self.scheduler = self.start(
            "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
            "--scheduler-file", str(self.file),
        )  # fmt: skip
        self.workers = [self.worker() for _ in range(2)]
        self.address = ""

    def wait(self) -> None:
        """Wait until the scheduler has written its file: for a moment it is there and empty."""
        wait_until(lambda: self.file.exists() and self.file.read_text().strip().endswith("}"), self.scheduler)
        self.address = str(json.loads(self.file.read_text())["address"])

    def worker(self, threads: int = 1) -> subprocess.Popen[bytes]:
        return self.start(
            "distributed.cli.dask_worker", "--scheduler-file", str(self.file), "--nthreads", str(threads), "--no-nanny",
            "--no-dashboard", "--memory-limit", "0", "--death-timeout", "120",
        )  # fmt: skip

    def start(self, module: str, *args: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        process = subprocess.Popen(
            [sys.executable, "-m", module, *args], env=environment, stdout=self.log, stderr=self.log
        )
        self.processes.append(process)
        return process

    def stop(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        self.log.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        made.wait()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("serial") / "s"
    assert forked.run(_build, str(root), None) == 0
    return root


def _build(root: str, dask: str | None) -> None:
    try:
        build(root, small(*SIZED), BuildRequest(teacher="random", dask=dask))
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from error


def _after_first_commits(root: Path, client: BaseProcess) -> None:
    wait_until(lambda: len(list((root / "commits").rglob("*.json"))) >= 2, client)


@pytest.mark.slow
def test_a_worker_of_several_threads_makes_as_many_shards_at_once_and_mixes_none_up(
    tmp_path: Path, cluster: Cluster, serial: Path
) -> None:
    """From stored pixels, without sources: a thread that took another's shard for its own would ask for them."""
    for worker in cluster.workers:
        worker.kill()
    cluster.worker(threads=6)
    build(str(tmp_path / "s"), small(*SIZED), BuildRequest(source="phantom"))
    assert forked.run(_build, str(tmp_path / "s"), cluster.address) == 0  # the threads of a client stay out of here
    found, wanted = (
        {name: data for name, data in tree(root).items() if "manifest" not in name} for root in (tmp_path / "s", serial)
    )
    assert found == wanted


def test_a_worker_that_finds_another_checkpoint_at_the_same_path_stores_nothing(tmp_path: Path) -> None:
    """As on a cluster whose machines have folders of their own; here the file is changed between client and worker."""
    weights = tmp_path / "teacher.safetensors"

    def settings(seed: int) -> TeacherSettings:
        settings = small(*SIZED).cache.teacher
        assert settings is not None
        made = load_vit(settings.model_copy(update={"seed": seed}), 32, torch.device("cpu"))
        save_file(made.model.state_dict(), weights)
        return settings.model_copy(update={"weights": str(weights), "batch_size": 32})

    recipe, root = small(*SIZED), str(tmp_path / "s")
    build(root, recipe, BuildRequest(source="phantom"))
    settings(0)
    build(root, recipe, BuildRequest(teacher=str(weights)))
    for folder in ("commits/latents", "latents"):
        for file in (tmp_path / "s" / folder / "demo").glob("*0*"):
            file.unlink()
    claim = Claim(open_storage(root), WHOLE)
    claim.take(False)
    order = WorkOrder(root, recipe.cache, None, None, settings(1), "cpu", False, claim.token)
    try:
        with pytest.raises(IdentityError, match=r"worker on .*\n.*weights"):
            make_run(order, [0])
    finally:
        claim.release()
    assert not list((tmp_path / "s/latents/demo").glob("c.*"))


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_costs_nothing_but_its_shard(
    tmp_path: Path, cluster: Cluster, serial: Path
) -> None:
    client = forked.start(_build, str(tmp_path / "s"), cluster.address, stderr=tmp_path / "client.log")
    _after_first_commits(tmp_path / "s", client)
    cluster.workers[0].send_signal(signal.SIGKILL)
    client.join()
    assert client.exitcode == 0, (tmp_path / "client.log").read_text()
    assert tree(tmp_path / "s") == tree(serial)


@pytest.mark.slow
def test_a_client_killed_in_the_middle_is_run_again(tmp_path: Path, cluster: Cluster, serial: Path) -> None:
    client = forked.start(_build, str(tmp_path / "s"), cluster.address)
    _after_first_commits(tmp_path / "s", client)
    client.kill()
    client.join()
    assert forked.run(_build, str(tmp_path / "s"), cluster.address) == 0
    assert tree(tmp_path / "s") == tree(serial)


@pytest.mark.slow
def test_a_scheduler_killed_in_the_middle_is_said_and_the_next_build_goes_on(
    tmp_path: Path, cluster: Cluster, serial: Path
) -> None:
    client = forked.start(_build, str(tmp_path / "s"), cluster.address, stderr=tmp_path / "client.log")
    _after_first_commits(tmp_path / "s", client)
    cluster.scheduler.kill()
    client.join()
    assert client.exitcode == 1
    assert "scheduler is gone" in (tmp_path / "client.log").read_text()
    assert forked.run(_build, str(tmp_path / "s"), None) == 0
    assert tree(tmp_path / "s") == tree(serial)


@pytest.mark.slow
def test_a_teacher_that_ends_its_workers_is_told_and_the_shards_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    (tmp_path / "ending.py").write_text(
        "import os, sys\nfrom tests.support.teachers import steady\n\n"
        "def teacher(*given):\n"
        "    if any('dask_worker' in word for word in sys.orig_argv):\n        os._exit(1)\n"
        "    return steady(*given)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.getcwd()}")
    made = Cluster(tmp_path)
    try:
        made.wait()
        sets = [part for item in small_sets() for part in ("--set", item)]
        command = ["-m", "usjepa.cache.cli", "build", tmp_path / "s", "--pipeline", "demo", *sets]
        told = run_python(*command, "--teacher", "ending:teacher", "--dask", made.address, code=1).stderr
    finally:
        made.stop()
    assert re.search(r"a worker died with shard [\d or]+ in hand, once: out of memory", told)
    assert "Traceback" not in told


@pytest.mark.slow
def test_processes_of_this_machine_make_a_cluster_too(tmp_path: Path, serial: Path) -> None:
    command = ["-m", "usjepa.cache.cli", "build", tmp_path / "s", "--pipeline", "demo"]
    sets = [part for item in small_sets() for part in ("--set", item)]
    told = run_python(*command, *sets, "--teacher", "random", "--dask", "local:2").stderr
    assert "distributed" not in told  # it warns of workers that end, were they to be missed
    assert tree(tmp_path / "s") == tree(serial)


def small_sets() -> tuple[str, ...]:
    from tests.support.builds import SMALL

    return (*SMALL, *SIZED)


def _leaves_word(folder: str) -> None:
    from multiprocessing.util import Finalize

    Finalize(None, (Path(folder) / "ended").touch, exitpriority=1)


def _connected(folder: str, fails: bool) -> None:
    with connecting("local:1") as wait_for_client:
        wait_for_client().submit(_leaves_word, folder).result()
        if fails:
            raise StoreError("of the build")


@pytest.mark.parametrize("fails", [False, pytest.param(True, marks=pytest.mark.slow)])
@forked.in_own_process
def test_a_worker_whose_work_is_done_is_ended_at_once_and_one_of_a_build_that_failed_is_asked_to(
    tmp_path: Path, fails: bool
) -> None:
    with pytest.raises(StoreError, match="of the build") if fails else contextlib.nullcontext():
        _connected(str(tmp_path), fails)
    assert (tmp_path / "ended").exists() == fails


def test_a_cluster_is_started_before_what_takes_seconds_to_import_is_imported() -> None:
    heavy = "{'torch', 'timm', 'distributed'}"
    run_python("-c", f"import sys, usjepa.cache.building.build; assert not {heavy} & set(sys.modules)")


@pytest.mark.parametrize("address", ["local:0", "local:x", "local:"])
def test_a_wrong_number_of_workers_is_refused_before_anything_is_written(tmp_path: Path, address: str) -> None:
    with pytest.raises(UsageError, match="number of worker processes"):
        build(str(tmp_path / "s"), small(), BuildRequest(dask=address))
    assert not (tmp_path / "s").exists()


def test_a_scheduler_that_does_not_answer_is_told_before_anything_is_scanned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise OSError("connection refused")

    monkeypatch.setattr("distributed.Client", refuses)
    with pytest.raises(UsageError, match=r"no scheduler answers there \(connection refused\)"):
        build(str(tmp_path / "s"), small(), BuildRequest(dask="tcp://127.0.0.1:9"))
    assert not (tmp_path / "s").exists()


def test_parts_and_a_cluster_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(UsjepaError, match="two ways"):
        build(str(tmp_path / "s"), small(), BuildRequest(dask="local:2", part="1/2"))


@pytest.mark.parametrize(
    ("name", "gpus", "device"), [("0", 4, "cuda:0"), ("5", 4, "cuda:1"), ("tcp://a:1", 4, "cuda:0"), ("1", 0, None)]
)
def test_worker_i_takes_gpu_i(monkeypatch: pytest.MonkeyPatch, name: str, gpus: int, device: str | None) -> None:
    import distributed
    import torch

    from usjepa.cache.building.cluster import worker

    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(distributed, "get_worker", lambda: type("Worker", (), {"name": name}))
    assert worker._own_gpu() == device
