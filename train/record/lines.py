"""Define the lines of a run's log, and the sum by which each proves itself."""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NotRequired, TypedDict, cast

import xxhash


class StepLine(TypedDict):
    """One optimizer step; without a usable image there is no loss, rate or norm."""

    kind: Literal["step"]
    step: int
    epoch: int
    loss: float | None
    lr: float | None
    wd: float | None
    """Weight decay."""
    grad_norm: float | None
    """Before clipping."""
    images: int
    """Usable ones, over all ranks."""
    unusable: int
    """Without room for masks; of pairs, with nothing to be told apart from."""
    batch: str
    """Fingerprint of the batch's rows and masks, 16 hex digits."""
    images_per_s: float
    data_wait_s: float
    """Seconds that the step waited for its batch."""
    losses: NotRequired[dict[str, float]]
    """Of several targets (`train.targets`), the loss of each by itself."""


class ObjectiveMeasures(TypedDict, total=False):
    """What an objective tells of its targets or pairs at a validation, beside the loss."""

    losses: dict[str, float]
    target_mean: float
    target_std: float
    partner_cosine: float
    other_cosine: float


class ValidationLine(TypedDict):
    """The end of one epoch; what can't be measured is left out."""

    kind: Literal["validation"]
    epoch: int
    step: int
    """Steps done."""
    loss: float
    images: int
    unusable: int
    best: bool
    """Whether the loss is the lowest so far."""
    losses: NotRequired[dict[str, float]]
    """Of several targets, the loss of each by itself."""
    target_mean: NotRequired[float]
    """Over all elements of the target patches, normalised for the loss."""
    target_std: NotRequired[float]
    partner_cosine: NotRequired[float]
    """Of pairs (`objective: contrast`), mean; `other_cosine` is that of images to be told apart."""
    other_cosine: NotRequired[float]
    rankme: NotRequired[float]
    feature_std: NotRequired[float]
    knn: NotRequired[float]
    """Macro F1 of the k-NN probe, 0 to 1."""


class ProbeLine(TypedDict):
    """Scores of the encoder on a foreign labelled set (`train.probe`), from 0 to 1."""

    kind: Literal["probe"]
    epoch: int
    """-1: before the first step."""
    step: int
    """Steps done."""
    macro_f1: float
    """Of logistic regression."""
    macro_f1_sd: float
    """Its standard deviation over groups drawn anew."""
    knn: float
    """Macro F1 of k nearest neighbours."""
    frames: int
    """That were scored."""
    groups: int
    set: str
    """The first 12 hex digits of the digest of what was scored, and how."""
    best: bool
    """Whether `macro_f1` is the highest so far."""
    seconds: float
    """That the probe took."""


class LostLine(TypedDict):
    """Stands for steps whose lines were lost or damaged after they were written."""

    kind: Literal["lost"]
    step: int
    """The first of them."""
    steps: int
    epoch: int


EndLine = ValidationLine | ProbeLine
"""Of an epoch's end: the history keeps them all."""
Line = StepLine | EndLine | LostLine

_SUM = re.compile(rb', "sum": "([0-9a-f]{16})"\}\n\Z')
_SUM_LENGTH = 31
_NUMBER = (int, float)
_NEEDED: dict[str, dict[str, type | tuple[type, ...]]] = {
    "step": {"step": int, "epoch": int, "loss": (*_NUMBER, type(None))},
    "validation": {"step": int, "epoch": int, "loss": _NUMBER},
    "probe": {"step": int, "epoch": int, "macro_f1": _NUMBER},
    "lost": {"step": int, "epoch": int, "steps": int},
}
_KNOWN = {
    *StepLine.__annotations__,
    *ValidationLine.__annotations__,
    *ProbeLine.__annotations__,
    *LostLine.__annotations__,
}


def to_text(line: Line) -> bytes:
    """Return a line as it stands in the log: JSON, its last field the xxh3-64 of the text without that field.

    Floats read back as the same bits.
    """
    body = json.dumps(line, allow_nan=False)
    return f'{body[:-1]}, "sum": "{xxhash.xxh3_64_hexdigest(body.encode())}"}}\n'.encode()


def from_text(text: bytes) -> tuple[Line, bool]:
    """Return a line, and whether a sum proves it: earlier versions wrote none.

    Raises:
        ValueError: it is not a line that usjepa-train wrote, as it wrote it.
    """
    found = _SUM.search(text, max(0, len(text) - _SUM_LENGTH))
    body = text if found is None else text[: found.start()] + b"}"
    if found is not None and xxhash.xxh3_64_hexdigest(body).encode() != found[1]:
        raise ValueError("its sum is that of another text")
    try:
        value: Any = json.loads(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    needed = _NEEDED.get(value.get("kind", "")) if isinstance(value, dict) else None
    if needed is None or not all(isinstance(value.get(name, ""), of) for name, of in needed.items()):
        raise ValueError("no step and no validation")
    if found is None and not _KNOWN.issuperset(value):
        raise ValueError("a field that no version wrote")
    return cast("Line", value), found is not None
