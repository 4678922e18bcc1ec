"""The processes of one run: alone, or started by `torchrun`, each with its share of every batch.

All draws are functions of (seed, step, row), so any number of ranks computes the same run: the same rows, masks and
augmentation, and losses that agree up to the order in which floats are added. Ranks talk twice a step: the gradients
(DistributedDataParallel), and a handful of integers (how many images, who was asked to stop) over gloo on the host,
so that no rank takes a decision that another doesn't.

A rank that dies or hangs ends the others within `TIMEOUT_S`, with a message; nothing waits forever.
"""

from __future__ import annotations

import datetime
import os
import re
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from usjepa.cache.errors import TrainingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Ints = NDArray[np.int64]
TIMEOUT_S = 55.0
"""Longest wait for another rank; the slowest thing between two meetings is a checkpoint's write, which has its own."""
SAVING_TIMEOUT_S = 1800.0
"""Longest wait for rank 0 to write a checkpoint or an export to slow storage."""
_OF_COLLECTIVES = re.compile("gloo|nccl|TCPStore|Connection (closed|reset)|timed out", re.IGNORECASE)
"""Gloo raises plain RuntimeErrors."""
_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """Who this process is among those of the run."""

    rank: int = 0
    size: int = 1
    local: int = 0
    """Number among the ranks of this machine: the GPU it takes."""
    host: distributed.ProcessGroup | None = None
    """For integers and floats on the host; None when alone."""
    patient: distributed.ProcessGroup | None = None
    """For waiting until rank 0 has written something."""

    @property
    def leads(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0

    def add(self, values: Sequence[int]) -> list[int]:
        """Return the sums over ranks of integers, modulo 2^64 (as signed 64-bit numbers)."""
        return [int(value) for value in self._summed(torch.tensor(values, dtype=torch.int64)).tolist()]

    def add_floats(self, values: Sequence[float]) -> list[float]:
        """Return the sums over ranks, in float64."""
        return [float(value) for value in self._summed(torch.tensor(values, dtype=torch.float64)).tolist()]

    def wait(self) -> None:
        """Return once every rank has come here: rank 0 may have been writing."""
        if self.patient is not None:
            with _told():
                distributed.barrier(self.patient)

    def shares(self, positions: Ints, parts: int = 1) -> list[Ints]:
        """Return this rank's share of a batch (int64), cut into `parts`; the ranks' shares in order are the batch."""
        cut = np.array_split(positions, self.size * parts)
        return cut[self.rank * parts : (self.rank + 1) * parts]

    def agree(self, what: str, value: int) -> None:
        """Raise TrainingError on every rank unless all hold the same value (of at most 2^31)."""
        total, squares = self.add([value, value * value])
        if squares * self.size != total * total:
            raise TrainingError(
                f"rank {self.rank} of {self.size}: the ranks do not see the same {what} (here {value}). They must read "
                "one RUN folder and one store; a network file system may need some seconds: run the command again."
            )

    def parallel(self, model: torch.nn.Module) -> torch.nn.Module:
        """Return the model as its gradients are averaged over ranks; itself when alone."""
        if self.size == 1:
            return model
        with _told():
            return DistributedDataParallel(model)

    def _summed(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.host is not None:
            with _told():
                distributed.all_reduce(tensor, group=self.host)
        return tensor


@contextmanager
def ranks_of_this_run(device: str | None) -> Iterator[Ranks]:
    """Join the ranks that `torchrun` started; alone without it.

    Args:
        device: what the person asked for: decides between nccl and gloo for gradients.

    Raises:
        UsageError: the environment names a number of ranks and lacks the rest.
        TrainingError: the other ranks can't be reached.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    lacking = [name for name in _NEEDED if name not in os.environ]
    if lacking:
        raise UsageError(f"WORLD_SIZE={size}, but {', '.join(lacking)} is not set: start the ranks with torchrun.")
    local = int(os.environ["LOCAL_RANK"])
    on_gpu = torch.cuda.is_available() and (device is None or device.startswith("cuda"))
    if on_gpu:
        torch.cuda.set_device(local)
    with _told():
        timeout = datetime.timedelta(seconds=TIMEOUT_S)
        distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=timeout)
        host, patient = _gloo(TIMEOUT_S), _gloo(SAVING_TIMEOUT_S)
    try:
        yield Ranks(distributed.get_rank(), size, local, host, patient)
    finally:
        distributed.destroy_process_group()


def _gloo(timeout_s: float) -> distributed.ProcessGroup:
    group = distributed.new_group(backend="gloo", timeout=datetime.timedelta(seconds=timeout_s))
    assert isinstance(group, distributed.ProcessGroup)  # a number only for ranks outside the group
    return group


@contextmanager
def _told() -> Iterator[None]:
    """Turn what a collective raises into one error that says what happened and what to do."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, distributed.DistError) or _OF_COLLECTIVES.search(str(error))):
            raise
        first = str(error).strip().split("\n")[0].split(". This is typically")[0]
        raise TrainingError(
            f"rank {os.environ.get('RANK', '0')}: another rank died or does not answer ({first}). The last checkpoint "
            "is whole: look at the other ranks' messages, then run the same command again, with any number of ranks."
        ) from error


def lost_rank_told(ranks: Ranks) -> AbstractContextManager[None]:
    """Turn the error of a lost rank, raised from within a backward pass, into a TrainingError."""
    return _told() if ranks.size > 1 else nullcontext()
