"""Compare the layers of several stores field by field."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from usjepa.cache.errors import IdentityError, UsageError
from usjepa.cache.identity import differences
from usjepa.cache.several.naming import short_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from usjepa.cache.identity import Json
    from usjepa.cache.reading.store import Store
    from usjepa.cache.store.layers import Layer

_HELD, _MISSING = "held", "missing"


def refuse_repeats(stores: Sequence[Store]) -> None:
    """Raise UsageError where one store is given twice, or a store beside its copy."""
    places: dict[str, str] = {}
    contents: dict[str, str] = {}
    for store in stores:
        if store.storage.url in places:
            raise UsageError(f"{store.location}: given twice. Give each store once.")
        content = store.content_digest(sorted(store.layers))
        if content in contents:
            raise UsageError(
                f"{store.location}: holds the very rows of {contents[content]}: it is a copy of it. Give one of them."
            )
        places[store.storage.url] = contents[content] = store.location


def fitting_layers(stores: Sequence[Store], wanted: Iterable[str] | None) -> dict[str, Layer]:
    """Return the layers that stores have in common, as the first one describes them.

    Args:
        stores: at least one.
        wanted: names of the layers that are read; `scales` come with the latents that they are of. None: all layers
            that any store holds.

    Raises:
        UsageError: no store holds a layer that is wanted.
        IdentityError: stores differ in a layer; the message has every field.
    """
    held = {name for store in stores for name in store.layers}
    names = held if wanted is None else set(wanted)
    names |= {name.replace("latents/", "scales/") for name in names} & held
    unknown = sorted(names - held)
    if unknown:
        raise UsageError(
            f"{', '.join(store.location for store in stores)}: no layer {unknown[0]!r}; there are "
            f"{', '.join(sorted(held))}."
        )
    first = stores[0]
    lines = [line for store in stores[1:] for line in _differences(first, store, sorted(names))]
    if lines:
        raise IdentityError(
            "These stores can't be read as one, because they differ where they must agree:\n" + "\n".join(lines) + "\n"
            "Build them with one recipe and one teacher (a layer of another precision: usjepa-cache convert), or leave "
            "out what differs: layers that are not read may differ."
        )
    return {name: first.layers[name] for name in first.layers if name in names}


def _differences(first: Store, other: Store, names: Sequence[str]) -> list[str]:
    """Return lines that say in which fields of some layers a store differs from the first, under a line of its own."""
    found: list[tuple[str, Json, Json]] = []
    for name in names:
        mine, theirs = first.layers.get(name), other.layers.get(name)
        if mine is None or theirs is None:
            found.append((name, _MISSING if mine is None else _HELD, _MISSING if theirs is None else _HELD))
        else:
            found += differences(_described(mine), _described(theirs), name)
    one, two = short_names((first.location, other.location))
    lines = [f"  {field}: {json.dumps(a)} | {json.dumps(b)}" for field, a, b in found]
    return [f"{other.location} (field: {one} | {two}):", *lines] if lines else []


def _described(layer: Layer) -> dict[str, Json]:
    """Return what must agree; not what was found in a sample (scales, axes), which each store has of its own."""
    shape = list(layer.shape)
    sizes: dict[str, Json] = {"shape": shape}
    if layer.kind == "pixels":
        sizes = {"channels": shape[0], "size": shape[-1]}
    if layer.kind == "latents":
        sizes = {"patches": shape[0], "width": shape[-1] if layer.coding is None else layer.coding.width}
    return {**sizes, "dtype": layer.dtype, "identity": layer.identity}
