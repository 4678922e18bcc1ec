"""Define the document of an evaluation, `scores.json`, and read it back.

Page, CSV, LaTeX and `compare` are made from it alone. It is validated when it is read: a file of another format or
with a field that does not belong is refused with a message.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, Literal

from pydantic import ValidationError, model_validator

from usjepa.cache.errors import UsageError
from usjepa.cache.identity import Json
from usjepa.cache.terminal.refusals import advice
from usjepa.evaluate.checking.hygiene import Hygiene
from usjepa.evaluate.checking.leakage import Leakage
from usjepa.evaluate.probes.base import PRIMARY, ProbeRecord
from usjepa.evaluate.report.feature_map import FeatureMap
from usjepa.evaluate.report.numbers.records import RegressionRecord
from usjepa.evaluate.report.published import Published
from usjepa.evaluate.scores.metrics import PackedNumbers, unpacked
from usjepa.evaluate.scores.records import Interval, Record
from usjepa.evaluate.scoring.encoder import EncoderScores
from usjepa.evaluate.scoring.segmentation import DiceFloor, SegmentationScores
from usjepa.evaluate.tasks.task import SplitCounts

if TYPE_CHECKING:
    from pathlib import Path

FORMAT: Final = 6
"""Of `scores.json`; raised when a field is added, removed or means something else."""
_READ = (4, 5, 6)
"""Formats that are read: 4 has no regression, scores frames alone, and keeps no Dice by group. Up to 5 a mean Dice
counted classes that no test mask holds."""
SCORES = "scores.json"


class RunRecord(Record):
    """The training run whose encoder was scored."""

    name: str
    trained: dict[str, Json]
    """The `extra` of its export: store, teacher, settings."""
    noun: str
    """What the page calls its encoder: student, or teacher where it learnt from none."""
    objective: str
    """`train.objective`."""


class EncoderRecord(Record):
    """An encoder that was scored."""

    title: str
    pooling: str
    """How a frame becomes one vector, and the input."""
    dim: int
    """Features per frame."""
    identities: dict[str, dict[str, Json]]
    """Task -> identity of the encoder, which its features were kept under."""


class FramesRecord(Record):
    """The test frames, for comparisons between reports."""

    labels: PackedNumbers
    """Class numbers of what is scored (frames, clips or patients), separated by spaces."""
    groups: PackedNumbers
    """Group numbers separated by spaces."""
    digest: str
    """Of which frames these are, the same in every store that holds them."""


class Floor(Record):
    """The score of a constant guess of the most common class."""

    macro_f1: float
    balanced_accuracy: float


class TaskRecord(Record):
    """A classification task."""

    name: str
    classes: tuple[str, ...]
    counts: dict[str, SplitCounts]
    """Split -> what it holds."""
    notes: tuple[str, ...]
    """What a reader of the scores must know."""
    layout: str
    split_origin: dict[str, str]
    """"test" and "validation" -> whether the data gave that split or it was dealt."""
    leakage: Leakage
    hygiene: Hygiene
    identity: dict[str, Json]
    published: Published | None
    """None where the task is none of the paper's."""
    test: FramesRecord
    floor: Floor
    ungrouped: int
    """Labelled frames whose file is a group of its own: neither patient nor clip is named."""
    unit: str = "frame"
    """What is scored: `evaluate.unit`."""


class Difference(Record):
    """The student minus another encoder on one task: in macro F1 of the linear probe, MAE of ridge, or Dice."""

    task: str
    encoder: str
    other: str
    difference: float
    groups: int
    """Test groups that it rests on."""
    interval: Interval | None
    p: float
    p_holm: float
    """Corrected for all differences of the document."""
    real: bool
    measure: str = "macro_f1"
    """`macro_f1`, `mae` or `dice`."""

    @property
    def better(self) -> bool:
        """Whether the difference is in the student's favour."""
        return (self.difference < 0) == (self.measure == "mae")


class SegmentedFrames(Record):
    """The test frames of a segmentation, for comparisons between reports."""

    groups: int
    digest: str
    """Of which frames and masks these are, and how they are grouped."""


class SegmentationTask(Record):
    """A segmentation task."""

    name: str
    classes: tuple[str, ...]
    """The background's first."""
    frames: dict[str, int]
    """Split -> frames."""
    identity: dict[str, Json]
    leakage: Leakage
    floor: DiceFloor
    notes: tuple[str, ...]
    test: SegmentedFrames | None = None
    """None in documents of format 4."""


class SegmentationRecord(Record):
    """What was segmented."""

    tasks: tuple[SegmentationTask, ...]
    scores: tuple[SegmentationScores, ...]


class Document(Record):
    """An evaluation: everything that the report shows, and what it rests on."""

    format: Literal[4, 5, 6] = FORMAT
    inputs_digest: str
    inputs: dict[str, Json]
    """Everything that may change the report."""
    run: RunRecord
    settings: dict[str, Json]
    """The recipe's `evaluate` section."""
    probes: dict[str, ProbeRecord]
    """In the order of the report's columns; the linear probe first."""
    encoders: dict[str, EncoderRecord]
    tasks: tuple[TaskRecord, ...]
    scores: tuple[EncoderScores, ...]
    differences: tuple[Difference, ...]
    maps: dict[str, FeatureMap | None]
    """Task -> map of the student's features; "" -> the map of all tasks."""
    segmentation: SegmentationRecord
    regression: RegressionRecord = RegressionRecord()
    notes: tuple[str, ...]
    software: dict[str, str]
    files: dict[str, str] = {}
    """Name of each other file of the report -> its xxh3-128 (hex)."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Document:
        tasks = {task.name: task for task in self.tasks}
        for scores in self.scores:
            encoder, task = self.encoders.get(scores.encoder), tasks.get(scores.task)
            if encoder is None or task is None or scores.task not in encoder.identities:
                raise ValueError(f"it has scores of {scores.encoder} on {scores.task}, but not both of them")
            if PRIMARY not in scores.probes or not set(scores.probes) <= set(self.probes):
                raise ValueError(f"the probes of {scores.encoder} on {scores.task} are not those of the report")
            frames, classes = len(unpacked(task.test.labels)), len(task.classes)
            for name, probe in scores.probes.items():
                predicted = [unpacked(line) for line in probe.predicted]
                if any(len(one) != frames or (one >= classes).any() for one in predicted) or not predicted:
                    raise ValueError(f"{name} of {scores.encoder} on {scores.task} does not predict its test frames")
        return self

    @model_validator(mode="after")
    def _numbers_belong(self) -> Document:
        faults = self.regression.faults({key: set(encoder.identities) for key, encoder in self.encoders.items()})
        if faults:
            raise ValueError(faults[0])
        return self

    def find(self, task: str, encoder: str) -> EncoderScores | None:
        """Return the scores of an encoder on a task; None where it has none."""
        return next((s for s in self.scores if s.task == task and s.encoder == encoder), None)

    def ranked(self, task: str) -> list[EncoderScores]:
        """Return a task's scores, best macro F1 first; equal ones in the table's order."""
        return sorted((s for s in self.scores if s.task == task), key=lambda s: -s.macro_f1.mean)

    def title(self, encoder: str) -> str:
        """Return what an encoder is called in tables."""
        return self.encoders[encoder].title

    def to_json(self) -> bytes:
        """Return the bytes of `scores.json`: the same for the same document."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n").encode()


def is_document(path: Path) -> bool:
    """Return whether a file is a report's `scores.json`, of any format, whole or not."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "format" in content and "scores" in content


def read_document(path: Path) -> Document:
    """Return the document of a report.

    Args:
        path: a `scores.json`, or the folder that holds it.

    Raises:
        UsageError: there is no such file, or it is not a report's scores of this format.
    """
    path = path / SCORES if path.is_dir() else path
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: not a file. Name the scores.json of a report, or its folder.")
    try:
        content = path.read_bytes()
        version = json.loads(content)["format"]
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file. Name the scores.json of a report, or its folder.") from error
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror}). {advice(error)}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: not a report's scores.json: damaged, or another program's.") from error
    if version not in _READ:
        reads = f"{', '.join(map(str, _READ[:-1]))} and {_READ[-1]}"
        raise UsageError(
            f"{path}: format {version}, this version reads {reads}. Make the report again with this version."
        )
    try:
        return Document.model_validate_json(content, strict=True)
    except ValidationError as error:
        first, more = error.errors()[0], error.error_count() - 1
        place = ".".join(map(str, first["loc"]))
        fault = f"{f'{place}: ' if place else ''}{first['msg']}{f', and {more} more faults' if more else ''}"
        raise UsageError(f"{path}: not a whole report: {fault}. Make the report again.") from error
