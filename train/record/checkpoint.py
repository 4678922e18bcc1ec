"""Save and restore a run as checkpoints of safetensors and JSON, never pickle.

A checkpoint is two files: `step-00000012.safetensors`, then `step-00000012.json`, which names the first with its
xxh3-128 and carries a hash of itself. Each is written to a temporary name, fsynced and renamed, and the folder fsynced;
the JSON comes last, so it exists only when everything that it names is on disk. The newest whole pair is the state of
the run, and the last two are kept. If its files are cut or changed, the one before is used, with a warning; if none is
whole, the run stops: it never silently starts over.

`best-<step>.safetensors` holds the encoder's weights at the lowest validation loss, `probe-<step>.safetensors` at the
highest score of `train.probe`; the JSON names them with their hashes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import xxhash
from safetensors import SafetensorError
from safetensors.torch import load, save

from usjepa.cache.errors import TrainingError
from usjepa.cache.identity import Json, digest_of
from usjepa.cache.storage.durable import explained, write_durably
from usjepa.cache.storage.protocol import Guard, unguarded
from usjepa.train.record.log import LogMark

if TYPE_CHECKING:
    from pathlib import Path

    import torch

logger = logging.getLogger(__name__)

_FORMAT = 1
_KEPT = 2
Tensors = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class Best:
    """The encoder at the lowest validation loss so far."""

    loss: float
    step: int
    """Steps done when it was measured."""
    epoch: int
    """From 0."""
    file: str
    """Name in the folder of checkpoints."""
    xxh3_128: str
    """Of the file, 32 hex digits."""


@dataclass(frozen=True)
class BestByProbe:
    """The encoder of the highest probe score so far (`train.probe`)."""

    score: float
    """Macro F1, as the log has it."""
    step: int
    epoch: int
    """From 0."""
    file: str
    xxh3_128: str
    set: str
    """xxh3-128 (hex) of what was scored, and how: scores of another set are not compared."""


@dataclass(frozen=True)
class RunProgress:
    """How far a run is. All randomness is a function of (seed, step, row), so there is no generator to save."""

    step: int
    """Optimizer steps done = number of the next one."""
    validated: int
    """Epochs that have ended with their validation."""
    identity: dict[str, Json]
    """What the numbers depend on: recipe, store, teacher."""
    store: dict[str, Json]
    """Generation and digest of the store, to open the same generation again, and the digest of its content, to
    recognise its rows after an audit, a repair or another teacher (not in older checkpoints). Of several stores the
    digests of all, and `stores` has these and the name of each, in order."""
    best: Best | None = None
    soft: dict[str, Json] = field(default_factory=dict)
    """Versions, device and threads: recorded, never compared."""
    log: LogMark | None = None
    """Length and hash of the log; None in checkpoints of earlier versions, as is the history."""
    history: dict[str, Json] | None = None
    """`History.to_json` of the log."""
    best_by_probe: BestByProbe | None = None

    def to_json(self) -> dict[str, Json]:
        """Return it as checkpoints hold it; earlier versions read one of a run without a probe."""
        found = asdict(self)
        if self.best_by_probe is None:
            del found["best_by_probe"]
        return found

    def files(self) -> frozenset[str]:
        """Return the names of the encoders that it names."""
        return frozenset(best.file for best in (self.best, self.best_by_probe) if best is not None)


class Checkpoints:
    """The `state/` folder of a run; the guard raises unless this process holds the run's claim."""

    def __init__(self, folder: Path, guard: Guard = unguarded) -> None:
        self.folder, self._guard = folder, guard
        self._good: dict[int, frozenset[str]] = {}  # steps of whole checkpoints -> files of the encoders they name

    def save(self, tensors: Tensors, progress: RunProgress) -> None:
        """Write a checkpoint and remove those no longer kept; raises WriteError, which leaves older ones whole."""
        name = f"step-{progress.step:08d}"
        data = save({key: tensor.contiguous() for key, tensor in tensors.items()})
        record = {
            "format": _FORMAT,
            "file": f"{name}.safetensors",
            "bytes": len(data),
            "xxh3_128": xxhash.xxh3_128_hexdigest(data),
            "progress": progress.to_json(),
        }
        self._write(f"{name}.safetensors", data)
        self._write(f"{name}.json", _text({**record, "digest": digest_of(record)}))
        self._good[progress.step] = progress.files()
        self._good = dict(sorted(self._good.items())[-_KEPT:])
        self._prune()

    def save_best(self, tensors: Tensors, loss: float, step: int, epoch: int) -> Best:
        """Write the encoder's weights; they count only once a checkpoint names them."""
        data = save({key: tensor.contiguous() for key, tensor in tensors.items()})
        best = Best(loss, step, epoch, f"best-{step:08d}.safetensors", xxhash.xxh3_128_hexdigest(data))
        self._write(best.file, data)
        return best

    def save_best_by_probe(self, tensors: Tensors, score: float, step: int, epoch: int, scored: str) -> BestByProbe:
        """Write the encoder's weights; they count only once a checkpoint names them. `scored` names the probe's set."""
        data = save({key: tensor.contiguous() for key, tensor in tensors.items()})
        best = BestByProbe(score, step, epoch, f"probe-{step:08d}.safetensors", xxhash.xxh3_128_hexdigest(data), scored)
        self._write(best.file, data)
        return best

    def _write(self, name: str, data: bytes) -> None:
        self._guard()  # before anything is created: a folder that was removed stays removed
        write_durably(self.folder / name, data, self._guard)

    def load_best(self, best: Best | BestByProbe) -> Tensors:
        """Return the weights that were written; raises TrainingError if they are not whole."""
        return load(self._best_bytes(best))

    def check_best(self, best: Best) -> None:
        """Raise TrainingError if what `save_best` wrote is not whole."""
        self._best_bytes(best)

    def _best_bytes(self, best: Best | BestByProbe) -> bytes:
        try:
            data = (self.folder / best.file).read_bytes()
        except OSError as error:
            raise TrainingError(
                f"{self.folder / best.file}: can't be read ({error.strerror}). {_lost(best)}"
            ) from error
        if xxhash.xxh3_128_hexdigest(data) != best.xxh3_128:
            raise TrainingError(f"{self.folder / best.file}: its bytes changed after they were written. {_lost(best)}")
        return data

    def newest(self, begun: bool) -> tuple[RunProgress, Tensors] | None:
        """Return the newest whole checkpoint; None for a run that has not begun.

        Args:
            begun: whether the run is known to have begun.

        Raises:
            TrainingError: there are checkpoints, or the run has begun, but none is whole.
        """
        # Not `glob`, to which a folder that may not be read is an empty one.
        names = os.listdir(self.folder) if self.folder.exists() else []
        records = sorted((self.folder / name for name in names if fnmatch(name, "step-*.json")), reverse=True)
        found: tuple[RunProgress, Tensors] | None = None
        for record in records:
            try:
                progress, tensors = _read(record)
            except _NotWholeError as error:
                logger.warning(f"checkpoint {error}; the one before is used")
                continue
            self._good[progress.step] = progress.files()
            found = found or (progress, tensors)
            if len(self._good) == _KEPT:
                break
        if found is None and (records or begun):
            raise TrainingError(
                f"{self.folder}: the run has begun, but none of its {len(records)} checkpoints can be read. Restore "
                "this folder from a copy, or give another RUN folder to train again."
            )
        return found

    def _prune(self) -> None:
        """Remove all but the kept checkpoints and the encoders they name; records go before what they name.

        Files are removed through a descriptor of the folder, opened before the last look at the claim: a process that
        is stopped there, its folder removed and begun anew, removes nothing of its successor's.
        """
        with explained(self.folder, 0):
            place = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                stale = [name for name in os.listdir(place) if self._is_stale(name)]
                self._guard()
                for name in sorted(stale, key=lambda name: not name.endswith(".json")):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=place)
            finally:
                os.close(place)

    def _is_stale(self, name: str) -> bool:
        if name.startswith("step-"):
            return name.partition(".")[0] not in {f"step-{step:08d}" for step in self._good}
        return name.startswith(("best-", "probe-")) and not any(name in files for files in self._good.values())


def _lost(best: Best | BestByProbe) -> str:
    which = "lowest validation loss" if isinstance(best, Best) else "the best probe"
    return f"The encoder of {which} is lost: restore this file from a copy, or train again in a new RUN folder."


class _NotWholeError(Exception):
    """A checkpoint is cut, changed or missing; the message names the file."""


def _text(record: dict[str, Json]) -> bytes:
    return (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()


def _record(path: Path) -> dict[str, Any]:
    """Return a checkpoint's JSON, checked against its own hash."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _NotWholeError(f"{path} can't be read ({error})") from error
    if not isinstance(record, dict) or record.pop("digest", None) != digest_of(record):
        raise _NotWholeError(f"{path} changed after it was written")
    if record.get("format") != _FORMAT:
        raise TrainingError(
            f"{path}: has checkpoint format {record.get('format')}, and this version of usjepa reads {_FORMAT}. "
            "Install the version that wrote it."
        )
    return record


def _read(path: Path) -> tuple[RunProgress, Tensors]:
    record = _record(path)
    file = path.with_name(record["file"])
    try:
        data = file.read_bytes()
    except OSError as error:
        raise _NotWholeError(f"{file} can't be read ({error.strerror})") from error
    if len(data) != record["bytes"]:
        raise _NotWholeError(f"{file} is cut: {len(data):,} of {record['bytes']:,} bytes")
    if xxhash.xxh3_128_hexdigest(data) != record["xxh3_128"]:
        raise _NotWholeError(f"{file} changed after it was written")
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise _NotWholeError(f"{file} is not a safetensors file ({error})") from error
    stored = record["progress"]
    best = None if stored["best"] is None else Best(**stored["best"])
    by_probe = None if stored.get("best_by_probe") is None else BestByProbe(**stored["best_by_probe"])
    log = None if stored.get("log") is None else LogMark(**stored["log"])
    return RunProgress(**{**stored, "best": best, "log": log, "best_by_probe": by_probe}), tensors
