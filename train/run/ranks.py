"""Share every batch of a run among the processes that `torchrun` starts.

All draws are functions of (seed, step, row), so any number of ranks computes the same run: the same rows, masks and
augmentation, and losses that agree up to the order in which floats are added. Ranks communicate twice per step: the
gradients (DistributedDataParallel), and a handful of integers (how many images, whether to stop) over gloo on the host,
so that all ranks take the same decisions.

A rank that dies or is stopped ends the others within 55 seconds, with a message, also while rank 0 writes: that is done
in a thread, beside which all ranks go on to exchange signs of life. Nothing waits forever.
"""

from __future__ import annotations

import datetime
import math
import os
import re
import threading
import time
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
    from collections.abc import Callable, Collection, Iterator, Sequence

Ints = NDArray[np.int64]
_TIMEOUT_S = 55.0
"""Longest wait for another rank to answer."""
_WORKING_TIMEOUT_S = 1800.0
"""Longest wait for rank 0, which answers, to end what it does alone, such as writing to slow storage."""
_SIGN_EVERY_S = 1.0
"""Time between two signs of life while rank 0 works alone."""
_OF_COLLECTIVES = re.compile("gloo|nccl|TCPStore|Connection (closed|reset)|timed out", re.IGNORECASE)
"""Matches the plain RuntimeErrors that gloo raises."""
_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those of the run."""

    rank: int = 0
    size: int = 1
    local: int = 0
    """Number among the ranks of this machine, and of the GPU that it takes."""
    host: distributed.ProcessGroup | None = None
    """Adds numbers on the host; None when alone."""

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes and reports."""
        return self.rank == 0

    def add(self, values: Sequence[int]) -> list[int]:
        """Return the sums over ranks of integers, modulo 2^64 (as signed 64-bit numbers)."""
        return [int(value) for value in self._summed(torch.tensor(values, dtype=torch.int64)).tolist()]

    def add_floats(self, values: Sequence[float]) -> list[float]:
        """Return the sums over ranks, in float64."""
        return [float(value) for value in self._summed(torch.tensor(values, dtype=torch.float64)).tolist()]

    def of_rank_0(self, values: Collection[float], most: int) -> list[float]:
        """Return on every rank the finite values of rank 0, at most `most`; those of other ranks are ignored."""
        padded = [*values, *[math.nan] * (most - len(values))] if self.leads else [0.0] * most
        return [value for value in self.add_floats(padded) if not math.isnan(value)]

    def while_rank_0(self, work: Callable[[], object]) -> None:
        """Let rank 0 do something alone, such as writing; return on every rank once it is done.

        Raises:
            TrainingError: a rank does not answer, or, on the other ranks, the work failed.
            Exception: on rank 0, whatever the work raised.
        """
        if self.host is None:
            work()
            return
        thread = _Work(work) if self.leads else None
        end = time.monotonic() + _WORKING_TIMEOUT_S
        ended = failed = 0
        while not ended:
            ended, failed = self.add([0, 0] if thread is None else thread.state(_SIGN_EVERY_S))
            if not ended and time.monotonic() > end:
                raise TrainingError(
                    f"rank {self.rank}: rank 0 has been writing for {_WORKING_TIMEOUT_S / 60:.0f} minutes. Check the "
                    "disk or share of the RUN folder, then run the same command again."
                )
        if thread is not None:
            thread.result()
        elif failed:
            raise TrainingError(f"rank {self.rank}: rank 0 failed; its own message says why.")

    def shares(self, positions: Ints, parts: int = 1) -> list[Ints]:
        """Return this rank's share of a batch, int64, cut into `parts`; the ranks' shares in order are the batch."""
        cut = np.array_split(positions, self.size * parts)
        return cut[self.rank * parts : (self.rank + 1) * parts]

    def gathered(self, rows: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Return all ranks' rows [n, ...] in the order of ranks, without history, and where this rank's begin."""
        if self.host is None:
            return rows.detach(), 0
        counts = self.add([len(rows) if rank == self.rank else 0 for rank in range(self.size)])
        first = sum(counts[: self.rank])
        whole = torch.zeros((sum(counts), *rows.shape[1:]), dtype=rows.dtype)
        whole[first : first + len(rows)] = rows.detach().cpu()
        return self._summed(whole).to(rows.device), first

    def agree(self, what: str, value: int) -> None:
        """Raise TrainingError on every rank unless all hold the same value (of at most 2^31)."""
        total, squares = self.add([value, value * value])
        if squares * self.size != total * total:
            raise TrainingError(
                f"rank {self.rank} of {self.size}: the ranks do not see the same {what} (here {value}). They must read "
                "one RUN folder and one store; a network file system may need some seconds: run the command again."
            )

    def parallel(self, model: torch.nn.Module) -> torch.nn.Module:
        """Return the model wrapped so that its gradients are averaged over ranks; itself when alone."""
        if self.size == 1:
            return model
        with _reporting():
            return DistributedDataParallel(model)

    def _summed(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.host is not None:
            with _reporting():
                distributed.all_reduce(tensor, group=self.host)
        return tensor


@contextmanager
def ranks_of_this_run(device: str | None) -> Iterator[Ranks]:
    """Join the ranks that `torchrun` started, or run alone without it.

    Args:
        device: of `--device`; decides between nccl and gloo for gradients.

    Raises:
        UsageError: the environment names a number of ranks and lacks the rest.
        TrainingError: the other ranks can't be reached.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    missing = [name for name in _NEEDED if name not in os.environ]
    if missing:
        raise UsageError(f"WORLD_SIZE={size}, but {', '.join(missing)} is not set: start the ranks with torchrun.")
    local = int(os.environ["LOCAL_RANK"])
    on_gpu = torch.cuda.is_available() and (device is None or device.startswith("cuda"))
    if on_gpu:
        torch.cuda.set_device(local)
    with _reporting():
        timeout = datetime.timedelta(seconds=_TIMEOUT_S)
        distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=timeout)
        host = distributed.new_group(backend="gloo", timeout=timeout)
        assert isinstance(host, distributed.ProcessGroup)  # a number only for ranks outside the group
    try:
        yield Ranks(distributed.get_rank(), size, local, host)
    finally:
        distributed.destroy_process_group()


class _Work:
    """Something that rank 0 does in a thread of its own, so that it can answer the others meanwhile."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work, self._ended = work, threading.Event()
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="rank 0 alone", daemon=True).start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  # raised again by `result`, in the main thread
            self._error = error
        self._ended.set()

    def state(self, most_s: float) -> list[int]:
        """Return [1, whether it failed] once it ended, [0, 0] if it has not after `most_s`."""
        ended = self._ended.wait(most_s)
        return [int(ended), int(ended and self._error is not None)]

    def result(self) -> None:
        """Raise what the work raised."""
        if self._error is not None:
            raise self._error


@contextmanager
def _reporting() -> Iterator[None]:
    """Turn the error of a collective into a TrainingError that says what happened and what to do."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, distributed.DistError) or _OF_COLLECTIVES.search(str(error))):
            raise
        first = str(error).strip().split("\n")[0].split(". This is typically")[0]
        raise TrainingError(
            f"rank {os.environ.get('RANK', '0')}: another rank died or does not answer ({first}). The last checkpoint "
            "is whole: read the other ranks' messages, then run the same command again, with any number of ranks."
        ) from error


def reporting_lost_ranks(ranks: Ranks) -> AbstractContextManager[None]:
    """Turn the error of a lost rank, raised in a backward pass, into a TrainingError."""
    return _reporting() if ranks.size > 1 else nullcontext()
