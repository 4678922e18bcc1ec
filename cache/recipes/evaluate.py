"""Define the `evaluate:` section of a recipe: probes, baselines, robustness and statistics.

Defaults follow US-JEPA (arXiv 2602.19322, linear probing table) where the paper specifies them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from usjepa.cache.recipes.base import Count, Fraction, Positive, Settings, misfit
from usjepa.cache.recipes.marks import Hard, OnlyWith

Pooling = Literal["mean", "mean+max", "region", "region+max", "grid2", "tokens"]
Unit = Literal["frame", "clip", "patient"]
Gather = Literal["predictions", "features"]
Corruption = Literal["blur", "contrast", "speckle", "gain", "attenuation", "shadow", "jpeg"]


class EvaluateSettings(Settings):
    """Stage three: probes on frozen encoders, and the report [paper: linear probing table]."""

    seeds: Annotated[Count, Hard("evaluation")] = 5
    """Number of probes trained per (encoder, task)."""
    lr: Annotated[Positive, Hard("evaluation")] = 1e-3
    """Learning rate of a probe's first step, cosine to 0 [paper: 1e-3]."""
    weight_decay: Annotated[float, Field(ge=0, le=1e9), Hard("evaluation")] = 1e-4
    """Weight decay of a probe's AdamW [paper: 1e-4]."""
    batch_size: Annotated[Count, Hard("evaluation")] = 32
    """Feature vectors per probe step."""
    epochs: Annotated[Count, Hard("evaluation")] = 150
    """Most epochs a probe is trained for."""
    patience: Annotated[Count, Hard("evaluation")] = 15
    """Epochs without a lower validation loss after which a probe stops."""
    neighbours: Annotated[Count, Hard("evaluation")] = 20
    """k, the neighbours of k-NN."""
    pooling: Annotated[Pooling, Hard("evaluation")] = "mean"
    """How patch tokens become the one vector that probes use (not stated in the paper). mean: of all tokens; region:
    weighted by how much of each patch lies in the scan region; +max: with the maximum beside it; grid2: the means of
    the frame's four quarters, side by side; tokens: all of them side by side (a ViT-B at 224: 150,528 numbers)."""
    unit: Annotated[Unit, Hard("evaluation", when_set=True)] = "frame"
    """What is scored and counts once. frame: each frame; clip: the frames of one file; patient: those of one group of
    the data, a patient or a study. Intervals draw whole groups in any case."""
    gather: Annotated[Gather, Hard("evaluation", when_set=True), OnlyWith("unit", "clip", "patient")] = "predictions"
    """How frames become a clip or a patient. predictions: the mean of its frames' (the vote, of a probe that gives no
    probabilities); features: probes are trained and tested on the mean of its frames' features."""
    logistic_c: Annotated[Positive, Hard("evaluation", when_set=True)] = 0.01
    """C of the logistic regression whose strength is fixed; another has it chosen on the validation frames."""
    encode_batch_size: Annotated[Count, Hard("evaluation")] = 64
    """Images per forward pass when features are computed."""
    validation_fraction: Annotated[Fraction, Hard("evaluation")] = 0.15
    """Share of a task's training groups, by hash, used for early stopping."""
    test_fraction: Annotated[Fraction, Hard("evaluation")] = 0.25
    """Share of groups, by hash, used for the test where a task gives no split."""
    baselines: Annotated[
        tuple[Literal["teacher", "random", "pixels", "hog", "hog-pooled"], ...], Hard("evaluation")
    ] = ("teacher", "random", "pixels", "hog", "hog-pooled")
    """Encoders scored beside the student; hog-pooled: HOG's blocks pooled as an encoder's patch tokens."""
    random_seed: Annotated[int, Field(ge=0, lt=2**31), Hard("evaluation")] = 0
    """Seed of the random baseline's weights; results over several training seeds need as many of it."""
    bootstrap: Annotated[int, Field(ge=0, lt=2**31), Hard("evaluation")] = 10000
    """Resamples of whole test groups for 95 % intervals and paired differences; 0: none. With 2,000 the smallest p is
    0.001, which does not survive a correction for 50 comparisons."""
    few_shot: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Hard("evaluation")] = (0.01, 0.05, 0.1, 0.5)
    """Shares of the training labels that probes are also trained on, stratified by class [paper: 1, 5, 10, 50 %]."""
    corruptions: Annotated[tuple[Corruption, ...], Hard("evaluation")] = (
        "blur",
        "contrast",
        "speckle",
        "gain",
        "attenuation",
        "shadow",
        "jpeg",
    )
    """Corruptions of test frames, at three strengths; probes train on clean ones [paper: blur, contrast, speckle]."""
    corrupted_frames: Annotated[Count | None, Hard("evaluation")] = None
    """About how many test frames are corrupted, drawn class by class; null: all."""
    probes: Annotated[tuple[str, ...], Hard("evaluation")] = ()
    """Further probes beside the built-in ones, by the names that other packages register."""
    attentive: Annotated[bool, Hard("evaluation")] = False
    """Also train attentive probes on patch tokens. Takes minutes and, for a ViT-B, 0.6 MB of disk per frame."""
    attentive_frames: Annotated[Count, Hard("evaluation"), OnlyWith("attentive")] = 1000
    """Most training frames of attentive probes (approximate), drawn class by class, and a quarter of that for
    validation; their tokens are held in memory."""

    @model_validator(mode="after")
    def _named_once(self) -> EvaluateSettings:
        for name in ("few_shot", "corruptions", "baselines", "probes"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise misfit(name, list(values), "must not name anything twice")
        return self

    @model_validator(mode="after")
    def _gathers_something(self) -> EvaluateSettings:
        if self.gather == "features" and self.unit == "frame":
            raise misfit("gather", self.gather, "needs evaluate.unit=clip or patient: a frame has nothing to gather")
        return self
