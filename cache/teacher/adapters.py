"""Find the function that makes a teacher.

An adapter is a function `(settings, pixel_size, device) -> Teacher`, or `-> Pass` for one that gives several blocks of
a model at once where `settings.blocks` asks for them. A package offers one under a name by the entry
point group `usjepa.teachers`; without a package it is named as `module:function`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, cast, get_args

import torch
import xxhash

from usjepa.cache.errors import TeacherError, UsageError, UsjepaError
from usjepa.cache.recipes.base import TeacherPrecision
from usjepa.cache.recipes.cache import TeacherSettings
from usjepa.cache.teacher.checkpoints.weights import weights_hash
from usjepa.cache.teacher.teacher import Alone, Pass, Teacher
from usjepa.cache.teacher.vit import load_timm

if TYPE_CHECKING:
    from usjepa.cache.identity import Json
    from usjepa.cache.teacher.model_input import ModelInput

Adapter = Callable[[TeacherSettings, int, torch.device], Teacher | Pass]

GROUP = "usjepa.teachers"
"""Entry point group by which an installed package offers adapters under names."""
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_adapter(text: str) -> bool:
    """Return whether a text names an installed adapter, or has the form `module:function`."""
    return _FUNCTION.fullmatch(text) is not None or text in _installed()


def find_adapter(architecture: str) -> Adapter:
    """Return the function that makes teachers of an architecture; timm's models where it names no adapter.

    Raises:
        UsageError: it names an adapter that can't be imported.
    """
    if not is_adapter(architecture):
        return load_timm
    module, _, name = _installed().get(architecture, architecture).partition(":")
    try:
        adapter: Adapter = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"teacher {architecture}: can't import {name} from {module} ({error}). Install its package, or put the "
            "folder of the module on PYTHONPATH."
        ) from error
    return adapter


def make(adapter: Adapter, settings: TeacherSettings, pixel_size: int, device: torch.device) -> Pass:
    """Return the pass of the teacher, or the teachers, that an adapter makes.

    Raises:
        UsageError: several blocks are asked for, and the adapter gives one teacher.
        UsjepaError: what the adapter raised of its own accord.
        OSError: the system refuses a file.
        TeacherError: it failed in another way, or gave something that is no teacher.
    """
    try:
        made = adapter(settings, pixel_size, device)
    except UsjepaError:
        raise
    except Exception as error:  # other people's code raises any type there is
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.filename is not None):
            raise  # the system's refusal says more: which file, and why
        place = inspect.getinnerframes(error.__traceback__)[-1] if error.__traceback__ else None
        where = f" ({place.filename}, line {place.lineno})" if place else ""
        raise TeacherError(f"teacher {settings.architecture}: its adapter failed{where}: {error!r}") from error
    if settings.blocks is not None and not hasattr(made, "teachers"):
        raise UsageError(
            f"cache.teacher.blocks={list(settings.blocks)}: the adapter {settings.architecture} gives one teacher, not "
            "one for each block. Build them one by one, each with cache.teacher.block and a cache.teacher.name."
        )
    run = cast("Pass", made) if hasattr(made, "teachers") else Alone(made)
    for teacher in run.teachers:
        _check_whole(teacher, settings)
    return run


def _check_whole(made: Teacher, settings: TeacherSettings) -> None:
    """Raise TeacherError where a teacher lacks something, or states another precision than it has.

    Raises:
        UsageError: its patches form no square grid. A store keeps their number alone, and its pixels are square.
    """
    lacking = [name for name in vars(Teacher) if not name.startswith("_") and not hasattr(made, name)]
    if lacking or not callable(made):
        raise TeacherError(
            f"teacher {settings.architecture}: its adapter gave a {type(made).__name__}, which is not a teacher: it "
            f"lacks {', '.join(lacking) or '__call__'}."
        )
    if made.grid[0] != made.grid[1]:
        raise UsageError(
            f"teacher {settings.architecture}: its patches form a grid of {made.grid[0]} x {made.grid[1]}. Stored "
            "pixels are square, and the student's patches, masks and regions lie on a square grid. Take a teacher of "
            "square patches, or join its tokens to a square grid in an adapter."
        )
    stated = made.identity.get("compute")
    if stated != made.compute or stated not in get_args(TeacherPrecision):
        raise TeacherError(
            f"teacher {settings.architecture}: it computes in {made.compute} and its identity states {stated}. Give "
            f"both the same: {', '.join(get_args(TeacherPrecision))}."
        )


def adapter_identity(
    adapter: Adapter, model: torch.nn.Module, given: ModelInput, compute: str = "fp32"
) -> dict[str, Json]:
    """Return the hard identity of a teacher that is a torch module made by an adapter.

    It holds the hash of the model's tensors (parameters and buffers), its input, the version of the adapter's
    distribution and the hash of the source of the adapter's module, which says how latents follow from both. So keep
    an adapter in a module of its own: an edit of any line there makes another teacher.
    """
    module = inspect.getmodule(adapter)
    if module is None:
        raise TeacherError(f"{adapter!r}: defined in no module, so it can't be identified. Put it into one.")
    return {
        "architecture": f"{module.__name__}:{adapter.__name__}",
        "distribution": _distribution(module.__name__),
        "source": xxhash.xxh3_128_hexdigest(inspect.getsource(module).encode()),
        "weights": weights_hash(model.state_dict()),
        "input": given.to_json(),
        "compute": compute,
    }


def _installed() -> dict[str, str]:
    """Return name -> `module:function` of the adapters that installed packages offer."""
    return {point.name: point.value for point in importlib.metadata.entry_points(group=GROUP)}


def _distribution(module: str) -> str | None:
    """Return "name version" of the distribution that a module belongs to; None: a loose file."""
    found = importlib.metadata.packages_distributions().get(module.partition(".")[0])
    return f"{found[0]} {importlib.metadata.version(found[0])}" if found else None
