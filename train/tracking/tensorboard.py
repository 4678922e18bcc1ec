"""Write lines of a log as TensorBoard events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import UsageError
from usjepa.train.tracking.tracker import numbers_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from usjepa.train.tracking.tracker import Line


class TensorBoard:
    """Writes lines of the log as TensorBoard scalars `train/*` and `validation/*`, by step."""

    def __init__(self, folder: Path, step: int, ends: Sequence[Line] = ()) -> None:
        """Begin or resume at a step: TensorBoard then ignores events of earlier calls from that step on.

        Args:
            folder: of the events.
            step: where the run stands.
            ends: of the epoch that ended there. They bear the number of the step that comes next, so they would be
                ignored with it, and are written again.

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
        self.write(ends)

    def write(self, lines: Sequence[Line]) -> None:
        """Write the numbers of lines."""
        for line in lines:
            for name, value in numbers_of(line):
                self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """Write buffered events and close the file."""
        self._writer.close()
