"""Define the `evaluate:` section of a recipe: probes, baselines, robustness and statistics.

Defaults follow US-JEPA (arXiv 2602.19322, linear probing table) where the paper specifies them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from usjepa.cache.recipes.base import Count, Fraction, Positive, Settings, misfit
from usjepa.cache.recipes.marks import Hard

Pooling = Literal["mean", "mean+max", "region", "region+max"]
Corruption = Literal["blur", "contrast", "speckle", "gain", "attenuation", "shadow", "jpeg"]


class EvaluateSettings(Settings):
    """Frozen encoders, probes and the report [paper: linear probing table]."""

    seeds: Annotated[Count, Hard("evaluation")] = 5
    """Probes trained per (encoder, task)."""
    lr: Annotated[Positive, Hard("evaluation")] = 1e-3
    """Learning rate of a probe at its first step; cosine to zero [paper: 1e-3]."""
    weight_decay: Annotated[float, Field(ge=0), Hard("evaluation")] = 1e-4
    """AdamW's, of a probe [paper: 1e-4]."""
    batch_size: Annotated[Count, Hard("evaluation")] = 32
    """Feature vectors per probe step."""
    epochs: Annotated[Count, Hard("evaluation")] = 150
    """Most epochs of a probe."""
    patience: Annotated[Count, Hard("evaluation")] = 15
    """Epochs without a better validation loss before a probe stops."""
    neighbours: Annotated[Count, Hard("evaluation")] = 20
    """k of k-NN."""
    pooling: Annotated[Pooling, Hard("evaluation")] = "mean"
    """How an encoder's patch tokens become the one vector that probes see [the paper doesn't say]: their mean; weighed
    by how much of each patch lies in the scan's region; with the maximum beside it."""
    encode_batch_size: Annotated[Count, Hard("evaluation")] = 64
    """Images per forward pass when features are computed."""
    validation_fraction: Annotated[Fraction, Hard("evaluation")] = 0.15
    """Share of the training groups of a task used for early stopping, by hash of the group."""
    test_fraction: Annotated[Fraction, Hard("evaluation")] = 0.25
    """Share of groups tested on, by hash, where a task gives no split."""
    baselines: Annotated[tuple[Literal["teacher", "random", "pixels", "hog"], ...], Hard("evaluation")] = (
        "teacher",
        "random",
        "pixels",
        "hog",
    )
    """What is scored beside the student."""
    random_seed: Annotated[int, Field(ge=0), Hard("evaluation")] = 0
    """Which draw of random weights the baseline has; results over training seeds want as many draws of it."""
    bootstrap: Annotated[int, Field(ge=0), Hard("evaluation")] = 10000
    """Draws of whole test groups behind the 95 % intervals and the paired differences; 0: none. With 2,000 the smallest
    p is 0.001, which no correction for 50 comparisons survives."""
    few_shot: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Hard("evaluation")] = (0.01, 0.05, 0.1, 0.5)
    """Shares of the training labels that probes are trained on as well, stratified by class [paper: 1, 5, 10, 50 %]."""
    corruptions: Annotated[tuple[Corruption, ...], Hard("evaluation")] = (
        "blur",
        "contrast",
        "speckle",
        "gain",
        "attenuation",
        "shadow",
        "jpeg",
    )
    """What is done to test frames, at three strengths, for clean-trained probes [paper: blur, contrast, speckle]."""
    corrupted_frames: Annotated[Count | None, Hard("evaluation")] = None
    """About how many test frames are tested corrupted, drawn class by class; none: all."""
    attentive: Annotated[bool, Hard("evaluation")] = False
    """Train attentive probes on patch tokens as well. Costs minutes and, for a ViT-B, 0.6 MB of disk a frame."""
    attentive_frames: Annotated[Count, Hard("evaluation")] = 1000
    """About how many training frames attentive probes see, at most, drawn class by class; validation frames a quarter
    of that. Their tokens lie in memory."""

    @model_validator(mode="after")
    def _named_once(self) -> EvaluateSettings:
        for name in ("few_shot", "corruptions", "baselines"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise misfit(name, list(values), "must not name anything twice")
        return self
