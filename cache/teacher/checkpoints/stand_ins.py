"""Read pickles with inert stand-ins for every class that isn't a tensor's.

A training's checkpoint often holds an `argparse.Namespace`, a configuration or NumPy scalars beside its weights. A
pickle asks for classes and functions by name, and here all names are answered: torch's own few builders of tensors are
given as they are, every other name becomes an empty class made on the spot. Nothing is imported, nothing of the file's
choosing is called, and no state is given to any object.
"""

from __future__ import annotations

import collections
import pickle
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, ClassVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules under the names that Python 2 gave them, which pickles still hold."""


class StandIn:
    """An object of a class that was not loaded: takes whatever a pickle gives it and keeps nothing."""

    def __new__(cls, *_: object, **__: object) -> StandIn:
        """Make one from any arguments."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> StandIn:
        """Stand in for a function too, and give another."""
        return StandIn()

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None:
        """Take an item of a list."""

    def extend(self, values: object) -> None:
        """Take items of a list."""

    def add(self, value: object) -> None:
        """Take an item of a set."""


def _parameter_without_state(data: Any, requires_grad: Any, *_: object) -> Any:
    """Return a parameter whose attributes (a pickle's other way to act) stay in the file."""
    if not isinstance(data, torch.Tensor):
        return StandIn()
    return torch._utils._rebuild_parameter(data, requires_grad, collections.OrderedDict())


def _plain_tensor(builder: object, _: object, args: Any, *__: object) -> Any:
    """Return the tensor of a class that wraps one (MONAI's MetaTensor), or that has attributes, without these."""
    return builder(*args) if builder in _OF_TENSORS else StandIn()


_OF_TENSORS: tuple[Callable[..., Any], ...] = (
    torch._utils._rebuild_tensor,
    torch._utils._rebuild_tensor_v2,
    torch._utils._rebuild_parameter,
)
_BUILDERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch", "Tensor"): StandIn,  # named by a tensor that has attributes; nobody loses anything with it
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter_without_state,
    ("torch._tensor", "_rebuild_from_type_v2"): _plain_tensor,
    **{("torch._utils", builder.__name__): builder for builder in _OF_TENSORS},
}
"""They only make tensors and containers. torch answers for its storages itself, before it asks here."""


class Replaced:
    """The classes that stand-ins took the place of while one file was read."""

    def __init__(self) -> None:
        self._made: dict[str, type[StandIn]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Their full names, in alphabetical order."""
        return tuple(sorted(self._made))

    def find(self, module: str, name: str) -> Any:
        """Return what a pickle is given for a name."""
        if (module, name) in _BUILDERS:
            return _BUILDERS[module, name]
        if module == "torch" and isinstance(found := vars(torch).get(name), torch.dtype):
            return found
        full = f"{_RENAMED.get(module, module)}.{name}"
        return self._made.setdefault(full, type("StandIn", (StandIn,), {"__module__": "stand-in"}))

    def pickle_module(self) -> Any:
        """Return what `torch.load` takes as `pickle_module`."""
        find = self.find

        class Unpickler(_Stateless):
            def find_class(self, module: str, name: str) -> Any:
                return find(module, name)

        def load(file: IO[bytes], **options: Any) -> Any:
            return Unpickler(file, **options).load()

        return SimpleNamespace(Unpickler=Unpickler, load=load, __name__="stand_ins")


# The one in plain Python: that in C fills a table as long as a file says, which may be all memory.
class _Stateless(pickle._Unpickler):
    """An unpickler that gives no object a state: `__setstate__` and attributes are a pickle's other way to act."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def load_build(self) -> None:
        """Take the state off the stack."""
        self.stack.pop()  # type: ignore[attr-defined]

    dispatch[pickle.BUILD[0]] = load_build
