"""Open a room's templates with the shared design beneath them.

Every value is escaped, a name that is not given is an error, and nothing depends on clock or machine: what a template
is given decides its bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_HERE = "usjepa.cache.pages"


@dataclass(frozen=True)
class Section:
    """A line of the navigation."""

    anchor: str
    """`id` of the element that it leads to: made of a number, never of a name from the data."""
    title: str
    inner: bool = False
    """Whether it belongs to the section above it."""


def open_templates(package: str, helpers: Mapping[str, Callable[..., Any]] | None = None) -> Environment:
    """Return the templates of a room (its folder `templates/`), with those of the shared design.

    Args:
        package: of the room, as its modules are imported.
        helpers: functions that templates use, each as a filter and as a function.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(_HERE)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= helpers or {}
    environment.globals |= helpers or {}
    return environment
