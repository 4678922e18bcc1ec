"""List the sets of weights that a checkpoint holds, and choose one.

A training keeps several: the weights that learn, a moving average of them, a predictor, an optimizer's. The average is
what authors evaluate, so it comes first; whatever was not taken is named beside it.
"""

from __future__ import annotations

import itertools
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
_OTHERS = (
    "predictor", "decoder", "head", "projector", "criterion", "loss", "discriminator", "opt", "optimizer",
    "optimizer_state_dict", "scaler", "scheduler", "lr_scheduler",
)  # fmt: skip
"""What is never an encoder; listed, and taken only where it is asked for."""
_DEEPEST = 4
SEPARATOR = "/"
"""Between the keys that lead to a set."""
_SHOWN = 10


def weight_sets(value: object, path: Path) -> dict[str, Tensors]:
    """Return all sets of weights in a checkpoint's content, by the keys that lead to them (`model/encoder`).

    A set is a dict that has tensors under texts. One whose tensors are those of an average and of its origin side by
    side (`teacher.blocks...`, `student.blocks...`) is listed as these two.

    Raises:
        TeacherError: there are none.
    """
    if not isinstance(value, Mapping):
        raise TeacherError(f"{path}: holds a {type(value).__name__}, not a dict of tensors.")
    found = dict(_walk(value, (), _DEEPEST))
    if not found:
        keys = ", ".join(map(str, list(value)[:_SHOWN]))
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
    ranked = sorted(sets, key=_rank)
    if _rank(ranked[0])[0] > _KNOWN:
        raise UsageError(f"{path}: holds several sets of weights: {listed}. Say which: --set cache.teacher.key=NAME.")
    return ranked[0]


TOP = "top"
"""Name of the set that lies at the file's own top level, in `cache.teacher.key` and in messages."""
_KNOWN = 1
"""Highest rank of a set that may be taken unasked among others."""


def _walk(value: Mapping[object, object], trail: tuple[str, ...], depth: int) -> list[tuple[str, Tensors]]:
    tensors = {
        key: item.detach() for key, item in value.items() if isinstance(key, str) and isinstance(item, torch.Tensor)
    }
    found = [(SEPARATOR.join((*trail, *name)), part) for name, part in _sides(tensors)] if tensors else []
    if depth:
        for key, item in value.items():
            if isinstance(key, str) and isinstance(item, Mapping):
                found += _walk(item, (*trail, key), depth - 1)
    return found


def _sides(tensors: Tensors) -> list[tuple[tuple[str, ...], Tensors]]:
    """Return the sets within one flat dict: itself, or an average and its origin, each with its prefix on."""
    first = {key: key.partition(".")[0] for key in tensors}
    heads = set(first.values())
    pairs = [(a, p) for a, p in itertools.product(_AVERAGED, _PLAIN) if a in heads and p in heads]
    if not pairs:
        return [((), tensors)]
    sides = list(dict.fromkeys(itertools.chain(*pairs)))
    found = [((name,), {key: t for key, t in tensors.items() if first[key] == name}) for name in sides]
    rest = {key: tensor for key, tensor in tensors.items() if first[key] not in sides}
    return [*found, (("rest",), rest)] if rest else list(found)


def _rank(name: str) -> tuple[int, int]:
    """Return how well a set is known: the better the lower."""
    parts = name.split(SEPARATOR)
    if any(part in _OTHERS for part in parts):
        return 3, 0
    for rank, names in enumerate((_AVERAGED, _PLAIN)):
        places = [names.index(part) for part in parts if part in names]
        if places:
            return rank, min(places)
    return 2, 0
