"""The log as TensorBoard events, for people who watch many runs side by side. The log itself stays `log.jsonl`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.train.record.log import Line

FOLDER = "tensorboard"
_NOT_SCALARS = ("kind", "step", "epoch", "batch", "best")


class Events:
    """Writes lines of the log as scalars `train/*` and `validation/*`, by step."""

    def __init__(self, folder: Path, step: int) -> None:
        """Begin or go on at a step: TensorBoard then forgets later events of the call before.

        Raises:
            UsageError: tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                f"train.tensorboard needs the package tensorboard ({error}): pip install 'usjepa[tensorboard]', or "
                "leave it off: log.jsonl and curve.png are always written."
            ) from error
        self._writer: Any = SummaryWriter(str(folder), purge_step=step)

    def write(self, line: Line) -> None:
        """Write one line's numbers."""
        group = "train" if line["kind"] == "step" else "validation"
        for name, value in line.items():
            if name not in _NOT_SCALARS and value is not None:
                self._writer.add_scalar(f"{group}/{name}", value, line["step"])

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()
