"""Hold what every room promises: its size, its sign, and modules that say what they do."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
ROOMS = sorted({file.parent for stage in ("cache", "train", "evaluate") for file in (HOUSE / stage).rglob("*.py")})
TEST_ROOMS = sorted({file.parent for file in (HOUSE / "tests").rglob("*.py")})
TOPS = {"cache": 10, "train": 5, "evaluate": 5}
"""Most files beside the rooms of a stage, its `__init__` and `cli` included."""


def _docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text())) or ""


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(HOUSE)))
def test_a_room_has_3_to_14_files_and_a_sign(room: Path) -> None:
    files = [file for file in room.glob("*.py") if file.name != "__init__.py"]
    if str(room.relative_to(HOUSE)) in TOPS:
        assert len(files) <= TOPS[room.name]
    else:
        assert 3 <= len(files) + 1 <= 14
        assert len(_docstring(room / "__init__.py").split("\n\n")) >= 2  # what lies here; the order to read it in


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(HOUSE)))
def test_each_module_of_a_room_opens_with_a_sentence_of_at_most_15_words(room: Path) -> None:
    first = {file.name: _docstring(file).split("\n\n")[0] for file in room.glob("*.py")}
    assert not {name: text for name, text in first.items() if not 3 <= len(text.split(". ")[0].split()) <= 15}


@pytest.mark.parametrize("room", TEST_ROOMS, ids=lambda room: str(room.relative_to(HOUSE)))
def test_a_room_of_tests_has_at_most_14_files_which_say_what_they_hold(room: Path) -> None:
    files = [file for file in room.glob("*.py") if file.name != "__init__.py"]
    assert len(files) + 1 <= 14
    first = {file.name: _docstring(file).split("\n\n")[0] for file in files}
    assert not {name: text for name, text in first.items() if not text}
