"""Write lines of a log as TensorBoard events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.train.record.lines import Line

_NOT_SCALARS = ("kind", "step", "epoch", "batch", "best")


class Events:
    """Writes lines of the log as TensorBoard scalars `train/*` and `validation/*`, by step."""

    def __init__(self, folder: Path, step: int) -> None:
        """Begin or resume at a step: TensorBoard then ignores later events of earlier calls.

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
        """Write the numbers of one line."""
        group = "train" if line["kind"] == "step" else "validation"
        for name, value in line.items():
            if name not in _NOT_SCALARS and value is not None:
                self._writer.add_scalar(f"{group}/{name}", value, line["step"])

    def close(self) -> None:
        """Write buffered events and close the file."""
        self._writer.close()
