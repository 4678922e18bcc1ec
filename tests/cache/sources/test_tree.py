"""Claims about walks: each folder is read once, and names that wait to be walked are packed."""

from __future__ import annotations

import os
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builds import pictures
from usjepa.cache.places import siblings
from usjepa.cache.places.packed import Packed
from usjepa.cache.places.siblings import Siblings, in_order
from usjepa.cache.sources.found import find_rows
from usjepa.cache.sources.layouts.base import Folder
from usjepa.cache.sources.layouts.breast import Busi
from usjepa.cache.sources.tree import Tree

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

NAMES = st.text("ab-.é\udc80", min_size=1, max_size=3)
"""Names among which one begins another, and what follows comes before and after a slash."""


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the folders that are read from the disk from now on."""
    found: list[str] = []
    scandir = os.scandir

    def counted(folder: Path) -> Any:
        found.append(str(folder))
        return scandir(folder)

    monkeypatch.setattr("usjepa.cache.sources.tree.os.scandir", counted)
    return found


@given(st.dictionaries(NAMES, st.tuples(st.sets(NAMES), st.sets(NAMES))), st.lists(NAMES, max_size=30), st.randoms())
def test_siblings_give_back_what_was_added_in_whatever_order_they_are_asked_for(
    lying: dict[str, tuple[set[str], set[str]]], asked: list[str], random: Random
) -> None:
    held = Siblings()
    names = {name: (tuple(sorted(files)), tuple(sorted(folders))) for name, (files, folders) in lying.items()}
    added = sorted(names)
    for name in random.sample(added, min(len(added), 4)):  # before their turn
        added.remove(name)
        added.insert(0, name)
    for name in added:
        assert held.find(name) is None
        assert held.add(name, names[name])
        assert held.find(name) == names[name]
    for name in [*asked, *sorted(names), *sorted(names), *sorted(names, reverse=True)]:
        assert held.find(name) == names.get(name)


def test_siblings_refuse_a_wild_order_and_very_many_names() -> None:
    held = Siblings()
    taken = [held.add(name, ((name,), ())) for name in "zyxwvutsrq"]
    assert taken == [True] * 8 + [False] * 2
    assert not held.add("~", (Packed(str, (), ["1"]), ()))
    assert held.add("~", ((), ()))
    assert [held.find(name) for name in "qrsz~"] == [None, None, (("s",), ()), (("z",), ()), ((), ())]


@given(st.lists(NAMES, unique=True))
def test_very_many_names_are_in_the_order_of_few(names: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(siblings, "_MANY", 0)
        assert list(in_order(Packed(str, (), names))) == sorted(names)


def test_a_walk_reads_each_folder_once_though_layouts_look_into_all_of_them_first(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [f"p{i:02d}/visit-{j}" for i in range(20) for j in range(2)]
    pictures(tmp_path, [*(f"{place}/1.png" for place in places), "patient0001/x.png"])  # CAMUS looks there first
    tree, most = Tree(tmp_path), 0

    def looked(folder: Folder) -> bool:
        nonlocal most
        most = max(most, len(tree._folders))
        return False

    monkeypatch.setattr(Busi, "recognises", lambda self, folder: looked(folder))  # after COCO, which looks into all
    found = find_rows(Folder(tree), "auto")
    assert [entry.path for entry in found.entries] == [*(f"{place}/1.png" for place in places), "patient0001/x.png"]
    assert most == 1
    assert sorted(read) == sorted({str(tmp_path), *map(str, (path for path in tmp_path.rglob("*") if path.is_dir()))})


def test_very_many_names_in_a_folder_give_the_same_sources_and_are_read_once(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path, [f"{folder}/{number}.png" for folder in ("a", "b-", "b") for number in range(9)])
    plain = list(find_rows(Folder(Tree(tmp_path)), "auto").entries)
    few = len(read)
    monkeypatch.setattr(siblings, "_MANY", 2)
    tree = Tree(tmp_path)
    assert list(find_rows(Folder(tree), "auto").entries) == plain
    assert len(read) == 2 * few
    assert set(tree._folders) == {""}


def test_names_that_wait_to_be_walked_take_no_more_than_60_bytes_a_folder() -> None:
    def add(held: Siblings, count: int) -> None:
        for i in range(count):
            held.add(f"patient-{i:09d}", (tuple(f"frame-{3 * i + j:09d}.png" for j in range(3)), ()))

    count, held = 20_000, Siblings()
    add(Siblings(), 2_000)  # what packs is imported
    tracemalloc.start()
    add(held, count)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size / count < 60  # 770 as texts in tuples
