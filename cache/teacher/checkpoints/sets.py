"""List the sets of weights that a checkpoint holds, and choose one.

A training keeps several: the weights that learn, a moving average of them, a predictor, an optimizer's. The average is
what authors evaluate, so it comes first; whatever was not taken is named beside it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from usjepa.cache.errors import TeacherError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

Tensors = dict[str, torch.Tensor]

_AVERAGED = (
    "ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema", "target_encoder", "teacher_state_dict",
    "teacher", "momentum_encoder", "target", "params_ema", "ema_params", "encoder_ema", "ema_encoder", "encoder_k",
)  # fmt: skip
_PLAIN = (
    "state_dict", "model_state_dict", "model", "encoder", "student", "net", "network", "backbone", "module", "params",
    "weights", "online", "encoder_q", "",
)  # fmt: skip
"""Best first; "" is the file's own top level."""
_NEVER = {
    "predictor", "decoder", "head", "heads", "projector", "projection", "criterion", "loss", "discriminator", "opt",
    "optim", "optimizer", "optimizers", "scaler", "scheduler", "queue", "center",
}  # fmt: skip
"""Words of what is never an encoder; it is listed, and taken only where it is asked for."""
_UNNAMED = {"ema", "averaged", "average", "swa", "shadow", "polyak"}
"""Words of a list of tensors that is an average; `avg` and `momentum` are optimizers' own."""
_AVERAGES = {*_UNNAMED, "teacher", "meanteacher", "momentum", "target", "avg", "slow"}
_LEARNING = {"student", "online", "model", "encoder", "backbone", "net", "network"}
"""Words by which a name in neither list is known: `dino_head`, `teacher_backbone`, `online_network`."""
_LAST = 99
"""Place of such a name among those of its rank."""
_DEEPEST = 4
_WRAPPED = 3
"""Components of a name among which an average and its origin are looked for."""
_MOST = 100_000
"""Dicts and lists that are looked into: a small file can hold one of them in another without end."""
_SMALL = 4
"""A set with fewer tensors than this part of the largest is not taken unasked."""
_LONGEST = 64
"""Items of a list that are looked at."""
SEPARATOR = "/"
"""Between the keys that lead to a set."""
_SHOWN = 10
_WORD = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+")
"""Of a name, in whatever way its words are joined: `model_ema`, `model-ema`, `modelEMA`, `EMAModel`."""


def weight_sets(value: object, path: Path) -> dict[str, Tensors]:
    """Return all sets of weights in a checkpoint's content, by the keys that lead to them (`model/encoder`).

    A set is a dict that has tensors under texts. One whose tensors are those of an average and of its origin side by
    side (`teacher.blocks...`, `student.blocks...`) is listed as these two.

    Raises:
        TeacherError: there are none.
    """
    whole = _as_mapping(value)
    if whole is None:
        raise TeacherError(f"{path}: holds a {type(value).__name__}, not a dict of tensors.")
    found = dict(_walk(whole, path))
    if not found:
        keys = ", ".join(map(str, list(whole)[:_SHOWN]))
        raise TeacherError(f"{path}: holds no tensors that can be read as weights; its keys are {keys or 'none'}.")
    return found


def choose_set(sets: Mapping[str, Tensors], key: str | None, path: Path) -> str:
    """Return the name of the set to take: the one asked for, else the only or the best known one.

    Raises:
        UsageError: no set has that name, or there are several and none has a name that is known.
    """
    listed = ", ".join(f"{name or TOP} ({len(tensors)} tensors)" for name, tensors in sets.items())
    if key is not None:
        wanted = "" if key == TOP else key
        if wanted not in sets:
            raise UsageError(f"cache.teacher.key={key}: {path} holds no such weights. There are: {listed}.")
        return wanted
    if len(sets) == 1:
        return next(iter(sets))
    ranked = sorted(_of_weight(sets), key=_rank)
    if _rank(ranked[0])[0] > _KNOWN or (len(ranked) > 1 and _rank(ranked[0]) == _rank(ranked[1])):
        raise UsageError(f"{path}: holds several sets of weights: {listed}. Say which: --set cache.teacher.key=NAME.")
    return ranked[0]


def _of_weight(sets: Mapping[str, Tensors]) -> list[str]:
    """Return the sets that may be a model, for all that their size tells: `ema` may hold no more than its decay."""
    known = [len(tensors) for name, tensors in sets.items() if _rank(name)[0] <= _KNOWN]
    return [name for name, tensors in sets.items() if len(tensors) * _SMALL >= max(known, default=0)]


TOP = "top"
"""Name of the set that lies at the file's own top level, in `cache.teacher.key` and in messages."""
_KNOWN = 1
"""Highest rank of a set that may be taken unasked among others."""


def _walk(whole: Mapping[object, object], path: Path) -> list[tuple[str, Tensors]]:
    """Return name and tensors of every set, the shallowest first; TeacherError where a file holds too much else."""
    found: list[tuple[str, Tensors]] = []
    places: list[tuple[tuple[str, ...], Mapping[object, object]]] = [((), whole)]
    for trail, value in places:  # it grows meanwhile
        tensors = {
            k: item.detach() for k, item in value.items() if isinstance(k, str) and isinstance(item, torch.Tensor)
        }
        found += [(SEPARATOR.join((*trail, *name)), part) for name, part in _sides(tensors)] if tensors else []
        if len(trail) < _DEEPEST:
            inner = ((key, _as_mapping(item)) for key, item in value.items() if isinstance(key, str))
            places += [((*trail, key), part) for key, part in inner if part is not None]
        if len(places) > _MOST:
            raise TeacherError(f"{path}: holds more than {_MOST:,} dicts and lists within one another: not weights.")
    return found


def _as_mapping(item: object) -> Mapping[object, object] | None:
    """Return a dict as it is, a list or tuple by the places of what it holds; None for anything else."""
    if isinstance(item, Mapping):
        return item
    if isinstance(item, list | tuple):
        return {str(place): part for place, part in enumerate(item[:_LONGEST]) if not isinstance(part, torch.Tensor)}
    return None


def _sides(tensors: Tensors) -> list[tuple[tuple[str, ...], Tensors]]:
    """Return the sets within one flat dict: itself, or an average and its origin, each with its prefix on.

    The two may lie behind wrappers (`model.teacher.`, `module.momentum_encoder.`).
    """
    parts = {key: key.split(".") for key in tensors}
    for depth in range(_WRAPPED):
        sides = _paired({path[depth] for path in parts.values() if len(path) > depth + 1})
        if sides:
            of = {key: path[depth] if len(path) > depth + 1 and path[depth] in sides else "rest"
                  for key, path in parts.items()}  # fmt: skip
            found = [((name,), {key: t for key, t in tensors.items() if of[key] == name}) for name in (*sides, "rest")]
            return [(name, part) for name, part in found if part]
    return [((), tensors)]


def _paired(heads: set[str]) -> list[str]:
    """Return those of some components of names that are averages or their origins; none unless both are there."""
    ranks = {head: _rank(head) for head in sorted(heads) if head}
    averaged, plain = ([head for head, found in ranks.items() if found[0] == rank] for rank in (0, 1))
    return sorted((*averaged, *plain), key=lambda head: ranks[head]) if averaged and plain else []


def unnamed_average(value: object, chosen: str, tensors: Tensors) -> str:
    """Return where a file has an average of the chosen weights as a list without names; "" where it has none.

    So writes torch_ema (`ema/shadow_params`): which tensor is which follows from the model's code alone.
    """
    if _rank(chosen)[0] == 0:
        return ""
    shapes = {tensor.shape for tensor in tensors.values()}
    places: list[tuple[str, object]] = [("", value)]
    for trail, item in places:  # it grows meanwhile
        if isinstance(item, list | tuple):
            held = [one for one in item if isinstance(one, torch.Tensor)]
            if 2 * len(held) > len(tensors) and _words(trail) & _UNNAMED and {one.shape for one in held} <= shapes:
                return trail
        inner = item.items() if isinstance(item, Mapping) else enumerate(item) if isinstance(item, list | tuple) else ()
        if trail.count(SEPARATOR) < _DEEPEST:
            places += [
                (f"{trail}{SEPARATOR}{key}".lstrip(SEPARATOR), part)
                for key, part in itertools.islice(inner, _MOST)
                if isinstance(part, Mapping | list | tuple)
            ]
        if len(places) > _MOST:
            break
    return ""


def _words(name: str) -> set[str]:
    """Return the words of a name, lower case."""
    return {word.lower() for word in _WORD.findall(name)} | set(name.lower().split("_"))


def _rank(name: str) -> tuple[int, tuple[int, ...]]:
    """Return how well a set is known: the better the lower."""
    parts = [(part, _words(part)) for part in name.split(SEPARATOR)]
    if any(words & _NEVER for _, words in parts):
        return 3, ()
    for rank, (names, some) in enumerate(((_AVERAGED, _AVERAGES), (_PLAIN, _LEARNING))):
        places = [
            names.index(part) if part in names else _LAST for part, words in parts if part in names or words & some
        ]
        if places:
            return rank, tuple(sorted(places))
    return 2, ()
