"""Define a layout of weights as data, and apply one.

A layout says how one family of code names the tensors of its vision tower: by which key it is recognised, what is not
part of the tower, and what the rest is called in timm. Nothing is guessed from values; what is left over afterwards
makes strict loading fail.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import TeacherError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from usjepa.cache.teacher.checkpoints.sets import Tensors

OTHER_TOWER = "of another tower"
_WRAPPERS = r"^(?:(?:module|model|net|network|state_dict|backbone|_orig_mod)\.)+"


@dataclass(frozen=True)
class Layout:
    """How one family of code names the weights of its vision transformers."""

    name: str
    mark: str
    """Regular expression for one key that only this layout has; its group `prefix` is what stands before the tower."""
    family: str
    """Kind of timm model that the weights are for: vit, eva, beit or sam."""
    renamed: tuple[tuple[str, str], ...] = ()
    """(regular expression, replacement) for names behind the prefix, applied in turn."""
    dropped: tuple[tuple[str, str], ...] = ()
    """(regular expression for names behind the prefix, reason): what the tower's patch tokens don't depend on."""
    beside: tuple[tuple[str, str], ...] = ()
    """(regular expression for keys that lie outside the prefix, without wrappers such as `module.`, reason)."""
    outside: tuple[tuple[str, str], ...] = ()
    """(regular expression for such keys, name in timm): what belongs to the tower and yet lies outside its prefix."""
    join: Callable[[Tensors], None] | None = None
    """Puts together or folds what timm keeps otherwise; in place, on timm's names."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments for timm's class that all weights of this layout need."""
    asks: tuple[str, ...] = ()
    """Settings that no file of this layout tells and whose defaults would mostly be wrong."""


@dataclass(frozen=True)
class Translated:
    """Weights under timm's names."""

    tensors: Tensors
    layout: Layout | None = None
    """None: they had timm's names, or MAE's, which are the same."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Key of the file -> reason."""


def translated(tensors: Tensors, layouts: tuple[Layout, ...], where: str) -> Translated:
    """Return weights under timm's names, by the first layout that recognises a key; as they are where none does.

    Args:
        tensors: a set of weights, under the names of its file.
        layouts: the known ones, the most particular first.
        where: names the checkpoint in messages.

    Raises:
        TeacherError: two tensors would get one name, or a part of a tensor is missing.
    """
    for layout in layouts:
        mark = re.compile(layout.mark)
        found = next((match for key in tensors if (match := mark.fullmatch(key))), None)
        if found is not None:
            return _applied(layout, found["prefix"], tensors, where)
    return Translated(tensors)


def _applied(layout: Layout, prefix: str, tensors: Tensors, where: str) -> Translated:
    named: Tensors = {}
    dropped: dict[str, str] = {}
    for key, tensor in tensors.items():
        inside = key.startswith(prefix)
        name = key.removeprefix(prefix)
        rules = layout.dropped if inside else layout.beside
        bare = {name} if inside else {re.sub(_WRAPPERS, "", name), _without_shared(key, prefix)}
        reason = next((reason for pattern, reason in rules if any(re.fullmatch(pattern, one) for one in bare)), None)
        if reason is not None:
            dropped[key] = reason
            continue
        if inside:
            for pattern, replacement in layout.renamed:
                name = re.sub(pattern, replacement, name)
        else:
            lifted = (match.expand(to) for pattern, to in layout.outside if (match := re.fullmatch(pattern, name)))
            # No model has the latter name, so that it is still accounted for.
            name = next(lifted, f"outside {prefix} {key}")
        if name in named:
            raise TeacherError(f"{where}: two tensors of its layout ({layout.name}) would both be {name}: {key}.")
        named[name] = tensor
    if layout.join is not None:
        try:
            layout.join(named)
        except (KeyError, RuntimeError, IndexError) as error:
            raise TeacherError(
                f"{where}: looks like {layout.name}, but its parts don't fit together: {error}"
            ) from error
    return Translated(named, layout, dropped)


def _without_shared(key: str, prefix: str) -> str:
    """Return a key without the components that it shares with the tower's prefix: wrappers of any name."""
    parts, shared = key.split("."), prefix.split(".")[:-1]
    count = next((place for place, part in enumerate(shared) if parts[place : place + 1] != [part]), len(shared))
    return ".".join(parts[count:])
