"""The documentation's table of teachers has every teacher that is compared and every preset, and no empty cell."""

from __future__ import annotations

from pathlib import Path

from tests.cache.teacher.layouts import table
from usjepa.cache.teacher.names.presets import PRESETS

PAGE = Path(__file__).parents[4] / "docs" / "reference" / "teachers.md"


def cells() -> list[list[str]]:
    """Return the rows of the page's table, without its head."""
    lines = PAGE.read_text().partition("| teacher | `--teacher` |")[2].splitlines()[2:]
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_the_page_has_every_teacher_that_is_compared_with_its_flags_and_its_test() -> None:
    wanted = [(name, flags, f"`{test}`") for name, (_, flags, test) in table.rows().items()]
    assert [(name, flags, test) for name, flags, _, _, test in cells()] == wanted


def test_no_cell_is_empty_and_all_tokens_are_equal() -> None:
    for name, flags, difference, cosine, test in cells():
        assert all((name, flags, difference, cosine, test))
        assert float(difference) <= 1e-4
        assert float(cosine) >= 0.9999
        assert (PAGE.parents[2] / test.strip("`")).is_file()


def test_every_preset_is_of_a_row() -> None:
    assert sorted(name for names in table.PRESETS.values() for name in names) == sorted(PRESETS)
    assert set(table.PRESETS) <= set(table.rows())
