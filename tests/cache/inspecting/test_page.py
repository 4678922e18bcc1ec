"""A page of a store's rows: whole, within its size, of its own kind only, and of every sort of store."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.cache.frames.test_regions import sector, speckled
from tests.cache.inspecting.looked import DIM, EDGE, SIZE, TOKENS, clinic, speckle, write_looked
from tests.support.builds import small
from tests.support.labelled import File
from tests.support.processes import forked
from tests.support.processes.flaky_s3 import s3_behind_proxy
from tests.support.stores import write_store
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.cli import main
from usjepa.cache.copying.copy import copy_store
from usjepa.cache.errors import DamageError, UsageError
from usjepa.cache.inspecting import page as module
from usjepa.cache.inspecting.page import PAGE, write_page
from usjepa.cache.reading.store import open_store

if TYPE_CHECKING:
    from pathlib import Path


def html_of(folder: Path) -> str:
    return (folder / PAGE).read_text()


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="rows">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


def pictures_of(html: str, alt: str) -> list[np.ndarray]:
    uris = re.findall(rf'<img src="data:image/png;base64,([^"]+)" alt="[^"]*{alt}"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))) for uri in uris]


def test_every_row_stands_there_with_its_pixels_and_colours(tmp_path: Path) -> None:
    store = write_looked(tmp_path / "s", clinic(12))
    lines = write_page(str(tmp_path / "s"), str(tmp_path / "page"))
    html = html_of(tmp_path / "page")
    assert lines[0].startswith(f"{tmp_path}/page/index.html: 12 of 12 rows, ")
    numbers = [row["number"] for row in data_of(html)["rows"]]
    assert sorted(numbers) == list(range(12))
    for frame, number in zip(pictures_of(html, "as it is stored"), numbers, strict=True):
        np.testing.assert_array_equal(frame, store.read([number]).pixels[0, 0])
    colours = pictures_of(html, "latents as colours")
    assert {one.shape for one in colours} == {(EDGE, EDGE, 3)}
    assert len(colours) == 12


def test_the_same_store_gives_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    for name in ("one/s", "two/s"):
        write_looked(tmp_path / name, clinic(12))
        write_page(str(tmp_path / name), str(tmp_path / name / "../page"))
    assert html_of(tmp_path / "one/page") == html_of(tmp_path / "two/page")
    assert str(tmp_path) not in html_of(tmp_path / "one/page")


def test_names_that_are_markup_are_text(tmp_path: Path) -> None:
    evil = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'
    files = [File(evil, evil, evil, evil) for _ in range(3)]
    write_looked(
        tmp_path / evil.replace("/", "_"), files, paths=[f"{i}{evil}.png" for i in range(3)], doubtful={0: evil}
    )
    write_page(str(tmp_path / evil.replace("/", "_")), str(tmp_path / "page"))
    html = html_of(tmp_path / "page")
    assert html.count("<script") == 2  # the data and our own
    assert "<img src=x" not in html
    assert html.count("&lt;script&gt;alert(1)") >= 3
    assert data_of(html)["names"]["label"] == [evil]


def test_control_characters_and_marks_that_reverse_text_are_shown_as_escapes(tmp_path: Path) -> None:
    write_looked(tmp_path / "s", [File("none\x00\u202e", "a\nb")], paths=["a\x1b[2J.png"])
    write_page(str(tmp_path / "s"), str(tmp_path / "page"))
    html = html_of(tmp_path / "page")
    assert not set("\x00\x1b\u202e") & set(html)
    assert r"a\nb" in html


def test_only_a_page_of_its_own_kind_is_replaced(tmp_path: Path) -> None:
    write_looked(tmp_path / "s", clinic(4))
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "notes.txt").write_text("precious")
    write_page(str(tmp_path / "s"), str(folder))
    write_page(str(tmp_path / "s"), str(folder))
    assert sorted(p.name for p in folder.iterdir()) == [PAGE, "notes.txt"]
    (folder / PAGE).write_text("<!doctype html><title>my thesis</title>")
    with pytest.raises(UsageError, match=r"holds index\.html of something else"):
        write_page(str(tmp_path / "s"), str(folder))
    assert "thesis" in html_of(folder)


def test_links_folders_and_the_store_itself_are_no_place_for_a_page(tmp_path: Path) -> None:
    store = tmp_path / "s"
    write_looked(store, clinic(4))
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / PAGE).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "folder" / PAGE).mkdir(parents=True)
    (tmp_path / "alias").symlink_to(store)
    for place, why in (("link", "symbolic link"), ("folder", "a folder"), ("s", "within"), ("alias/x", "within")):
        with pytest.raises(UsageError, match=why):
            write_page(str(store), str(tmp_path / place))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="a file lies there"):
        write_page(str(store), str(tmp_path / "file"))
    with pytest.raises(UsageError, match="not to a URL"):
        write_page(str(store), "s3://bucket/page")
    assert not (tmp_path / "elsewhere").exists()
    assert not list(store.glob("**/*.html"))


def _write_and_die(store: str, folder: str, step: int) -> None:
    forked.die_at_durable_step(step)
    write_page(store, folder)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_page_that_was_killed_leaves_the_old_one_or_the_new(tmp_path: Path, step: int) -> None:
    store, folder = tmp_path / "s", tmp_path / "page"
    write_looked(store, clinic(4))
    write_page(str(store), str(folder), rows=2)
    old = html_of(folder)
    write_page(str(store), str(tmp_path / "whole"))
    forked.run(_write_and_die, str(store), str(folder), step)
    assert html_of(folder) in (old, html_of(tmp_path / "whole"))
    write_page(str(store), str(folder))
    assert html_of(folder) == html_of(tmp_path / "whole")


def test_a_page_that_would_be_too_large_shows_fewer_rows_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_looked(tmp_path / "s", clinic(40), doubtful={33: "marks"})
    monkeypatch.setattr(module, "LIMIT_NBYTES", 260_000)
    lines = write_page(str(tmp_path / "s"), str(tmp_path / "page"))
    html = html_of(tmp_path / "page")
    shown = [row["number"] for row in data_of(html)["rows"]]
    assert 3 < len(shown) < 40
    assert shown[0] == 33
    assert len(html) < 260_000
    said = f"40 rows were chosen; a page of 0.26 MB has room for {len(shown)} of them."
    assert said in lines
    assert "1 of these rows may show more than the scan" in html
    assert said in html


def test_very_long_names_are_counted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [File("<" * 3000, f"{i}" + "<" * 3000) for i in range(30)]
    write_looked(tmp_path / "s", files, paths=["<" * 3000 + f"{i}" for i in range(30)])
    monkeypatch.setattr(module, "LIMIT_NBYTES", 700_000)
    write_page(str(tmp_path / "s"), str(tmp_path / "page"))
    html = html_of(tmp_path / "page")
    assert 2 < len(data_of(html)["rows"]) < 30
    assert len(html) < 700_000


def test_stores_without_latents_or_regions_in_colour_and_in_int8_are_shown(tmp_path: Path) -> None:
    write_looked(tmp_path / "bare", clinic(6), layers=("pixels",), seal=False)
    write_page(str(tmp_path / "bare"), str(tmp_path / "c"))
    assert "doubtful" in html_of(tmp_path / "c")
    colour = speckle(6).repeat(3, axis=1)
    write_looked(tmp_path / "pixels", clinic(6), layers=("pixels", "regions"), pixels=colour)
    write_page(str(tmp_path / "pixels"), str(tmp_path / "a"))
    html = html_of(tmp_path / "a")
    assert "holds no latents" in html
    assert '<button type="button" class="picture' not in html
    assert {one.shape for one in pictures_of(html, "as it is stored")} == {(SIZE, SIZE, 3)}
    write_store(tmp_path / "int8", 10, "int8", holes=((3, "gone"),))
    write_page(str(tmp_path / "int8"), str(tmp_path / "b"))
    assert len(pictures_of(html_of(tmp_path / "b"), "latents as colours")) == 9


def test_whose_latents_must_be_said_where_there_are_several(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    both = {name: rng.normal(size=(6, TOKENS, DIM)).astype("f4") for name in ("deep", "deep.3")}
    write_looked(tmp_path / "s", clinic(6), latents=both)
    with pytest.raises(UsageError, match=r"say whose latents with --teacher; it holds deep, deep\.3"):
        write_page(str(tmp_path / "s"), str(tmp_path / "page"))
    with pytest.raises(UsageError, match="it holds deep"):
        write_page(str(tmp_path / "s"), str(tmp_path / "page"), teacher="other")
    assert not (tmp_path / "page").exists()
    write_page(str(tmp_path / "s"), str(tmp_path / "page"), teacher="deep.3")
    assert "deep.3: 16 patches of 8 numbers, float32" in html_of(tmp_path / "page")


def test_unfinished_stores_are_shown_as_far_as_they_are_and_empty_ones_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 6, seal=False)
    write_page(str(tmp_path / "s"), str(tmp_path / "page"))
    assert "The store is not sealed" in html_of(tmp_path / "page")
    for file in (tmp_path / "s/commits/pixels").iterdir():
        file.unlink()
    with pytest.raises(UsageError, match="nothing to show"):
        write_page(str(tmp_path / "s"), str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_damage_is_named_and_no_page_is_written(tmp_path: Path) -> None:
    write_looked(tmp_path / "s", clinic(6))
    shard = tmp_path / "s/pixels/c.0.0.0.0"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamageError, match="row 0"):
        write_page(str(tmp_path / "s"), str(tmp_path / "page"))
    assert not (tmp_path / "page").exists()


def test_rows_of_a_patient_who_withdrew_are_not_there(tmp_path: Path) -> None:
    from usjepa.cache.thinning.remove import remove
    from usjepa.cache.thinning.withdrawal import Choice

    write_looked(tmp_path / "s", clinic(12), doubtful={2: "x"})
    remove(str(tmp_path / "s"), Choice(groups=("patient-1",)))
    write_page(str(tmp_path / "s"), str(tmp_path / "page"))
    html = html_of(tmp_path / "page")
    assert sorted(row["number"] for row in data_of(html)["rows"]) == [0, 1, *range(4, 12)]
    assert "patient-1<" not in html
    assert "patient-1 " not in html


def test_a_page_that_may_name_someone_says_so(tmp_path: Path) -> None:
    write_looked(tmp_path / "s", clinic(4), identity={"preprocess": {"deidentify": False}})
    write_page(str(tmp_path / "s"), str(tmp_path / "page"))
    assert "Pass this page on to nobody" in html_of(tmp_path / "page")


def test_the_frame_as_it_was_stands_beside_what_is_kept_only_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        frame = speckled(sector(), seed=number)
        frame[10:30, 200:230] = 255
        cv2.imwrite(str(tmp_path / f"in/{number}.png"), frame)
    sets = ["cache.image_size=240", "cache.views.count=1"]
    build(str(tmp_path / "s"), small(*sets), BuildRequest(source=str(tmp_path / "in")))
    args = ["inspect", str(tmp_path / "s"), "--html", str(tmp_path / "page")]
    assert CliRunner().invoke(main, args).exit_code == 0
    html = html_of(tmp_path / "page")
    assert pictures_of(html, "as its source has it") == []
    assert pictures_of(html, "as it is stored")[0][12:28, 205:225].max() == 0
    ended = CliRunner().invoke(main, [*args, "--source", str(tmp_path / "in")])
    assert ended.exit_code == 0, ended.output
    html = html_of(tmp_path / "page")
    assert [one[12:28, 205:225].min() > 250 for one in pictures_of(html, "as its source has it")] == [True, True]
    assert "Keep this page where the sources are" in html


def test_one_of_a_sheet_and_a_page_is_written(tmp_path: Path) -> None:
    write_looked(tmp_path / "s", clinic(4))
    store, sheet = str(tmp_path / "s"), str(tmp_path / "a.png")
    for more, word in (([], "writes one of two"), (["-o", sheet, "--html", "x"], "writes one of two"),
                       (["-o", sheet, "--rows", "65"], "at most 64")):  # fmt: skip
        ended = CliRunner().invoke(main, ["inspect", store, *more])
        assert ended.exit_code == 2
        assert word in ended.output
    assert CliRunner().invoke(main, ["inspect", store, "-o", sheet, "--rows", "64"]).exit_code == 0


def test_a_store_in_a_bucket_gives_the_page_that_a_local_one_gives(tmp_path: Path) -> None:
    write_looked(tmp_path / "s", clinic(12), doubtful={3: "x"})
    write_page(str(tmp_path / "s"), str(tmp_path / "a"))
    with s3_behind_proxy("frames"):
        copy_store(str(tmp_path / "s"), "s3://frames/s")
        write_page("s3://frames/s", str(tmp_path / "b"))
    assert html_of(tmp_path / "a") == html_of(tmp_path / "b")


def test_a_clip_of_doubtful_frames_does_not_take_the_first_screen(tmp_path: Path) -> None:
    doubtful = dict.fromkeys([0, 1, 2, 9, 12], "marks")
    write_looked(tmp_path / "s", clinic(6), views=3, doubtful=doubtful, pixels=speckle(18))
    write_page(str(tmp_path / "s"), str(tmp_path / "page"))
    numbers = [row["number"] for row in data_of(html_of(tmp_path / "page"))["rows"]]
    assert numbers[:5] == [0, 9, 12, 1, 2]
    assert numbers[5:] == sorted(numbers[5:])


def test_rows_that_a_region_leaves_out_are_tinted(tmp_path: Path) -> None:
    cells = np.zeros((2, SIZE // 2, SIZE // 2), bool)
    cells[:, 4:12, 4:12] = True
    regions = np.packbits(cells.reshape(2, -1), axis=1)
    write_looked(tmp_path / "s", [File("none", "a"), File("none", "b")], regions=regions)
    write_page(str(tmp_path / "s"), str(tmp_path / "page"))
    html = html_of(tmp_path / "page")
    uris = re.findall(r'<img class="region" src="data:image/png;base64,([^"]+)" alt="">', html)
    over = np.asarray(Image.open(io.BytesIO(base64.b64decode(uris[0]))))
    assert over.shape == (SIZE // 2, SIZE // 2, 4)
    np.testing.assert_array_equal(over[:, :, 3] == 0, cells[0])
    assert data_of(html)["edge"] == EDGE
    assert open_store(tmp_path / "s").size == SIZE
