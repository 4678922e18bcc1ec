"""Define the `train:` section of a recipe: masks, augmentation, models, objective and schedule.

Defaults follow US-JEPA (arXiv 2602.19322, pretraining table) where the paper specifies them; docs/method.md lists what
it leaves open.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from usjepa.cache.recipes.base import (
    ComputePrecision,
    Count,
    Deviation,
    Fraction,
    Mean,
    Positive,
    Range,
    Settings,
    ShareRange,
    misfit,
)
from usjepa.cache.recipes.marks import Hard, NoEffect, Soft

Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


class MaskSettings(Settings):
    """Multiblock masks [paper: masks, USrc-JEPA for `regions`]."""

    target_blocks: Annotated[Count, Hard("training")] = 4
    """Target blocks per image."""
    target_scale: Annotated[ShareRange, Hard("training")] = (0.075, 0.125)
    """Area of a target block as a share of the patch grid."""
    target_aspect: Annotated[Range, Hard("training")] = (0.75, 1.5)
    """Height over width of a target block."""
    context_scale: Annotated[ShareRange, Hard("training")] = (0.85, 1.0)
    """Area of the context block as a share of the patch grid; its aspect is 1."""
    min_patches: Annotated[Count, Hard("training")] = 10
    """tau: a block is drawn again until at least this many of its patches are kept."""
    regions: Annotated[bool, Hard("training")] = False
    """USrc-JEPA: keep only patches that touch the scan, in context and targets alike."""
    tries: Annotated[Count, Hard("training")] = 20
    """Times an image is drawn anew when its context is too small; one that never suffices is reported."""


class AugmentSettings(Settings):
    """Photometric noise on the student's input only; geometry is cached. Strengths are ours: the paper names none."""

    blur_probability: Annotated[Fraction, Hard("training")] = 0.2
    """Probability that an image is blurred."""
    blur_sigma: Annotated[Range, Hard("training")] = (0.1, 1.5)
    """Standard deviation of the Gaussian, pixels."""
    speckle_probability: Annotated[Fraction, Hard("training")] = 0.2
    """Probability that an image gets artificial speckle."""
    speckle_strength: Annotated[Range, Hard("training")] = (0.05, 0.2)
    """Standard deviation of the multiplicative noise, share of intensity."""
    contrast_probability: Annotated[Fraction, Hard("training")] = 0.2
    """Probability that an image's contrast is changed."""
    contrast_factor: Annotated[Range, Hard("training")] = (0.7, 1.3)
    """Factor on the distance from the image's mean intensity."""


class StudentSettings(Settings):
    """The encoder that is trained, from random weights."""

    architecture: Annotated[str, Hard("training")] = "vit_base_patch16_224"
    """timm ViT name."""
    patch_size: Annotated[Count | None, Hard("training")] = None
    """Patch edge in pixels, where it differs from the architecture's own."""
    depth: Annotated[Count | None, Hard("training")] = None
    """Transformer blocks, where they differ from the architecture's own."""
    channels: Annotated[Literal[1, 3], Hard("training")] = 3
    """Input channels; grey pixels are repeated to three."""
    mean: Annotated[Mean, Hard("training")] = (0.485, 0.456, 0.406)
    """Subtracted per channel from pixels scaled to [0, 1]; one channel uses the first."""
    std: Annotated[Deviation, Hard("training")] = (0.229, 0.224, 0.225)
    """Divides per channel after the mean is taken off."""


class PredictorSettings(Settings):
    """Narrow ViT from context tokens and mask tokens to the teacher's latents."""

    depth: Annotated[Count, Hard("training")] = 12
    """Transformer blocks [paper: 12]."""
    dim: Annotated[int, Field(ge=16, multiple_of=4), Hard("training")] = 384
    """Width [paper: 384]."""
    heads: Annotated[Count, Hard("training")] = 12
    """Attention heads; not stated in the paper, I-JEPA uses the encoder's."""
    joint: Annotated[bool, Hard("training")] = False
    """Predict all target blocks of an image in one sequence, where they see each other, instead of one by one."""

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> PredictorSettings:
        if self.dim % self.heads:
            raise misfit("heads", self.heads, f"must divide dim ({self.dim})")
        return self


class TrainSettings(Settings):
    """Stage two: store -> masks -> student + predictor -> encoder."""

    teacher: Annotated[str | None, Hard("training")] = None
    """Name of the latents layer; none: the store's only one."""
    targets: Annotated[Literal["cached", "online"], Hard("training")] = "cached"
    """Latents from the store, or from the teacher run in the loop on the same pixels."""
    objective: Annotated[Literal["latents", "pixels"], Hard("training")] = "latents"
    """What is predicted at masked places: the teacher's latents, or the patches' own normalised pixels: the first
    stage of SALT, whose encoder is then a teacher like any other. `pixels` needs no latents in the store."""
    pixel_norm: Annotated[Literal["patch", "none"], Hard("training")] = "patch"
    """Of `objective: pixels`: each patch brought to mean 0 and variance 1 over its pixels (MAE), or grey levels as they
    are, which `target_norm: standardised` then brings to one scale over the data."""
    pixel_cell: Annotated[Count, Hard("training")] = 1
    """Of `objective: pixels`: side in pixels of the square cells whose mean grey levels are predicted, a divisor of the
    patch's side; 1: single pixels. Speckle can't be predicted, and cells larger than its grain leave it out."""
    student: StudentSettings = StudentSettings()
    predictor: PredictorSettings = PredictorSettings()
    masks: MaskSettings = MaskSettings()
    augment: AugmentSettings = AugmentSettings()
    loss: Annotated[Literal["smooth_l1", "l1", "l2", "cosine"], Hard("training")] = "smooth_l1"
    """Per-element loss [paper: smooth L1]; cosine: one minus the cosine of each patch."""
    beta: Annotated[Positive, Hard("training")] = 1.0
    """Where smooth L1 turns linear; not stated in the paper, torch's default."""
    target_norm: Annotated[Literal["none", "layer", "standardised", "whitened"], Hard("training")] = "none"
    """Targets as they are; each token normalised over its channels (I-JEPA's code does, the paper does not say); each
    channel standardised by its mean and deviation over a sample of training frames; or whitened by the covariance of
    the channels there, so that every direction in which the teacher's tokens differ counts alike."""
    batch_size: Annotated[Count, Hard("training")] = 128
    """Images per step, over all ranks."""
    accumulate: Annotated[Count, Soft("training")] = 1
    """Parts that a rank computes its share of a batch in, one after the other, for want of memory."""
    epochs: Annotated[Count, Hard("training")] = 100
    """Passes over the balanced sample [paper: 100]."""
    warmup_epochs: Annotated[int, Field(ge=0), Hard("training")] = 10
    """Epochs of linear warmup [paper: 10]."""
    lr_start: Annotated[Positive, Hard("training")] = 5e-6
    """Learning rate of the first step."""
    lr: Annotated[Positive, Hard("training")] = 5e-5
    """Peak learning rate, at the end of the warmup."""
    lr_final: Annotated[Positive, Hard("training")] = 5e-7
    """Learning rate of the last step."""
    weight_decay: Annotated[float, Field(ge=0), Hard("training")] = 0.04
    """At the first step; cosine to the final value. Never on biases and norms."""
    weight_decay_final: Annotated[float, Field(ge=0), Hard("training")] = 0.4
    """At the last step [paper: 0.4]."""
    betas: Annotated[tuple[Beta, Beta], Hard("training")] = (0.9, 0.999)
    """AdamW's; not stated in the paper, torch's default as in I-JEPA's code."""
    clip: Annotated[Positive | None, Hard("training")] = None
    """Largest gradient norm; none: no clipping."""
    compute: Annotated[ComputePrecision, Hard("training")] = "bf16"
    """Autocast precision on a GPU; a CPU always computes in fp32."""
    compile: Annotated[bool, Soft("training")] = False
    """Compile student and predictor (torch.compile, dynamic shapes): slower to start, faster afterwards."""
    recompute: Annotated[bool, Soft("training")] = False
    """Activation checkpointing: blocks are computed again in the backward pass, for want of memory."""
    seed: Annotated[int, Hard("training")] = 0
    """Seed of weights, order, masks and augmentation."""
    dataset_cap: Annotated[Count, Hard("training")] = 50_000
    """N_t: frames drawn from one dataset in an epoch, at most [paper: 50,000]."""
    validation_fraction: Annotated[Fraction, Hard("training")] = 0.05
    """Groups whose hash lies under this share are never trained on [paper: 5 %]."""
    exclude_splits: Annotated[tuple[str, ...], Hard("training")] = ("test",)
    """Rows of these splits take part neither in training nor in validation."""
    knn_every: Annotated[int, Field(ge=0), NoEffect()] = 10
    """Epochs between k-NN probes of the encoder on held-out groups, where frames have labels; 0: never."""
    explosion: Annotated[Annotated[float, Field(gt=1)] | None, NoEffect()] = 20.0
    """Stop when a loss is not below this many times the median of the last 100; none: only when it is not finite."""
    tensorboard: Annotated[bool, NoEffect()] = False
    """Write TensorBoard events into the run's folder as well (pip install 'usjepa[tensorboard]')."""
    checkpoint_minutes: Annotated[Positive, NoEffect()] = 10.0
    """Wall-clock time between checkpoints; one is written at every epoch's end as well."""
    read_threads: Annotated[Count, NoEffect()] = 2
    """Threads that read the store."""

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainSettings:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise misfit("warmup_epochs", self.warmup_epochs, f"must be less than epochs ({self.epochs})")
        return self

    @model_validator(mode="after")
    def _pixels_ask_no_teacher(self) -> TrainSettings:
        if self.objective == "pixels" and (self.targets == "online" or self.teacher is not None):
            raise misfit("objective", self.objective, "has no teacher: leave out targets and teacher")
        return self
