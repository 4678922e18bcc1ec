"""How long each stage of a build was at work; stages overlap, so shares may sum to more than the whole."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Stages:
    """Seconds that each stage was at work."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Count the length of a `with` block as work of a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def report(self, wall: float) -> str:
        """Return each stage's share of `wall` seconds and which limited the build."""
        shares = ", ".join(f"{stage} {100 * s / wall:.0f} %" for stage, s in self.seconds.items())
        slowest = max(self.seconds, key=lambda stage: self.seconds[stage])
        return f"stages at work (of {wall:.1f} s, overlapping): {shares}; {slowest} limits this build"
