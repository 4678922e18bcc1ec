"""Names, URLs and leftovers do no harm, and a teacher that can't work is found before the scan."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.support.builds import pictures, small, tree
from tests.support.endings import DEMO, ending, one_line
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage.claims import _describe

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_url_names_the_folder_that_it_says(phantom_store: Path, tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b/s").symlink_to(phantom_store)
    assert len(open_store(f"file://{tmp_path}/a%20b/s")) == len(open_store(f"FILE:{tmp_path}/a%20b/s")) == 120
    for url in (f"file://localhost{phantom_store}", "file://s.zarr", "file:s.zarr", "file:////host/s.zarr"):
        one_line(ending("usjepa-cache", "status", url, within=tmp_path), 2, url, "without a host")


def test_a_source_folder_whose_name_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["a/1.png"])
    odd = os.fsencode(tmp_path) + b"/odd\xff"
    os.rename(tmp_path / "in", odd)
    found = ending("usjepa-cache", "build", "s", *DEMO, "--source", os.fsdecode(odd), within=tmp_path)
    one_line(found, 2, "odd\\udcff", "not UTF-8")
    assert not (tmp_path / "s").exists()


def test_names_from_files_reach_the_terminal_escaped(tmp_path: Path) -> None:
    evil = "\x1b]0;OWNED\x07\x1b[2J\x9b1m"
    pictures(tmp_path / "in", ["a/1.png", "a/2.png"])
    (tmp_path / f"in/a/{evil}.png").write_text("no picture")
    for words in (
        ("scan", "in"),
        ("build", "s", *DEMO, "--source", "in"),
        ("build", "s", *DEMO, "--source", "in", "--on-error", "skip"),
        ("status", "s"),
        ("scan", "in", "--names", "--hash-paths"),
    ):
        found = ending("usjepa-cache", *words, within=tmp_path, before=_with_a_key)
        assert "OWNED" in found.printed + found.told or "skip" in words
        assert not set("\x1b\x07\x9b") & set(found.printed + found.told), words


def test_names_from_files_write_no_lines_of_their_own(tmp_path: Path) -> None:
    forged = "x\nok: every byte is whole"
    pictures(tmp_path / "in", ["a/1.png", "a/2.png", f"{forged}/1.png", f"{forged}/2.png"])
    for name, content in (("broken", b"no picture"), ("black", b"")):
        (tmp_path / f"in/a/{name}{forged}.png").write_bytes(content)
    for words in (
        ("scan", "in"),
        ("build", "s", *DEMO, "--source", "in"),
        ("build", "s", *DEMO, "--source", "in", "--on-error", "skip"),
        ("status", "s"),
        ("stats", "s"),
        ("verify", "s"),
    ):
        found = ending("usjepa-cache", *words, within=tmp_path)
        lines = (found.printed + found.told).splitlines()
        assert not [line for line in lines if line.lstrip().startswith("ok: every byte")], words


def test_a_claim_can_not_write_lines_or_escapes_of_its_own() -> None:
    forged = _describe({"host": "h\x1b[2J\nok: every byte is whole", "pid": "\x9b1m" * 999, "since": "x"})
    assert forged.startswith("host h\\x1b[2J\\nok: every byte is whole, pid \\x9b1m")
    assert forged.isprintable()
    assert len(forged) < 700


def test_a_report_of_a_name_that_is_not_utf8_is_refused_before_the_work(tmp_path: Path) -> None:
    for words in (("run\udcff", "--task", "t"), ("run", "--task", "t", "--encoder", "e\udcff")):
        one_line(ending("usjepa-evaluate", *words, within=tmp_path), 2)


def _with_a_key() -> None:
    os.environ["USJEPA_PATH_KEY"] = "k"


def test_no_journal_of_a_scan_stays_in_a_sealed_store(tmp_path: Path) -> None:
    store = tmp_path / "s"
    build(str(store), small(), BuildRequest())
    whole = tree(store)
    (store / "scan").mkdir()
    (store / "scan/journal.jsonl").write_text("of a scan that was killed\n")
    (store / "manifest.json").unlink()
    build(str(store), small(), BuildRequest())
    assert tree(store) == whole


def test_a_teacher_that_fails_costs_no_scan_and_leaves_no_store(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["a/1.png"])
    (tmp_path / "t.pth").write_bytes(b"no checkpoint")
    for teacher in ("t.pth", "nothing", "tests.support.teachers:failing", "tests.support.teachers:not_finite"):
        found = ending("usjepa-cache", "build", "s", *DEMO, "--source", "in", "--teacher", teacher, within=tmp_path)
        assert found.code in (1, 2)
        assert "Traceback" not in found.told
        assert "files/s" not in found.told
        assert not (tmp_path / "s").exists()
