"""An attribute computed at its first use, without a lock.

`functools.cached_property` of Python 3.11 holds a lock of the whole class while it computes. A process forked
meanwhile, as DataLoader workers are while their parent reads, inherits that lock held by a thread it does not have, and
its first read never ends. Here two threads may compute the value twice; it is the same, and one of them stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

T = TypeVar("T")


class lazy(Generic[T]):  # noqa: N801 - used as a decorator, like `property`
    """Decorate a method without arguments: its value is kept in the instance's `__dict__`, frozen dataclasses too."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[Any]) -> T: ...
    def __get__(self, instance: object | None, owner: type[Any]) -> Self | T:
        """Compute and keep the value; from then on Python finds it in the instance, before this descriptor."""
        if instance is None:
            return self
        value = self._compute(instance)
        return vars(instance).setdefault(self._name, value)  # type: ignore[no-any-return]
