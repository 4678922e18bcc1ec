"""Compute an attribute at its first use and keep it, without a lock.

`functools.cached_property` of Python 3.11 holds a lock of the whole class while it computes. A process that is forked
meanwhile, as DataLoader workers are while their parent reads, inherits a lock whose holder it does not have, and its
first read never ends. Here two threads may compute the value twice; both get the same, and one value stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

T = TypeVar("T")


class lazy(Generic[T]):  # noqa: N801 - used as a decorator, like `property`
    """Decorator of a method without arguments; keeps its value in the instance's `__dict__`, frozen or not."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[Any]) -> T: ...
    def __get__(self, instance: object | None, owner: type[Any]) -> Self | T:
        """Compute and keep the value; Python then finds it in the instance, before this descriptor."""
        if instance is None:
            return self
        value = self._compute(instance)
        return vars(instance).setdefault(self._name, value)  # type: ignore[no-any-return]
