"""Find the probes and layouts that other packages add, by entry point or `register`."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from usjepa.cache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Named(Protocol):
    """Anything with a name, as a probe or a layout."""

    @property
    def name(self) -> str:
        """Its name in commands and recipes."""
        ...


T = TypeVar("T", bound=Named)


@dataclass
class Registry(Generic[T]):
    """The probes or layouts there are, by name: built in, installed, registered by this process."""

    group: str
    """Entry point group whose values are classes without arguments, as `usjepa.probes`."""
    parts: tuple[str, ...]
    """Attributes that each one must have."""
    built_in: Sequence[T]
    _added: list[T] = field(default_factory=list)

    def register(self, one: T) -> None:
        """Add one for this process; a package adds it for every process by an entry point of the group.

        Raises:
            UsageError: it lacks an attribute, or its name is taken.
        """
        if one not in self._added:
            self._by_name([*self.all().values(), one])
            self._added.append(one)

    def all(self) -> dict[str, T]:
        """Return all by name, built-in ones first.

        Raises:
            UsageError: an installed one can't be imported, lacks an attribute, or takes another's name.
        """
        return self._by_name([*self.built_in, *self._installed(), *self._added])

    def named(self, name: str) -> T:
        """Return the one of that name; UsageError where there is none."""
        found = self.all()
        if name not in found:
            raise UsageError(
                f"{self.group}: none is called {name!r}; there are {', '.join(found)}. Install the package that adds "
                "it."
            )
        return found[name]

    def _installed(self) -> list[T]:
        made: list[T] = []
        for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
            try:
                made.append(point.load()())
            except Exception as error:  # other people's code raises any type there is
                raise UsageError(
                    f"{self.group}: {point.name} ({point.value}) of an installed package can't be loaded: {error!r}. "
                    "Mend that package or uninstall it."
                ) from error
        return made

    def _by_name(self, every: Sequence[T]) -> dict[str, T]:
        found: dict[str, T] = {}
        for one in every:
            lacking = [part for part in self.parts if not hasattr(one, part)]
            if lacking:
                raise UsageError(f"{self.group}: {type(one).__name__} has no {', no '.join(lacking)}.")
            if one.name in found:
                raise UsageError(f"{self.group}: two are called {one.name!r}. Rename or uninstall one of them.")
            found[one.name] = one
        return found


def raised_at(error: Exception) -> str:
    """Return where other people's code raised, as " (file, line n)"; "" where nothing tells."""
    if error.__traceback__ is None:
        return ""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f" ({place.filename}, line {place.lineno})"
