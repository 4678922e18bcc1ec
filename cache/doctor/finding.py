"""Define one line of a doctor's report, and how grave it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mark = Literal["ok", "note", "lack"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, and what was found."""

    what: str
    found: str
    mark: Mark = "ok"
    """note: works, but slowly or not for everything; lack: something needed is not there."""

    def __str__(self) -> str:
        return f"{self.mark:4}  {self.what:13}  {self.found}"


def size_text(nbytes: float) -> str:
    """Return a number of bytes as people read it, such as 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} TiB"
