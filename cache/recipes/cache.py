"""Define the `cache:` section of a recipe: sources, views, preprocessing, teacher and store.

Defaults follow US-JEPA (arXiv 2602.19322) where the paper specifies them; docs/method.md lists what it leaves open.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from usjepa.cache.recipes.base import ComputePrecision, Count, Fraction, Positive, Range, Settings

LatentPrecision = Literal["fp32", "fp16", "int8"]


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
