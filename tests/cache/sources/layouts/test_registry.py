"""Layouts from outside the package: the documented class is found by its entry point, and what it raises is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cache.sources.layouts.test_layouts import files, found, rows, write
from usjepa.cache.errors import UsageError
from usjepa.cache.sources.layouts import registry

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[4] / "docs/reference/layouts.md"


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install the layout of the page, and return a folder that is of it."""
    code = re.findall(r'```python title="lab_sources\.py"\n(.*?)```', PAGE.read_text(), re.S)[0]
    write(tmp_path, "package/lab_sources.py", code)
    write(tmp_path, "package/lab-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: lab\nVersion: 1\n")
    points = "[usjepa.source_layouts]\nexport = lab_sources:Export\n"
    write(tmp_path, "package/lab-1.dist-info/entry_points.txt", points)
    monkeypatch.syspath_prepend(tmp_path / "package")
    registry.layouts.cache_clear()
    yield tmp_path / "in"
    registry.layouts.cache_clear()


def test_the_layout_of_the_page_is_used_once_it_is_installed(export: Path) -> None:
    files(export, ["a.png", "b.png"])
    write(export, "export.idx", "7 a.png\n8 b.png\n")
    assert rows(export) == {"a.png": ("in", "", "7", ""), "b.png": ("in", "", "8", "")}
    assert "in is read as an export of the archive: 2 files" in found(export).notes[0]


def test_what_an_installed_layout_raises_is_named(export: Path) -> None:
    files(export, ["a.png"])
    write(export, "export.idx", "no_patient\n")
    with pytest.raises(UsageError, match="layout `export` failed: ValueError"):
        found(export)


def test_the_page_names_every_layout_and_no_other() -> None:
    named = set(re.findall(r"^\| `(\w+)` \| (?!\S+ train,)", PAGE.read_text().partition("## Folders")[0], re.M))
    assert named == set(registry.layouts())
