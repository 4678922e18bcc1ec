"""A reader from outside the package is found by every process, and none takes what belongs to another."""

from __future__ import annotations

import os
import re
import textwrap
import tomllib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.support.builds import SMALL
from tests.support.files import decoded
from tests.support.processes.commands import run_python
from usjepa.cache.errors import SourceError, UsageError
from usjepa.cache.frames.clips import ClipRegions, SourceRef
from usjepa.cache.frames.rows import RowBlock, RowSpec, cut_rows
from usjepa.cache.frames.views import View
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.sources import registry
from usjepa.cache.sources.base import FileFacts, Reader
from usjepa.cache.sources.files.reader import SourceReader

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

PAGE = ROOT / "docs/how-to/add-a-reader.md"


def block(title: str) -> str:
    """Return the code block of that title on the page."""
    found = re.search(rf'```\w+ title="{re.escape(title)}"\n(.*?)```', PAGE.read_text(), re.DOTALL)
    assert found is not None, f"{PAGE} has no block {title}"
    return found[1]


def install(site: Path, entry_points: dict[str, str], modules: dict[str, str]) -> None:
    """Lay out a package as pip does: its modules, and metadata with the entry points of readers."""
    site.mkdir(exist_ok=True)
    for name, text in modules.items():
        (site / f"{name}.py").write_text(text)
    metadata = site / "lab_readers-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-readers\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in entry_points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[usjepa.readers]", *lines, ""]))


def python(site: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run Python beside an installed package."""
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    return run_python(*args, code=None, env={"PYTHONPATH": path})


def build(site: Path, store: Path, source: Path) -> None:
    options = [f"--set={option}" for option in (*SMALL, "cache.views.count=1")]
    command = ["build", str(store), "--source", str(source), "--pipeline", "demo", *options]
    done = python(site, "-m", "usjepa.cache.cli", *command)
    assert done.returncode == 0, done.stderr


def write_raw(path: Path, clip: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.array(clip.shape[1:], "<u4").tobytes() + clip.tobytes())


def clips() -> dict[str, NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (frames, 40, 48), np.uint8) for name, frames in (("a", 3), ("b", 5))}


@pytest.mark.slow
def test_a_reader_of_another_package_builds_the_rows_that_a_built_in_one_builds(tmp_path: Path) -> None:
    names = tomllib.loads(block("pyproject.toml"))["project"]["entry-points"]["usjepa.readers"]
    install(tmp_path / "site", names, {"lab_readers": block("lab_readers.py")})
    for name, clip in clips().items():
        write_raw(tmp_path / f"raw/cyst/{name}.usraw", clip)
        (tmp_path / "tif/cyst").mkdir(parents=True, exist_ok=True)
        pages = [Image.fromarray(frame) for frame in clip]
        pages[0].save(tmp_path / f"tif/cyst/{name}.tif", save_all=True, append_images=pages[1:])
    for kind in ("raw", "tif"):
        build(tmp_path / "site", tmp_path / f"{kind}.zarr", tmp_path / kind)
    ours, theirs = open_store(tmp_path / "tif.zarr"), open_store(tmp_path / "raw.zarr")
    assert len(theirs) == 8
    assert [source.path for source in theirs.table.sources] == ["cyst/a.usraw", "cyst/b.usraw"]
    assert set(theirs.table.label) == {"cyst"}
    assert np.array_equal(theirs.read(theirs.rows).pixels, ours.read(ours.rows).pixels)


def test_what_another_packages_reader_raises_names_the_file_and_not_its_folder(tmp_path: Path) -> None:
    install(tmp_path / "site", {"usraw": "lab_readers:RawReader"}, {"lab_readers": block("lab_readers.py")})
    write_raw(tmp_path / "in/cut.usraw", np.zeros((2, 40, 48), np.uint8))
    (tmp_path / "in/cut.usraw").write_bytes((tmp_path / "in/cut.usraw").read_bytes()[:-7])
    done = python(tmp_path / "site", "-m", "usjepa.cache.cli", "scan", str(tmp_path / "in"))
    assert "readers: usraw 1" in done.stdout
    assert "  cut.usraw: can't be read as a raw clip: its 3,833 samples are no whole frames of 40x48." in done.stdout


def test_a_package_that_can_not_be_imported_is_named(tmp_path: Path) -> None:
    install(tmp_path / "site", {"usraw": "lab_readers:RawReader"}, {"lab_readers": "import no_such_library"})
    write_raw(tmp_path / "in/a.usraw", np.zeros((2, 40, 48), np.uint8))
    done = python(tmp_path / "site", "-m", "usjepa.cache.cli", "scan", str(tmp_path / "in"))
    assert done.returncode == 2
    assert "the reader 'usraw' of lab-readers can't be imported" in done.stderr
    assert "No module named 'no_such_library'" in done.stderr


ALBUM = '''
"""Several images in one file: an archive of arrays."""

import numpy as np

from usjepa.cache.sources.base import FileFacts, Reader
from usjepa.cache.sources.files.reader import SourceReader


class AlbumReader(Reader):
    name, version, title, endings, container = "album", 1, "an album", (".al.bum",), True

    def images(self, file):
        return sorted(np.load(file).files)

    def probe(self, file, image):
        if not image:
            raise ValueError("it holds no array")
        return FileFacts(*np.load(file)[image].shape)

    def frames(self, file, image, wanted):
        yield from np.load(file)[image][list(wanted)]
'''


@pytest.mark.slow
def test_a_registered_container_is_listed_and_read_by_child_processes_image_by_image(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    one, two = clips().values()
    for name in ("p1", "p2"):
        with (tmp_path / f"in/{name}.al.bum").open("wb") as file:
            np.savez(file, a=one, b=two)
    (tmp_path / "album.py").write_text(ALBUM)
    # The module lies beside the script alone: the children find it because the parent does.
    (tmp_path / "script.py").write_text(
        textwrap.dedent(f"""
        from album import AlbumReader
        from tests.support.builds import small
        from usjepa.cache.building.build import build
        from usjepa.cache.building.request import BuildRequest
        from usjepa.cache.reading.store import open_store
        from usjepa.cache.sources.registry import register

        register(AlbumReader)
        build({str(tmp_path / "s")!r}, small("cache.views.count=1"), BuildRequest(source={str(tmp_path / "in")!r}))
        store = open_store({str(tmp_path / "s")!r})
        print([(source.path, source.group, source.frames) for source in store.table.sources])
        """)
    )
    done = python(ROOT, str(tmp_path / "script.py"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "[('p1.al.bum::a', 'p1', 3), ('p1.al.bum::b', 'p1', 5), ('p2.al.bum::a', 'p2', 3), ('p2.al.bum::b', 'p2', 5)]\n"
    )


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what a test registers."""
    monkeypatch.setattr(registry, "_registered", [])
    yield
    registry.readers.cache_clear()
    registry._by_ending.cache_clear()


class Whole(Reader):
    """A reader that another package might bring."""

    name, version, title, endings = "whole", 1, "a whole", (".whole",)

    def probe(self, file: Path, image: str) -> FileFacts:
        raise NotImplementedError

    def frames(self, file: Path, image: str, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        raise NotImplementedError


class OtherDicom(Whole):
    name, endings = "other", (".dcm",)


class SameName(Whole):
    name, endings = "dicom", (".dcm2",)


class Loud(Whole):
    name, endings = "loud", (".LOUD",)


class Tables(Whole):
    name, endings = "tables", (".csv",)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("reader", "reason"),
    [
        (OtherDicom, r"reader OtherDicom of .*: the ending '\.dcm' belongs to reader 'dicom' already"),
        (SameName, "another reader is called 'dicom' already"),
        (Loud, r"the ending '\.LOUD' is not a dot followed by lower-case characters"),
        (Tables, r"the ending '\.csv' belongs to manifests already"),
    ],
)
def test_a_reader_can_not_take_what_belongs_to_another(reader: type[Reader], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        registry.register(reader)
    assert reader not in registry.readers().values()


class Careless(Whole):
    """A reader that breaks its promises, in a way that the file's name chooses."""

    name, endings = "careless", (".careless",)

    def probe(self, file: Path, image: str) -> FileFacts:
        return FileFacts(0, 8, 8)

    def frames(self, file: Path, image: str, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        made = np.zeros((8, 8), np.uint8)
        wrong = {"deep": made.astype(np.uint16), "flat": made[0], "planes": np.stack([made] * 3)}
        yield from [wrong.get(file.stem, made)] * (3 if file.stem == "many" else 1)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("deep", r"frame 0 is uint16 \[8, 8\], where a reader gives uint8 \[H, W\] or \[H, W, 3\]"),
        ("flat", r"frame 0 is uint8 \[8\],"),
        ("planes", r"frame 0 is uint8 \[3, 8, 8\],"),
        ("few", "its reader gave no frame 1"),
        ("many", "its reader gave more frames than wanted"),
    ],
)
def test_frames_that_break_the_promise_of_a_reader_are_refused_with_the_file(
    tmp_path: Path, name: str, reason: str
) -> None:
    registry.register(Careless)
    (tmp_path / f"{name}.careless").write_bytes(b"")
    with pytest.raises(SourceError, match=rf"^{name}\.careless: can't be read as a whole: {reason}"):
        decoded.frames(tmp_path / f"{name}.careless", [0, 1])


@pytest.mark.usefixtures("untouched")
def test_a_frame_of_another_size_than_the_scan_found_is_refused(tmp_path: Path) -> None:
    registry.register(Careless)
    (tmp_path / "a.careless").write_bytes(b"")
    reader, settings = SourceReader(tmp_path, CacheSettings()), CacheSettings()
    content = reader.content_hash("a.careless", "careless")
    source = SourceRef("a.careless", "careless", content, height=6, width=8, frames=1)
    block = RowBlock(0, [source], [RowSpec(0, 0, View(0, 0, 6, 8, False, False))])
    with pytest.raises(SourceError, match=r"^a\.careless: frame 0 is 8x8 pixels, the scan found 6x8"):
        cut_rows(block, reader, settings, False, lambda _: None, ClipRegions(reader, True))


@pytest.mark.usefixtures("untouched")
def test_a_source_without_frames_is_unreadable(tmp_path: Path) -> None:
    registry.register(Careless)
    (tmp_path / "a.careless").write_bytes(b"")
    with pytest.raises(SourceError, match=r"^a\.careless: can't be read as a whole: it holds no frames"):
        decoded.probe(tmp_path / "a.careless")


@pytest.mark.usefixtures("untouched")
def test_what_is_no_reader_is_refused() -> None:
    with pytest.raises(UsageError, match="not the class of a reader; it needs name, version"):
        registry._by_name([object()])  # type: ignore[list-item]  # what another package's entry point may name


@pytest.mark.usefixtures("untouched")
def test_a_reader_that_no_other_process_can_import_is_refused() -> None:
    class Local(Whole):
        name = "local"

    with pytest.raises(UsageError, match="a decoding process can't import it"):
        registry.register(Local)


@pytest.mark.usefixtures("untouched")
def test_registering_twice_is_registering_once() -> None:
    registry.register(Whole)
    registry.register(Whole)
    assert registry.registered() == [f"{__name__}:Whole"]
    assert registry.reader_named("whole") is Whole


@pytest.mark.usefixtures("untouched")
def test_an_unknown_reader_is_said_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"no reader called 'vivid'; there are .*dicom, hdf5, images, .*video"):
        registry.reader_named("vivid")


def test_finding_readers_imports_no_decoder() -> None:
    program = "import sys; from usjepa.cache.sources.registry import readers; readers(); print(sorted(sys.modules))"
    done = python(ROOT, "-c", program)
    assert done.returncode == 0, done.stderr
    assert [
        name
        for name in ("av", "h5py", "pydicom", "PIL", "torch", "nibabel", "zarr", "scipy")
        if f"'{name}'" in done.stdout
    ] == []
