"""Define the lines of a run's log."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


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
    batch: str
    """Fingerprint of the batch's rows and masks, 16 hex digits."""
    images_per_s: float
    data_wait_s: float
    """Seconds that the step waited for its batch."""


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
    target_mean: float
    target_std: float
    rankme: NotRequired[float]
    feature_std: NotRequired[float]
    knn: NotRequired[float]
    """Macro F1 of the k-NN probe, 0 to 1."""


Line = StepLine | ValidationLine
