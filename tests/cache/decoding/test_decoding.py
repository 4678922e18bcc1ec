"""A file that crashes its parser costs that file, never the build; decoding elsewhere gives the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from tests.support.builds import pictures, small, tree
from tests.support.files.clips import ends_well_in_a_fork
from tests.support.processes.commands import wait_until
from tests.support.processes.forked import in_own_process
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.decoding import cutters as cutting
from usjepa.cache.decoding import lifeline, spare
from usjepa.cache.decoding.child import DecodingProcess
from usjepa.cache.decoding.cutters import Cutters
from usjepa.cache.decoding.spare import spare_child, taken
from usjepa.cache.errors import Interrupted, SourceError
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.scanning.scan import list_source
from usjepa.cache.sources.base import Listing
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.upkeep.status import status_report
from usjepa.cache.upkeep.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable

CRASHES = """
import os, sys
if "usjepa.cache.decoding.worker" in sys.orig_argv:
    import h5py
    real = h5py.File
    def File(name, *args, **kwargs):
        # What a memory fault in the HDF5 library does, when frames are asked for and not yet when they are listed.
        caller = sys._getframe(1)
        asked = {caller.f_code.co_name, caller.f_back.f_code.co_name}
        base = os.path.basename(str(name))
        if "crash" in base and ("_file" in asked or "list" in base):
            os.kill(os.getpid(), 11)
        return real(name, *args, **kwargs)
    h5py.File = File
"""


@pytest.fixture
def volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of HDF5 files of which one makes every process that decodes it die of SIGSEGV."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(CRASHES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hook"), prepend=os.pathsep)
    root = tmp_path / "in/d/x"
    root.mkdir(parents=True)
    for number, name in enumerate(("a", "crash", "z")):
        with h5py.File(root / f"{name}.h5", "w") as file:
            file["images"] = np.random.default_rng(number).integers(0, 255, (5, 40, 48), dtype=np.uint8)
    return tmp_path / "in"


def test_a_file_that_segfaults_its_reader_stops_the_build_and_is_named(tmp_path: Path, volumes: Path) -> None:
    with pytest.raises(SourceError, match=r"d/x/crash\.h5::images: can't be read: .* died of SIGSEGV"):
        build(str(tmp_path / "s"), small(), BuildRequest(source=str(volumes)))


def test_with_skip_it_is_recorded_with_its_reason_and_the_others_are_built(tmp_path: Path, volumes: Path) -> None:
    build(str(tmp_path / "s"), small(), BuildRequest(source=str(volumes), on_error="skip"))
    store = open_store(tmp_path / "s")
    paths = {store.table.sources[i].path for i in store.table.source}
    assert paths == {"d/x/a.h5::images", "d/x/z.h5::images"}
    assert "d/x/crash.h5::images: can't be read: the process that decoded it died of SIGSEGV" in status_report(
        str(tmp_path / "s")
    )
    assert verify(str(tmp_path / "s")).damages == []


def test_a_file_that_crashes_while_it_is_listed_is_named_too(tmp_path: Path, volumes: Path) -> None:
    (volumes / "d/x/crash.h5").rename(volumes / "d/x/crash-list.h5")
    with pytest.raises(SourceError, match=r"crash-list\.h5.*SIGSEGV"):
        build(str(tmp_path / "s"), small(), BuildRequest(source=str(volumes)))


def test_a_file_that_crashes_only_after_the_scan_makes_holes_not_an_end(
    tmp_path: Path, volumes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from usjepa.cache.scanning.growth import grow
    from usjepa.cache.scanning.journal import ScanJournal
    from usjepa.cache.store.writer import StoreWriter

    settings, root = small().cache, tmp_path / "s"
    with monkeypatch.context() as patch:
        patch.delenv("PYTHONPATH")  # the scan is spared
        patch.setenv("PYTHONPATH", _without(tmp_path / "hook"))
        writer = StoreWriter(LocalStorage(root))
        writer.create_or_open(8)
        grow(writer, list_source(str(volumes), settings), settings, ScanJournal(None), "stop")
    with pytest.raises(SourceError, match=r"crash\.h5::images"):
        build(str(root), small(), BuildRequest(source=str(volumes)))
    build(str(root), small(), BuildRequest(source=str(volumes), on_error="skip"))
    store = open_store(root)
    assert len(store) == 20
    assert len(store.manifest.holes) == 10
    assert all("SIGSEGV" in reason for _, reason in store.manifest.holes)


def _without(folder: Path) -> str:
    parts = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(part for part in parts if part != str(folder))


@pytest.mark.parametrize("processes", [1, 3])
def test_rows_cut_in_children_are_those_cut_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    build(str(tmp_path / "here"), small(), BuildRequest(teacher="random"))
    monkeypatch.setattr(cutting, "_SMALL_ROWS", 0)
    build(str(tmp_path / "there"), small(f"cache.decode_processes={processes}"), BuildRequest(teacher="random"))
    assert tree(tmp_path / "here") == tree(tmp_path / "there")


def test_a_child_killed_by_another_is_started_again(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["a/1.png"])
    with DecodingProcess(Listing(tmp_path / "in", ()), CacheSettings()) as child:
        assert child.probe("a/1.png", "images").frames == 1
        assert child._child is not None
        os.kill(child._child.process.pid, signal.SIGKILL)
        child._child.process.wait()
        with pytest.raises(SourceError, match="SIGKILL"):
            child.probe("a/1.png", "images")
        assert child.probe("a/1.png", "images").frames == 1


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["a/1.png"])
    script = (
        "import sys, time; from pathlib import Path; from usjepa.cache.decoding.child import DecodingProcess;"
        "from usjepa.cache.recipes.cache import CacheSettings; from usjepa.cache.sources.base import Listing;"
        f"child = DecodingProcess(Listing(Path({str(tmp_path / 'in')!r}), ()), CacheSettings());"
        "child.probe('a/1.png', 'images'); print(child._child.process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout as said:
        pid = int(said.readline())
    parent.kill()
    parent.wait()
    wait_until(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class _AbandonedAtWork(Cutters):
    """Cutters that are abandoned once a child has been waited for."""

    process: subprocess.Popen[bytes] | None = None

    def _check(self) -> None:
        if self.process is not None:
            self.abandon()
        child = self._children[0]._child
        self.process = child.process if child is not None else None
        super()._check()


def test_rows_that_are_abandoned_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usjepa.cache.decoding.child._POLL_S", 0.001)  # it looks many times while the child starts
    monkeypatch.setattr(cutting, "_SMALL_ROWS", 0)
    build(str(tmp_path / "s"), small("cache.phantom.frames_per_patient=300", "cache.rows_per_shard=4096"))
    store = open_store(tmp_path / "s")
    segment, settings = store.manifest.segments[0], small("cache.phantom.frames_per_patient=300").cache
    cutters = _AbandonedAtWork(LocalStorage(tmp_path / "s"), [segment], list_source("phantom", settings), settings)
    with spare_child():  # which keeps none that is at work
        with pytest.raises(Interrupted):
            cutters.cut(1, range(segment.rows), False)
        assert cutters.process is not None
        assert cutters.process.wait() == -signal.SIGKILL
        cutters.close()


def test_a_child_is_given_its_rows_and_holds_no_table_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "_SMALL_ROWS", 0)
    build(str(tmp_path / "s"), small())
    store, settings = open_store(tmp_path / "s"), small("cache.decode_processes=1").cache
    segments = store.manifest.segments
    cutters = Cutters(LocalStorage(tmp_path / "s"), segments, list_source("phantom", settings), settings)
    made = cutters.cut(1, range(5, 8), False)
    assert np.array_equal(made.pixels, store.read([5, 6, 7]).pixels)
    assert cutters._children[0]._child is not None
    libraries = Path(f"/proc/{cutters._children[0]._child.process.pid}/maps").read_text()
    assert "cv2" in libraries
    assert "arrow" not in libraries  # nothing in the child reads tables
    cutters.close()


def test_a_build_lists_counts_and_cuts_by_one_child_which_ends_with_it(
    tmp_path: Path, volumes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (volumes / "d/x/crash.h5").unlink()
    started: list[lifeline.Child] = []

    def start(module: str) -> lifeline.Child:
        started.append(lifeline.Child(module))
        return started[-1]

    monkeypatch.setattr("usjepa.cache.decoding.child.Child", start)
    build(str(tmp_path / "s"), small(), BuildRequest(source=str(volumes)))
    assert len(open_store(tmp_path / "s")) == 20
    (child,) = started
    assert child.process.poll() == -signal.SIGKILL
    with DecodingProcess(Listing(volumes, ()), CacheSettings()) as alone:
        alone.probe("d/x/a.h5::images", "hdf5")
    assert started[1].process.poll() == -signal.SIGKILL, "without a build nobody keeps one"


@in_own_process
def test_an_idle_child_serves_who_decodes_next_but_no_forked_copy_and_none_once_it_died(tmp_path: Path) -> None:
    for name, value in (("one", 40), ("two", 90)):
        pictures(tmp_path / name, ["a/1.png"], seed=value)
    with spare_child():
        with DecodingProcess(Listing(tmp_path / "one", ()), CacheSettings()) as first:
            first.probe("a/1.png", "images")
            child = first._child
        assert child is not None
        assert ends_well_in_a_fork(lambda: taken() is None)
        with DecodingProcess(Listing(tmp_path / "two", ()), CacheSettings()) as second:
            second.probe("a/1.png", "images")
            assert second._child is child
        assert spare._spare.child is child
        child.process.kill()
        child.process.wait()
        with DecodingProcess(Listing(tmp_path / "two", ()), CacheSettings()) as third:
            assert third.probe("a/1.png", "images").frames == 1
    assert spare._spare.child is None


@in_own_process
def test_a_forked_copy_starts_a_child_of_its_own(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["a/1.png"])
    child = DecodingProcess(Listing(tmp_path / "in", ()), CacheSettings())
    child.probe("a/1.png", "images")
    claim: Callable[[], bool] = lambda: child.probe("a/1.png", "images").frames == 1  # noqa: E731
    assert ends_well_in_a_fork(claim)
    assert child.probe("a/1.png", "images").frames == 1
    child.close()


def test_a_child_of_a_dask_worker_keeps_the_memory_that_it_frees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask has its workers trim memory at once; a decoder would take fresh pages for every array."""
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    child = lifeline.Child("usjepa.cache.decoding.worker")
    told = Path(f"/proc/{child.process.pid}/environ")
    wait_until(told.read_bytes, child.process)  # empty until the new program has taken over
    environment = told.read_bytes()
    child.end()
    assert b"PATH=" in environment
    assert b"MALLOC_TRIM" not in environment
