"""Open the stores of a run, those that it began on where it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from usjepa.cache.errors import IdentityError, StoreError, WithdrawnError
from usjepa.cache.reading.store import open_store
from usjepa.cache.several.stores import Stores
from usjepa.train.objective.targets import layers_read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.identity import Json
    from usjepa.cache.reading.store import Store
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.cache.several.face import Readable
    from usjepa.train.record.checkpoint import RunProgress


class Opened(NamedTuple):
    """What a run reads, and what is to be said of it."""

    store: Readable
    notes: tuple[str, ...]


def open_readable(paths: Sequence[str], recipe: Recipe, resumed: RunProgress | None) -> Opened:
    """Open one store or several; a resumed run reads the generations that it began on, even if a store has grown.

    Args:
        paths: folders or URLs, at least one.
        recipe: its `train` section says which layers are read.
        resumed: of the run that goes on; None: the run begins.

    Raises:
        IdentityError: the run began on other stores or in another order, or the stores do not fit each other.
        WithdrawnError: the run began on rows that were removed since.
        UsageError: a store is given twice, or lacks what the recipe trains with.
    """
    newest = [open_store(path, threads=recipe.train.read_threads) for path in paths]
    begun = [] if resumed is None else records_in(resumed.store)
    opened: list[Store | None] = list(newest)
    if begun and len(newest) == len(begun):
        opened = [_as_begun(store, record) for store, record in zip(newest, begun, strict=True)]
    if begun and max(len(newest), len(begun)) > 1 and (len(newest) != len(begun) or None in opened):
        raise IdentityError(_other_stores(newest, begun))
    # A single store that is another one is told by the fields in which the run's identity differs.
    stores = [store or new for store, new in zip(opened, newest, strict=True)]
    notes = tuple(note for old, new in zip(stores, newest, strict=True) if (note := _grown(old, new)))
    if len(stores) == 1:
        return Opened(stores[0], notes)
    several = Stores(stores, layers_read(stores, recipe))
    each = (
        f"{name} (generation {one.generation}, {len(one):,} rows)"
        for name, one in zip(several.names, stores, strict=True)
    )
    return Opened(several, (f"{len(stores)} stores as one: {', '.join(each)}", *notes))


def record_of(store: Readable) -> dict[str, Json]:
    """Return what a checkpoint remembers of the stores: generation and digests; of several each, with its name."""
    if not isinstance(store, Stores):
        (one,) = store.parts
        return {"generation": one.generation, "digest": one.digest, "content": one.content_digest()}
    each = [{"name": name, **record_of(part)} for name, part in zip(store.names, store.parts, strict=True)]
    return {"digest": store.digest, "content": store.content_digest(), "stores": each}


def records_in(remembered: dict[str, Json]) -> list[dict[str, Json]]:
    """Return the record of each store, in order, from what a checkpoint remembers."""
    return list(remembered.get("stores") or [remembered])


def _as_begun(store: Store, record: dict[str, Json]) -> Store | None:
    """Return a store at the generation that a run began on; None where it is another, or has that no more."""
    if store.digest == record["digest"]:
        return store
    try:
        older = open_store(store.location, generation=int(record["generation"]), threads=store.threads)
    except WithdrawnError:
        raise
    except StoreError:
        return None
    return older if older.digest == record["digest"] else None


def _grown(read: Store, newest: Store) -> str:
    """Return a note where a store has other rows now than a run that goes on reads."""
    if read.generation == newest.generation or read.content_digest() == newest.content_digest():
        return ""
    return (
        f"{newest.location}: has changed since this run began on its generation {read.generation}, and the run goes on "
        f"with that. To train on generation {newest.generation} ({len(newest):,} rows, not {len(read):,}) is another "
        "run: give another RUN folder."
    )


def _other_stores(given: Sequence[Store], begun: Sequence[dict[str, Json]]) -> str:
    """Return which stores a run began on, and what those are that were given."""
    lines = []
    for store in given:
        place = next((number for number, record in enumerate(begun) if _is(store, record)), None)
        what = "none of them, or it has no longer the generation that the run began on"
        if place is not None:
            what = f"number {place + 1} of them" if len(begun) > 1 else "it"
        lines.append(f"  given: {store.location}: {what}")
    named = ", ".join(_told(record, number) for number, record in enumerate(begun, start=1))
    found = {number for store in given for number, record in enumerate(begun) if _is(store, record)}
    missing = [_told(record, number + 1) for number, record in enumerate(begun) if number not in found]
    lines += [f"  missing: {one}" for one in missing]
    return (
        f"This run began on other stores, or on the same in another order: {named}.\n" + "\n".join(lines) + "\n"
        "Give the same stores in the same order to go on, or another RUN folder to train with these."
    )


def _told(record: dict[str, Json], number: int) -> str:
    name = record.get("name", "one store")
    return f"{number}. {name} (generation {record['generation']}, digest {record['digest']})"


def _is(store: Store, record: dict[str, Json]) -> bool:
    try:
        return _as_begun(store, record) is not None
    except WithdrawnError:
        return False


def named_rows(store: Readable, rows: Sequence[int]) -> list[str]:
    """Return how messages name rows: by number, of several stores with the store that each lies in."""
    if not isinstance(store, Stores):
        return [str(row) for row in rows]
    names = dict(zip(store.parts, store.names, strict=True))
    places = [store.place_of(int(row)) for row in rows]
    return [f"{number} of {names[part]}" for part, number in places]
