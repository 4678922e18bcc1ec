"""Choose which layers of several stores a batch takes, and whose latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.several.face import Readable


def chosen_layers(stores: Readable, layers: Sequence[str] | None, teacher: str | None) -> tuple[list[str], str | None]:
    """Return which layers to read, the largest rows first, and whose latents are among them.

    Args:
        stores: what is read.
        layers: names that are asked for; None: pixels, regions and one teacher's latents.
        teacher: whose; None: the only one.

    Raises:
        UsageError: a layer or teacher that the stores do not have in common, or several teachers and none named.
    """
    described = stores.layers
    if layers is None:
        teacher = _chosen_teacher(stores, teacher)
        wanted = ("pixels", "regions", *((f"latents/{teacher}", f"scales/{teacher}") if teacher else ()))
        names = [name for name in wanted if name in described]
    else:
        names = list(dict.fromkeys(layers))
        unknown = [name for name in names if name not in described]
        if unknown:
            raise UsageError(
                f"{stores.location}: no layer {unknown[0]!r} is read of them; those are {', '.join(described)}."
            )
        named = [described[name].teacher for name in names if described[name].kind == "latents"]
        teacher = named[0] if named else None
    return sorted(names, key=lambda name: -described[name].row_nbytes), teacher


def _chosen_teacher(stores: Readable, teacher: str | None) -> str | None:
    """Return the teacher whose latents to read, None where there are none."""
    known = stores.latents
    if teacher is None and len(known) > 1:
        raise UsageError(
            f"{stores.location}: hold latents of several teachers ({', '.join(known)}). "
            "Choose one: train.teacher in a recipe, teacher=... in Python."
        )
    if teacher is not None and teacher not in known:
        raise UsageError(
            f"{stores.location}: no latents of {teacher!r} in all of them; in all: {', '.join(known) or 'none'}."
        )
    return teacher or (known[0] if known else None)
