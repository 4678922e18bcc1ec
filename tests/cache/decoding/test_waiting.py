"""Nothing waits for ever: pipes and devices, decoders that hang, children whose parent was killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.builds import SMALL, pictures, small
from tests.support.files.clips import ends_well_in_a_fork
from tests.support.processes.commands import LIMIT_S, stop_python, wait_until
from tests.support.processes.forked import in_own_process
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.decoding.child import DecodingProcess
from usjepa.cache.errors import SourceError, UsageError
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.scanning.scan import list_source, scan
from usjepa.cache.sources.base import Listing
from usjepa.cache.sources.files.reader import SourceReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.store.tables import SourceTable

HANGS = """
import ctypes, os, pathlib, sys
if "usjepa.cache.decoding.worker" in sys.orig_argv:
    import PIL.Image
    real = PIL.Image.open
    def open(file, *args, **kwargs):
        if "hang" in os.path.basename(str(file)):
            pathlib.Path(os.environ["HANGS"]).write_text(str(os.getpid()))
            ctypes.PyDLL(None).sleep(1000)  # C code that keeps the interpreter's lock
        return real(file, *args, **kwargs)
    PIL.Image.open = open
"""


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of images of which one keeps its decoder for ever; `hung` beside it has the child's pid then."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(HANGS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hook"), prepend=os.pathsep)
    monkeypatch.setenv("HANGS", str(tmp_path / "hung"))
    monkeypatch.setattr(DecodingProcess, "_timeout_s", _WhileItHangs(tmp_path / "hung"), raising=False)
    pictures(tmp_path / "in", ["d/x/a.png", "d/x/hang.png", "d/x/z.png"])
    return tmp_path / "in"


class _WhileItHangs:
    """The longest silence of a child: what was set while it hangs for good, else long, as others use the processor."""

    def __init__(self, hung: Path) -> None:
        self._hung = hung

    def __set__(self, child: DecodingProcess, timeout_s: float) -> None:
        vars(child)["set"] = timeout_s

    def __get__(self, child: DecodingProcess, _: type) -> float:
        hangs = self._hung.exists() and _runs(int(self._hung.read_text() or 0))
        return float(vars(child)["set"]) if hangs else LIMIT_S


def _odd_files(root: Path) -> dict[str, str]:
    """Put what is no plain file into a folder; return the name of each and what it is."""
    odd = dict.fromkeys(("pipe.png", "pipe.h5", "pipe.mp4", "pipe.dcm"), "a named pipe") | {"s.jpg": "a socket"}
    for name, kind in odd.items():
        if kind == "a named pipe":
            os.mkfifo(root / name)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(root / "s.jpg"))  # absolute, it would be too long a name
    try:
        os.mknod(root / "zero.png", 0o20666, os.makedev(1, 5))
    except PermissionError:
        return odd
    return odd | {"zero.png": "a device"}


def _scanned(source: Path) -> SourceTable:
    settings = CacheSettings()
    return scan(list_source(str(source), settings), settings, None, "skip")


def test_pipes_sockets_and_devices_in_a_folder_are_unreadable_files(tmp_path: Path) -> None:
    pictures(tmp_path, ["d/x/a.png"])
    odd = _odd_files(tmp_path / "d/x")
    os.mkfifo(tmp_path / "d/x/without-ending")  # of no kind that is read
    table = _scanned(tmp_path)
    found = {Path(path).name: error for path, error in zip(table.path, table.error, strict=True)}
    assert found.pop("a.png") == ""
    assert set(found) == set(odd)
    for name, kind in odd.items():
        assert f"d/x/{name}: can't be read as a file: it is {kind}, not a file." in found[name]


def test_a_manifest_may_name_a_pipe_and_can_not_be_one(tmp_path: Path) -> None:
    pictures(tmp_path, ["a.png"])
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "manifest.csv").write_text("path\na.png\nb.png\n")
    assert [bool(error) for error in _scanned(tmp_path).error] == [False, True]
    (tmp_path / "manifest.csv").unlink()
    os.mkfifo(tmp_path / "manifest.csv")
    with pytest.raises(UsageError, match=r"manifest\.csv: can't be read \(it is a named pipe"):
        list_source(str(tmp_path), CacheSettings())


def test_a_file_that_became_a_pipe_after_it_was_hashed_is_not_opened(tmp_path: Path) -> None:
    pictures(tmp_path, ["a.png"])
    reader = SourceReader(tmp_path, CacheSettings())
    content = reader.content_hash("a.png", "images")
    (frame,) = reader.frames("a.png", "images", [0], content)
    assert frame.shape == (40, 48)
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    for read in (
        lambda: list(reader.frames("a.png", "images", [0], content)),
        lambda: reader.probe("a.png", "images"),
        lambda: reader.content_hash("a.png", "images"),
    ):
        with pytest.raises(SourceError, match="it is a named pipe"):
            read()


def test_a_decoder_that_hangs_is_ended_and_named_and_the_others_are_built(tmp_path: Path, hanging: Path) -> None:
    recipe = small("cache.decode_timeout=1")
    build(str(tmp_path / "s"), recipe, BuildRequest(source=str(hanging), on_error="skip"))
    store = open_store(tmp_path / "s")
    sources = store.table.sources
    assert {sources[i].path for i in store.table.source} == {"d/x/a.png", "d/x/z.png"}
    with (
        DecodingProcess(Listing(hanging, ()), recipe.cache) as child,
        pytest.raises(
            SourceError, match=r"d/x/hang\.png: can't be read: .* gave no sign of life for \d+ s and was ended"
        ),
    ):
        child.probe("d/x/hang.png", "images")


def test_a_child_that_is_stopped_is_ended_too_and_started_again(tmp_path: Path) -> None:
    pictures(tmp_path, ["a.png"])
    with DecodingProcess(Listing(tmp_path, ()), CacheSettings()) as child:
        child.probe("a.png", "images")
        assert child._child is not None
        os.kill(child._child.process.pid, signal.SIGSTOP)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("usjepa.cache.decoding.child._STARTS_WITHIN_S", 1.0)
            patch.setattr(child, "_timeout_s", 1.0)
            with pytest.raises(SourceError, match="no sign of life"):
                child.probe("a.png", "images")
        assert child.probe("a.png", "images").frames == 1


@pytest.mark.slow
def test_a_decoder_that_is_slow_but_goes_on_is_waited_for(tmp_path: Path) -> None:
    with DecodingProcess(Listing(tmp_path, ()), CacheSettings(decode_timeout=2)) as child:
        child._setup["readers"] = ["tests.cache.decoding.test_waiting:Slow"]
        (tmp_path / "a.slow").touch()
        assert child.probe("a.slow", "slow").frames == 1


class Slow:
    """A reader that takes three seconds, and shows that it is alive."""

    name, version, title, endings, container = "slow", 1, "slow", (".slow",), False
    recognises = images = staticmethod(lambda *_: ())

    def frames(self, file: Path, image: str, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        return (np.zeros((16, 16), np.uint8) for _ in wanted)

    def probe(self, file: Path, image: str) -> object:
        import time

        from usjepa.cache.interrupt import safe_point
        from usjepa.cache.sources.base import FileFacts

        for _ in range(6):
            time.sleep(0.5)
            safe_point()
        return FileFacts(1, 16, 16)


def test_a_child_deep_in_c_code_ends_when_its_parent_is_killed(tmp_path: Path, hanging: Path) -> None:
    script = (
        "from pathlib import Path; from usjepa.cache.decoding.child import DecodingProcess;"
        "from usjepa.cache.recipes.cache import CacheSettings; from usjepa.cache.sources.base import Listing;"
        f"DecodingProcess(Listing(Path({str(hanging)!r}), ()), CacheSettings()).probe('d/x/hang.png', 'images')"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    hung = tmp_path / "hung"
    wait_until(lambda: hung.exists() and hung.read_text(), parent)
    child = int(hung.read_text())
    parent.kill()
    parent.wait()
    wait_until(lambda: not _runs(child))


_STOPS = [("build", signal.SIGTERM), ("scan", signal.SIGTERM), ("scan", signal.SIGINT)]


@pytest.mark.parametrize(("command", "number"), _STOPS)
def test_one_signal_ends_a_command_whose_decoder_hangs(
    tmp_path: Path, hanging: Path, command: str, number: signal.Signals
) -> None:
    sets = [part for item in SMALL for part in ("--set", item)]
    arguments = ["build", tmp_path / "s", "--source", hanging] if command == "build" else ["scan", hanging]
    hung = tmp_path / "hung"
    program = ["-m", "usjepa.cache.cli", *arguments, "--pipeline", "demo", *sets]
    ended = stop_python(number, lambda: hung.exists() and hung.read_text(), *program)
    assert "interrupted: " in ended.stderr
    wait_until(lambda: not _runs(int(hung.read_text())))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def _is_open(handle: int) -> bool:
    with contextlib.suppress(OSError):
        os.fstat(handle)
        return True
    return False


@in_own_process
def test_a_forked_copy_keeps_no_child_of_its_parent_alive(tmp_path: Path) -> None:
    pictures(tmp_path, ["a.png"])
    child = DecodingProcess(Listing(tmp_path, ()), CacheSettings())
    child.probe("a.png", "images")
    assert child._child is not None
    ends = {child._child.socket.fileno(), child._child._lifeline.fileno()}
    assert ends_well_in_a_fork(lambda: not any(map(_is_open, ends)))
    assert child.probe("a.png", "images").frames == 1
    child.close()
