"""The typed settings of a recipe: every field of `pipelines.yaml`, with its meaning and unit.

All three sections live here, in the lowest package, because a recipe is one document that every
stage reads whole: an override such as `--set train.lr=1e-4` is checked the same way by all CLIs.
Defaults follow US-JEPA (arXiv 2602.19322, pretraining table) where the paper speaks; docs/method.md
lists what it leaves open. Loading and overrides live in `recipe.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Range = tuple[Positive, Positive]
"""(low, high), both included."""

LatentPrecision = Literal["fp32", "fp16", "int8"]
ComputePrecision = Literal["fp32", "bf16", "fp16"]
Pooling = Literal["mean", "mean+max", "region", "region+max"]
Corruption = Literal["blur", "contrast", "speckle", "gain", "attenuation", "shadow", "jpeg"]


class Settings(BaseModel):
    """Base of every section: frozen, unknown keys refused, field docstrings kept as descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


class PhantomSettings(Settings):
    """The built-in simulated ultrasound source."""

    patients: Count = 60
    """Groups; frames of one patient share background, gain and geometry."""
    frames_per_patient: Count = 20
    """Frames (independent lesions and speckle) a patient."""
    size: Annotated[int, Field(ge=64, le=1024)] = 224
    """Height and width of a frame, pixels, interface around the scan included."""
    seed: int = 0
    """Seed of the whole source; the same seed gives the same bytes."""


class ViewSettings(Settings):
    """K fixed geometric views per frame; view 0 is the plain frame."""

    count: Count = 1
    """K, views stored per frame."""
    crop_scale: Range = (0.6, 1.0)
    """Area of a crop as a share of the frame [paper: 0.6 to 1.0]; views 1..K-1 only."""
    horizontal_flip: Fraction = 0.5
    """Probability that a view (not view 0) is mirrored left-right."""
    vertical_flip: Fraction = 0.5
    """Probability that a view (not view 0) is mirrored top-bottom."""


class PreprocessSettings(Settings):
    """What happens to a frame before its views are cut [paper: preprocessing]."""

    grey: bool = True
    """Convert to one grey channel; false keeps three colour channels."""
    inpaint_below: Fraction = 0.05
    """Coloured marks that cover less than this share of the frame are inpainted; 0 turns it off."""
    percentiles: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = (2.0, 98.0)
    """Intensity percentiles inside the region that are mapped to 0 and 255."""
    deidentify: bool = True
    """Zero every stored pixel outside the region: burned-in names, dates and rulers never reach the store."""


class TeacherSettings(Settings):
    """The frozen encoder whose patch tokens are stored."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")] = "teacher"
    """Name of the layer: `latents/<name>`."""
    architecture: str = "vit_base_patch16_224"
    """timm model name."""
    weights: str | None = None
    """Checkpoint file (safetensors, or torch read with weights_only) or a run's folder; none: random weights."""
    patch_size: Count | None = None
    """Patch edge in pixels, where it differs from the architecture's own."""
    depth: Count | None = None
    """Transformer blocks, where they differ from the architecture's own."""
    block: Count | None = None
    """Take tokens after this many transformer blocks; none: after the last."""
    norm: bool = True
    """Apply the model's final normalisation to the tokens."""
    image_size: Count | None = None
    """Edge in pixels of the teacher's input; none: that of the stored pixels."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted per channel from pixels scaled to [0, 1]."""
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    """Divides per channel after the mean is taken off."""
    compute: ComputePrecision = "fp32"
    """Precision of the forward pass; part of the layer's identity."""
    batch_size: Count | None = None
    """Images per forward pass; a batch never crosses a shard. none: 32 on a CPU, found by trying on a GPU and kept."""
    seed: int = 0
    """Seed of random weights, where no weights are named."""


class CacheSettings(Settings):
    """Stage one: sources -> views -> teacher -> store."""

    source: str | None = None
    """Default source; `phantom` is the built-in one."""
    phantom: PhantomSettings = PhantomSettings()
    image_size: Annotated[int, Field(ge=16, le=2048, multiple_of=2)] = 224
    """Edge S of the stored square pixels."""
    views: ViewSettings = ViewSettings()
    preprocess: PreprocessSettings = PreprocessSettings()
    precision: LatentPrecision = "fp16"
    """Stored precision of latents."""
    rows_per_shard: Annotated[int, Field(ge=1, le=65536)] = 512
    """Rows in a shard: the unit of work, commit and repair. A store keeps the value it was created with."""
    seed: int = 0
    """Seed of the views."""
    on_error: Literal["stop", "skip"] = "stop"
    """Unreadable source: stop and name it, or record it with its reason and go on."""
    test_fraction: Fraction = 0.0
    """Share of groups, by hash, that the scan marks `test` in datasets that come without a test split; 0 marks none."""
    max_frames_per_source: Count | None = None
    """Take at most this many frames of a file, evenly spaced; none: all."""
    decode_processes: Count | None = None
    """Child processes that decode sources; none: half the cores, at most 8."""
    hash_paths: bool = False
    """Name sources and groups by hashes in store, logs and reports: paths may hold names of patients."""
    teacher: TeacherSettings | None = None


class MaskSettings(Settings):
    """Multiblock masks [paper: masks, USrc-JEPA for `regions`]."""

    target_blocks: Count = 4
    """Target blocks per image."""
    target_scale: Range = (0.075, 0.125)
    """Area of a target block as a share of the patch grid."""
    target_aspect: Range = (0.75, 1.5)
    """Height over width of a target block."""
    context_scale: Range = (0.85, 1.0)
    """Area of the context block as a share of the patch grid; its aspect is 1."""
    min_patches: Count = 10
    """tau: a block is drawn again until at least this many of its patches are kept."""
    regions: bool = False
    """USrc-JEPA: keep only patches that touch the scan, in context and targets alike."""
    tries: Count = 20
    """Times an image is drawn anew when its context is too small; one that never suffices is reported."""


class AugmentSettings(Settings):
    """Photometric noise on the student's input only; geometry is cached. Strengths are ours: the paper names none."""

    blur_probability: Fraction = 0.2
    """Probability that an image is blurred."""
    blur_sigma: Range = (0.1, 1.5)
    """Standard deviation of the Gaussian, pixels."""
    speckle_probability: Fraction = 0.2
    """Probability that an image gets artificial speckle."""
    speckle_strength: Range = (0.05, 0.2)
    """Standard deviation of the multiplicative noise, share of intensity."""
    contrast_probability: Fraction = 0.2
    """Probability that an image's contrast is changed."""
    contrast_factor: Range = (0.7, 1.3)
    """Factor on the distance from the image's mean intensity."""


class StudentSettings(Settings):
    """The encoder that is trained, from random weights."""

    architecture: str = "vit_base_patch16_224"
    """timm ViT name."""
    patch_size: Count | None = None
    """Patch edge in pixels, where it differs from the architecture's own."""
    depth: Count | None = None
    """Transformer blocks, where they differ from the architecture's own."""
    channels: Literal[1, 3] = 3
    """Input channels; grey pixels are repeated to three."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted per channel from pixels scaled to [0, 1]; one channel uses the first."""
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    """Divides per channel after the mean is taken off."""


class PredictorSettings(Settings):
    """Narrow ViT from context tokens and mask tokens to the teacher's latents."""

    depth: Count = 12
    """Transformer blocks [paper: 12]."""
    dim: Annotated[int, Field(ge=16, multiple_of=4)] = 384
    """Width [paper: 384]."""
    heads: Count = 12
    """Attention heads; not stated in the paper, I-JEPA uses the encoder's."""
    joint: bool = False
    """Predict all target blocks of an image in one sequence, where they see each other, instead of one by one."""


class TrainSettings(Settings):
    """Stage two: store -> masks -> student + predictor -> encoder."""

    teacher: str | None = None
    """Name of the latents layer; none: the store's only one."""
    targets: Literal["cached", "online"] = "cached"
    """Latents from the store, or from the teacher run in the loop on the same pixels."""
    objective: Literal["latents", "pixels"] = "latents"
    """What is predicted at masked places: the teacher's latents, or the patches' own normalised pixels: the first
    stage of SALT, whose encoder is then a teacher like any other. `pixels` needs no latents in the store."""
    pixel_norm: Literal["patch", "none"] = "patch"
    """Of `objective: pixels`: each patch brought to mean 0 and variance 1 over its pixels (MAE), or grey levels as they
    are, which `target_norm: standardised` then brings to one scale over the data."""
    pixel_cell: Count = 1
    """Of `objective: pixels`: side in pixels of the square cells whose mean grey levels are predicted, a divisor of the
    patch's side; 1: single pixels. Speckle can't be predicted, and cells larger than its grain leave it out."""
    student: StudentSettings = StudentSettings()
    predictor: PredictorSettings = PredictorSettings()
    masks: MaskSettings = MaskSettings()
    augment: AugmentSettings = AugmentSettings()
    loss: Literal["smooth_l1", "l1", "l2", "cosine"] = "smooth_l1"
    """Per-element loss [paper: smooth L1]; cosine: one minus the cosine of each patch."""
    beta: Positive = 1.0
    """Where smooth L1 turns linear; not stated in the paper, torch's default."""
    target_norm: Literal["none", "layer", "standardised", "whitened"] = "none"
    """Targets as they are; each token normalised over its channels (I-JEPA's code does, the paper does not say); each
    channel standardised by its mean and deviation over a sample of training frames; or whitened by the covariance of
    the channels there, so that every direction in which the teacher's tokens differ counts alike."""
    batch_size: Count = 128
    """Images per step, over all ranks."""
    accumulate: Count = 1
    """Parts that a rank computes its share of a batch in, one after the other, for want of memory."""
    epochs: Count = 100
    """Passes over the balanced sample [paper: 100]."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 10
    """Epochs of linear warmup [paper: 10]."""
    lr_start: Positive = 5e-6
    """Learning rate of the first step."""
    lr: Positive = 5e-5
    """Peak learning rate, at the end of the warmup."""
    lr_final: Positive = 5e-7
    """Learning rate of the last step."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.04
    """At the first step; cosine to the final value. Never on biases and norms."""
    weight_decay_final: Annotated[float, Field(ge=0)] = 0.4
    """At the last step [paper: 0.4]."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """AdamW's; not stated in the paper, torch's default as in I-JEPA's code."""
    clip: Positive | None = None
    """Largest gradient norm; none: no clipping."""
    compute: ComputePrecision = "bf16"
    """Autocast precision on a GPU; a CPU always computes in fp32."""
    compile: bool = False
    """Compile student and predictor (torch.compile, dynamic shapes): slower to start, faster afterwards."""
    recompute: bool = False
    """Activation checkpointing: blocks are computed again in the backward pass, for want of memory."""
    seed: int = 0
    """Seed of weights, order, masks and augmentation."""
    dataset_cap: Count = 50_000
    """N_t: frames drawn from one dataset in an epoch, at most [paper: 50,000]."""
    validation_fraction: Fraction = 0.05
    """Groups whose hash lies under this share are never trained on [paper: 5 %]."""
    exclude_splits: tuple[str, ...] = ("test",)
    """Rows of these splits take part neither in training nor in validation."""
    knn_every: Annotated[int, Field(ge=0)] = 10
    """Epochs between k-NN probes of the encoder on held-out groups, where frames have labels; 0: never."""
    explosion: Annotated[float, Field(gt=1)] | None = 20.0
    """Stop when a loss is not below this many times the median of the last 100; none: only when it is not finite."""
    tensorboard: bool = False
    """Write TensorBoard events into the run's folder as well (pip install 'usjepa[tensorboard]')."""
    checkpoint_minutes: Positive = 10.0
    """Wall-clock time between checkpoints; one is written at every epoch's end as well."""
    read_threads: Count = 2
    """Threads that read the store."""

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainSettings:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs}) must be less than epochs ({self.epochs})")
        return self

    @model_validator(mode="after")
    def _pixels_ask_no_teacher(self) -> TrainSettings:
        if self.objective == "pixels" and (self.targets == "online" or self.teacher is not None):
            raise ValueError("objective: pixels has no teacher: leave out targets and teacher")
        return self


class EvaluateSettings(Settings):
    """Frozen encoders, probes and the report [paper: linear probing table]."""

    seeds: Count = 5
    """Probes trained per (encoder, task)."""
    lr: Positive = 1e-3
    """Learning rate of a probe at its first step; cosine to zero [paper: 1e-3]."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """AdamW's, of a probe [paper: 1e-4]."""
    batch_size: Count = 32
    """Feature vectors per probe step."""
    epochs: Count = 150
    """Most epochs of a probe."""
    patience: Count = 15
    """Epochs without a better validation loss before a probe stops."""
    neighbours: Count = 20
    """k of k-NN."""
    pooling: Pooling = "mean"
    """How an encoder's patch tokens become the one vector that probes see [the paper doesn't say]: their mean; weighed
    by how much of each patch lies in the scan's region; with the maximum beside it."""
    encode_batch_size: Count = 64
    """Images per forward pass when features are computed."""
    validation_fraction: Fraction = 0.15
    """Share of the training groups of a task used for early stopping, by hash of the group."""
    test_fraction: Fraction = 0.25
    """Share of groups tested on, by hash, where a task gives no split."""
    baselines: tuple[Literal["teacher", "random", "pixels", "hog"], ...] = ("teacher", "random", "pixels", "hog")
    """What is scored beside the student."""
    random_seed: Annotated[int, Field(ge=0)] = 0
    """Which draw of random weights the baseline has; results over training seeds want as many draws of it."""
    bootstrap: Annotated[int, Field(ge=0)] = 10000
    """Draws of whole test groups behind the 95 % intervals and the paired differences; 0: none. With 2,000 the smallest
    p is 0.001, which no correction for 50 comparisons survives."""
    few_shot: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.01, 0.05, 0.1, 0.5)
    """Shares of the training labels that probes are trained on as well, stratified by class [paper: 1, 5, 10, 50 %]."""
    corruptions: tuple[Corruption, ...] = ("blur", "contrast", "speckle", "gain", "attenuation", "shadow", "jpeg")
    """What is done to test frames, at three strengths, for clean-trained probes [paper: blur, contrast, speckle]."""
    corrupted_frames: Count | None = None
    """About how many test frames are tested corrupted, drawn class by class; none: all."""
    attentive: bool = False
    """Train attentive probes on patch tokens as well. Costs minutes and, for a ViT-B, 0.6 MB of disk a frame."""
    attentive_frames: Count = 1000
    """About how many training frames attentive probes see, at most, drawn class by class; validation frames a quarter
    of that. Their tokens lie in memory."""

    @model_validator(mode="after")
    def _named_once(self) -> EvaluateSettings:
        for name in ("few_shot", "corruptions", "baselines"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names something twice")
        return self


class Recipe(Settings):
    """One entry of `pipelines.yaml`."""

    description: str = ""
    """One line on what the recipe is for."""
    cache: CacheSettings = CacheSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
