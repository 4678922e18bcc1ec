"""Evaluate frozen encoders on labelled tasks: probes, statistics and a report.

Reading order: `run.py` (one evaluation from inputs to files), then the rooms `tasks`, `encoders`, `probes`, `scores`,
`scoring` and `report`; the room `comparing` reads two finished reports, and
`embedding` writes features for other tools. `extensions.py` finds what other packages add.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usjepa.evaluate.run import evaluate

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    # Imported on first use: `usjepa-evaluate --help` must not wait for NumPy or torch.
    if name in __all__:
        from usjepa.evaluate import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
