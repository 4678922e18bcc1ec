"""Of several layers of a teacher's latents, the one nearest to what it gave stands for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.several import names, write_sources
from tests.support.stores import layers
from usjepa.cache.converting.convert import convert
from usjepa.cache.copying.copy import copy_store
from usjepa.cache.copying.selection import Selection
from usjepa.cache.reading.store import open_store
from usjepa.evaluate.encoders.teachers import StoredTeacher, Teachers

if TYPE_CHECKING:
    from pathlib import Path

TEACHER = {"weights": "0" * 32}
NAME = "toy.8"
"""Of a block: its layers on axes and in fewer bits are called toy-int8.8 and so on, which sort before it."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a teacher's latents, and the same in four coarser forms."""
    plain = layers()
    plain[f"latents/{NAME}"] = replace(
        plain.pop("latents/toy"), name=f"latents/{NAME}", identity={"teacher": TEACHER, "precision": "fp16"}
    )
    write_sources(tmp_path / "s.zarr", names("a", 12), described=plain)
    for axes in (None, 3, 6):
        convert(str(tmp_path / "s.zarr"), "int8", NAME, axes=axes)
    convert(str(tmp_path / "s.zarr"), "int4", NAME, axes=3)
    return tmp_path / "s.zarr"


def found(store: Path) -> StoredTeacher:
    teacher, why = Teachers(TEACHER, None, "cpu").make(open_store(store))
    assert isinstance(teacher, StoredTeacher), why
    return teacher


def test_the_teacher_is_scored_by_its_own_latents_beside_converted_ones(store: Path) -> None:
    assert open_store(store).latents[0] != NAME  # the first by name is none of them
    teacher = found(store)
    assert teacher.teacher == NAME
    assert "stored as" not in teacher.given


@pytest.mark.parametrize(
    ("there", "nearest", "told"),
    [
        (("toy-int8.8", "toy-int8-axes6.8", "toy-int4-axes3.8"), "toy-int8.8", "latents stored as int8"),
        (("toy-int8-axes3.8", "toy-int8-axes6.8"), "toy-int8-axes6.8", "latents stored as int8 on 6 axes"),
        (("toy-int8-axes3.8", "toy-int4-axes3.8"), "toy-int8-axes3.8", "latents stored as int8 on 3 axes"),
    ],
)
def test_of_converted_ones_the_nearest_is_taken_and_the_report_says_what_it_is(
    store: Path, tmp_path: Path, there: tuple[str, ...], nearest: str, told: str
) -> None:
    copy_store(str(store), str(tmp_path / "few.zarr"), Selection(layers=there))
    teacher = found(tmp_path / "few.zarr")
    assert teacher.teacher == nearest
    assert told in teacher.given
