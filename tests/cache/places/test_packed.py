"""Records that are held packed are those that were added, and take little memory."""

from __future__ import annotations

import pickle
import tracemalloc
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from usjepa.cache.places import packed
from usjepa.cache.places.digests import among, digests, short_hashes
from usjepa.cache.places.packed import Packed, fields_of
from usjepa.cache.sources.base import Entry, packed_entries

if TYPE_CHECKING:
    from collections.abc import Iterator


def entries(count: int) -> Iterator[Entry]:
    for i in range(count):
        group = f"patient-{i // 3:06d}"
        yield Entry(f"images/{group}/frame-{i:06d}.png", "images", group, "", "", "images")


@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 1025, 3000])
def test_records_are_those_that_were_added(count: int) -> None:
    plain, held = tuple(entries(count)), packed_entries(entries(count))
    assert len(held) == count
    assert tuple(held) == plain
    assert held == plain
    assert held == pickle.loads(pickle.dumps(held))
    assert [held[i] for i in range(-count, count)] == [*plain, *plain]
    assert held[count // 2 :: 7] == plain[count // 2 :: 7]
    assert list(fields_of(held, "group", "path")) == list(fields_of(plain, "group", "path"))
    assert [path for (path,) in fields_of(held, "path")] == [entry.path for entry in plain]
    with pytest.raises(IndexError, match="none of number"):
        held[count]


def test_texts_are_records_too() -> None:
    texts = [f"{i}/ä\udc80" for i in range(2500)]
    assert list(Packed(str, (), texts)) == texts


@pytest.mark.parametrize("seed", range(4))
def test_they_are_ordered_as_a_list_is_also_where_they_are_sorted_in_parts(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "_BLOCK", 8)
    monkeypatch.setattr(packed, "_RUN", 50)
    rng = np.random.default_rng(seed)
    made = [Entry(f"{rng.integers(0, 300)}", "d", str(i), "", "", "") for i in range(700)]  # some paths twice
    held = packed_entries(made)
    assert held.in_order(attrgetter("path")) == sorted(made, key=attrgetter("path"))
    ordered = held.in_order(attrgetter("path"))
    assert ordered.in_order(attrgetter("path")) is ordered


def test_an_entry_takes_less_than_a_tenth_of_an_object() -> None:
    def bytes_each(kind: type) -> float:
        tracemalloc.start()
        held = kind(entries(20_000))
        nbytes = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return nbytes / len(held)

    plain, held = bytes_each(tuple), bytes_each(packed_entries)  # type: ignore[arg-type]
    assert plain > 250
    assert held < 40  # 1,023 of 20,000 may be loose


def test_digests_tell_names_apart_and_are_found_among_others() -> None:
    names = [f"{i % 700}\0{'x' * (i % 5)}" for i in range(3000)]
    found = digests(names)
    assert len(np.unique(found)) == len(set(names))
    assert len(np.unique(short_hashes(names))) == len(set(names))
    others = digests(names[100:130])
    assert among(found, others).tolist() == [name in set(names[100:130]) for name in names]
    assert not among(found, digests(())).any()
    assert among(digests(()), found).tolist() == []
