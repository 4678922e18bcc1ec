"""Show progress of long work: a bar to a person, lines to a log."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from types import TracebackType

_LINE_EVERY_S = 30.0


class ProgressBar:
    """Counts units of work with rate and time left; use as a context manager."""

    def __init__(self, total: int, label: str, unit: str = "rows") -> None:
        self.total, self.label, self.unit = total, label, unit
        self._done = self._reported = 0
        self._start = self._last = time.monotonic()
        self._stats: dict[str, object] = {}
        self._bar: tqdm[Any] | None = None
        if sys.stderr is not None and sys.stderr.isatty():
            self._bar = tqdm(total=total, desc=label, unit=f" {unit}", dynamic_ncols=True, mininterval=0.3)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._done != self._reported:
            self._line()

    def update(self, n: int, **stats: object) -> None:
        """Count n more units; stats (already formatted or numbers) are shown beside the rate."""
        self._done += n
        self._stats.update(stats)
        if self._bar is not None:
            if stats:
                self._bar.set_postfix(self._stats, refresh=False)
            self._bar.update(n)
        elif time.monotonic() - self._last >= _LINE_EVERY_S:
            self._line()

    def _line(self) -> None:
        if sys.stderr is None:  # a library user's process without one; `print` would take standard output
            return
        self._last, self._reported = time.monotonic(), self._done
        seconds = max(self._last - self._start, 1e-9)
        rate = self._done / seconds
        left = f", {(self.total - self._done) / rate:.0f} s left" if 0 < self._done < self.total else ""
        shown = "".join(f", {key} {value}" for key, value in self._stats.items())
        print(
            f"{self.label}: {self._done:,} of {self.total:,} {self.unit} in {seconds:.1f} s, "
            f"{rate:,.1f} {self.unit}/s{left}{shown}",
            file=sys.stderr,
            flush=True,
        )
