"""Define the `train:` section of a recipe: masks, augmentation, models, objective and schedule.

Defaults follow US-JEPA (arXiv 2602.19322, pretraining table) where the paper specifies them; docs/method.md lists what
it leaves open.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from usjepa.cache.recipes.base import (
    ComputePrecision,
    Count,
    Depth,
    Deviation,
    Edge,
    Fraction,
    Mean,
    Positive,
    Processes,
    Range,
    Seed,
    Settings,
    ShareRange,
    known_patch,
    misfit,
)
from usjepa.cache.recipes.marks import Hard, NoEffect, OnlyWith, Soft

_MASKED = OnlyWith("objective", "latents", "pixels")


def _distinct(targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if isinstance(targets, tuple) and not 0 < len(set(targets)) == len(targets):
        raise PydanticCustomError("targets", "must name one layer of latents or more, each once")
    return targets


_Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


class MaskSettings(Settings):
    """Multiblock masks as in I-JEPA [paper: masks; USrc-JEPA for `regions`]."""

    target_blocks: Annotated[Annotated[int, Field(ge=1, le=256)], Hard("training")] = 4
    """Number of target blocks per image."""
    target_scale: Annotated[ShareRange, Hard("training")] = (0.075, 0.125)
    """Range of a target block's area as a share of the patch grid."""
    target_aspect: Annotated[Range, Hard("training")] = (0.75, 1.5)
    """Range of a target block's height over its width."""
    context_scale: Annotated[ShareRange, Hard("training")] = (0.85, 1.0)
    """Range of the context block's area as a share of the patch grid; its aspect is 1."""
    min_patches: Annotated[Count, Hard("training")] = 10
    """tau: draw a block again until at least this many of its patches are kept."""
    regions: Annotated[bool, Hard("training")] = False
    """USrc-JEPA: keep only patches that touch the scan region, in context and targets alike."""
    tries: Annotated[Count, Hard("training")] = 20
    """Most draws for an image whose context is too small; an image that never suffices is left out and counted."""


class AugmentSettings(Settings):
    """Photometric noise on the student's input only; geometry is cached. The strengths are ours."""

    blur_probability: Annotated[Fraction, Hard("training")] = 0.2
    """Probability that an image is blurred."""
    blur_sigma: Annotated[Range, Hard("training")] = (0.1, 1.5)
    """Range of the Gaussian's standard deviation in pixels."""
    speckle_probability: Annotated[Fraction, Hard("training")] = 0.2
    """Probability that speckle is added to an image."""
    speckle_strength: Annotated[Range, Hard("training")] = (0.05, 0.2)
    """Range of the multiplicative noise's standard deviation, as a share of intensity."""
    contrast_probability: Annotated[Fraction, Hard("training")] = 0.2
    """Probability that an image's contrast is changed."""
    contrast_factor: Annotated[Range, Hard("training")] = (0.7, 1.3)
    """Range of the factor on the distance from the image's mean intensity."""


class StudentSettings(Settings):
    """The encoder to train, from random weights."""

    architecture: Annotated[str, Hard("training")] = "vit_base_patch16_224"
    """timm name of a ViT."""
    patch_size: Annotated[Edge | None, Hard("training")] = None
    """Edge of a patch in pixels; null: the architecture's."""
    depth: Annotated[Depth | None, Hard("training")] = None
    """Number of transformer blocks; null: the architecture's."""
    channels: Annotated[Literal[1, 3], Hard("training")] = 3
    """Input channels; grey images are repeated to three."""
    mean: Annotated[Mean, Hard("training")] = (0.485, 0.456, 0.406)
    """Per channel, subtracted from pixels scaled to [0, 1]; with one channel the first counts."""
    std: Annotated[Deviation, Hard("training")] = (0.229, 0.224, 0.225)
    """Per channel, divides what is left after the mean; with one channel the first counts."""


class PredictorSettings(Settings):
    """A narrow ViT that predicts the teacher's latents from context tokens and mask tokens."""

    depth: Annotated[Depth, Hard("training")] = 12
    """Number of transformer blocks [paper: 12]."""
    dim: Annotated[int, Field(ge=16, le=65536, multiple_of=4), Hard("training")] = 384
    """Width [paper: 384]."""
    heads: Annotated[Count, Hard("training")] = 12
    """Attention heads. Not stated in the paper; I-JEPA uses the encoder's."""
    joint: Annotated[bool, Hard("training")] = False
    """Predict all target blocks of an image in one sequence, where they attend to each other, not one by one."""

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> PredictorSettings:
        if self.dim % self.heads:
            raise misfit("heads", self.heads, f"must divide dim ({self.dim})")
        return self


class ContrastSettings(Settings):
    """Pairs of images for `objective: contrast`, and the projector that is thrown away. All of it is ours."""

    positives: Annotated[Literal["clip", "group"], Hard("training", when_set=True)] = "clip"
    """What the second image of a pair may be: another row of the same clip or still, or of the same group (patient)."""
    distance: Annotated[Annotated[int, Field(ge=0, lt=2**31)] | None, Hard("training", when_set=True)] = None
    """Most frames between the two; 0: another view of the same frame; null: any. For `positives: clip`."""
    views: Annotated[bool, Hard("training", when_set=True)] = True
    """Whether the second image may be of any view; false: of the same view number."""
    spared: Annotated[Literal["clip", "group"], Hard("training", when_set=True)] = "clip"
    """Other images of the same clip, or of the same group, are neither found nor told apart."""
    temperature: Annotated[Positive, Hard("training", when_set=True)] = 0.2
    """Divides the cosines: smaller tells near images apart more strictly."""
    crop_scale: Annotated[ShareRange, Hard("training", when_set=True)] = (0.3, 1.0)
    """Range of the area of the part that is cut out of each image in each step, as a share of it; [1, 1]: none is."""
    hidden: Annotated[Count, Hard("training", when_set=True)] = 512
    """Width of the projector's hidden layer."""
    dim: Annotated[Count, Hard("training", when_set=True)] = 128
    """Width of a point, in which images are compared."""

    @model_validator(mode="after")
    def _distance_is_within_a_clip(self) -> ContrastSettings:
        if self.positives == "group" and self.distance is not None:
            raise misfit("distance", self.distance, "counts frames of one clip: leave it out with positives: group")
        return self


class TrainSettings(Settings):
    """Stage two: from a store, through masks, student and predictor, to an encoder."""

    teacher: Annotated[str | None, Hard("training")] = None
    """Name of the teacher whose latents are predicted; null: the store's only one."""
    targets: Annotated[Literal["cached", "online"] | tuple[str, ...], AfterValidator(_distinct), Hard("training")] = (
        "cached"
    )
    """Take latents from the store, or compute them in the loop: the teacher on the same pixels. Or name several layers
    of latents of the store, as `[urfm.8, urfm.12]` or two teachers: all are predicted, each by a head of its own on
    one predictor and normalised by itself."""
    target_weights: Annotated[tuple[Positive, ...] | None, Hard("training", when_set=True), _MASKED] = None
    """Weight of each of several targets in the loss, which is their weighted mean; null: all weigh the same."""
    objective: Annotated[Literal["latents", "pixels", "contrast"], Hard("training")] = "latents"
    """Predict the teacher's latents at masked places, or the patches' own pixels, or tell pairs of images apart.
    `pixels` (SALT's first stage) and `contrast` need no latents in the store: their encoder can serve as a teacher."""
    contrast: Annotated[ContrastSettings, OnlyWith("objective", "contrast")] = ContrastSettings()
    pixel_norm: Annotated[Literal["patch", "none"], Hard("training"), OnlyWith("objective", "pixels")] = "patch"
    """For `objective: pixels`: normalise each patch to mean 0 and variance 1 over its pixels (MAE), or leave grey
    levels as they are (`target_norm: standardised` then brings them to one scale over the data)."""
    pixel_cell: Annotated[Edge, Hard("training"), OnlyWith("objective", "pixels")] = 1
    """For `objective: pixels`: edge in pixels of the square cells whose mean grey levels are predicted, a divisor of
    the patch's edge; 1: single pixels. Speckle can't be predicted, and cells larger than its grain average it out."""
    student: StudentSettings = StudentSettings()
    predictor: Annotated[PredictorSettings, _MASKED] = PredictorSettings()
    masks: Annotated[MaskSettings, _MASKED] = MaskSettings()
    augment: AugmentSettings = AugmentSettings()
    loss: Annotated[Literal["smooth_l1", "l1", "l2", "cosine"], Hard("training"), _MASKED] = "smooth_l1"
    """Loss per element [paper: smooth L1]; cosine: 1 minus the cosine, per patch."""
    beta: Annotated[Positive, Hard("training"), _MASKED, OnlyWith("loss", "smooth_l1")] = 1.0
    """Distance at which smooth L1 becomes linear. Not stated in the paper; torch's default."""
    visible_weight: Annotated[float, Field(ge=0, le=1e9), Hard("training", when_set=True), _MASKED] = 0.0
    """Weight of the same loss at visible patches, added to that at masked ones (V-JEPA 2.1, arXiv 2603.14482); 0: none
    [paper]. Not with `objective: contrast`, which masks nothing."""
    target_norm: Annotated[
        Literal["none", "layer", "standardised", "whitened", "rotated"], Hard("training"), _MASKED
    ] = "none"
    """Normalisation of targets. none: as they are; layer: each token over its channels (in I-JEPA's code; the paper
    does not say); standardised: each channel by its mean and deviation over a sample of training frames; whitened: by
    the covariance of channels there, so that every direction in which tokens differ weighs the same; rotated: turned
    so that all channels have the same variance, and divided by one number (PHI-S), so that directions keep their
    weights and several targets have one scale."""
    batch_size: Annotated[Count, Hard("training")] = 128
    """Images per step, summed over ranks."""
    accumulate: Annotated[Count, Soft("training")] = 1
    """Number of parts in which a rank computes its share of a batch, one after the other, to save memory."""
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
    weight_decay: Annotated[float, Field(ge=0, le=1e9), Hard("training")] = 0.04
    """Weight decay of the first step, cosine to the final value; none on biases and norms."""
    weight_decay_final: Annotated[float, Field(ge=0, le=1e9), Hard("training")] = 0.4
    """Weight decay of the last step [paper: 0.4]."""
    betas: Annotated[tuple[_Beta, _Beta], Hard("training")] = (0.9, 0.999)
    """AdamW's betas. Not stated in the paper; torch's default, as in I-JEPA's code."""
    clip: Annotated[Positive | None, Hard("training")] = None
    """Largest gradient norm; null: no clipping."""
    compute: Annotated[ComputePrecision, Hard("training")] = "bf16"
    """Autocast precision on a GPU; a CPU always computes in fp32."""
    compile: Annotated[bool, Soft("training")] = False
    """Compile student and predictor (torch.compile, dynamic shapes): slower to start, faster afterwards."""
    recompute: Annotated[bool, Soft("training")] = False
    """Activation checkpointing: compute blocks again in the backward pass, to save memory."""
    seed: Annotated[Seed, Hard("training")] = 0
    """Seed of weights, order, masks and augmentation."""
    dataset_cap: Annotated[Count, Hard("training")] = 50_000
    """N_t: most frames drawn from one dataset per epoch [paper: 50,000]."""
    validation_fraction: Annotated[Fraction, Hard("training")] = 0.05
    """Share of groups, by hash, held out for validation [paper: 5 %]."""
    exclude_splits: Annotated[tuple[str, ...], Hard("training")] = ("test",)
    """Splits whose rows are used neither for training nor for validation."""
    knn_every: Annotated[int, Field(ge=0, lt=2**31), NoEffect()] = 10
    """Epochs between k-NN probes on held-out groups, for frames with labels; 0: never."""
    probe: Annotated[str | None, NoEffect()] = None
    """Labelled frames of another set, PATH or PATH::DATASET, that a probe scores while the encoder trains: a store, or
    a folder, file or manifest as --source takes it, whose frames are then cut into RUN/probe. The encoder of the best
    score is kept as RUN/encoders/best-probe, that of the lowest loss so far beside it. The set's test split is never
    looked at; null: no probe."""
    probe_every: Annotated[Count, NoEffect(), OnlyWith("probe")] = 1
    """Epochs between such probes; the last epoch has one too."""
    probe_frames: Annotated[Annotated[int, Field(ge=1, le=100_000)], NoEffect(), OnlyWith("probe")] = 5000
    """Most frames of it that are looked at, as many of each group as fit; their features are held in memory once."""
    keep_encoders: Annotated[tuple[Count, ...], NoEffect()] = ()
    """Epochs, counted from 1, whose encoder is kept as RUN/encoders/epoch-0010 beside that of lowest loss."""
    keep_every: Annotated[int, Field(ge=0, lt=2**31), NoEffect()] = 0
    """Keep the encoder of every so many epochs as well; 0: none."""
    explosion: Annotated[Annotated[float, Field(gt=1)] | None, NoEffect()] = 20.0
    """Stop when a loss reaches this many times the median of the last 100; null: only when it is not finite."""
    tensorboard: Annotated[bool, NoEffect()] = False
    """Write TensorBoard events into the run's folder as well (pip install 'usjepa[tensorboard]')."""
    trackers: Annotated[tuple[Literal["wandb", "mlflow"], ...], NoEffect()] = ()
    """Send the log's numbers to these services too (pip install 'usjepa[wandb]' or 'usjepa[mlflow]'). Offline, into the
    run's folder, unless WANDB_MODE=online or MLFLOW_TRACKING_URI says otherwise; one that fails never stops a run."""
    checkpoint_minutes: Annotated[Positive, NoEffect()] = 10.0
    """Minutes of wall-clock time between checkpoints; one is also written at the end of every epoch."""
    read_threads: Annotated[Processes, NoEffect()] = 2
    """Number of threads that read the store."""

    def shareable(self) -> TrainSettings:
        """Return what may be told to others: of the probe's path the last part alone."""
        return self if self.probe is None else self.model_copy(update={"probe": self.probe.rstrip("/").split("/")[-1]})

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainSettings:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise misfit("warmup_epochs", self.warmup_epochs, f"must be less than epochs ({self.epochs})")
        return self

    @model_validator(mode="after")
    def _kept_epochs_come(self) -> TrainSettings:
        if any(epoch > self.epochs for epoch in self.keep_encoders):
            raise misfit("keep_encoders", list(self.keep_encoders), f"must name epochs from 1 to {self.epochs}")
        if self.keep_every > self.epochs:
            raise misfit("keep_every", self.keep_every, f"keeps none of {self.epochs} epochs: set 0, or at most these")
        return self

    @model_validator(mode="after")
    def _several_targets_say_all(self) -> TrainSettings:
        named = self.targets if isinstance(self.targets, tuple) else ()
        if named and self.teacher is not None:
            raise misfit("targets", list(named), f"names the layers: leave out teacher ({self.teacher})")
        if self.target_weights is not None and len(self.target_weights) != len(named):
            raise misfit("target_weights", self.target_weights, f"must have one weight for each target, {len(named)}")
        return self

    @model_validator(mode="after")
    def _pixels_ask_no_teacher(self) -> TrainSettings:
        if self.objective != "latents" and (self.targets != "cached" or self.teacher is not None):
            raise misfit("objective", self.objective, "has no teacher: leave out targets and teacher")
        return self

    @model_validator(mode="after")
    def _pairs_have_others(self) -> TrainSettings:
        if self.objective == "contrast" and self.batch_size < 2:
            raise misfit("batch_size", self.batch_size, "must be 2 or more: images are told from each other")
        if self.objective == "contrast" and self.target_norm != "none":
            raise misfit("target_norm", self.target_norm, "has nothing to normalise with objective: contrast: set none")
        return self

    @model_validator(mode="after")
    def _visible_stands_beside_masked(self) -> TrainSettings:
        if self.objective == "contrast" and self.visible_weight:
            raise misfit("visible_weight", self.visible_weight, "has no place with objective: contrast: set 0")
        return self

    @model_validator(mode="after")
    def _cells_fill_a_patch(self) -> TrainSettings:
        patch = known_patch(self.student.architecture, self.student.patch_size)
        if self.objective == "pixels" and patch is not None and patch % self.pixel_cell:
            raise misfit("pixel_cell", self.pixel_cell, f"must divide the edge of the student's patches ({patch})")
        return self
