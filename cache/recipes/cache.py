"""Define the `cache:` section of a recipe: sources, views, preprocessing, teacher and store.

Defaults follow US-JEPA (arXiv 2602.19322) where the paper specifies them; docs/method.md lists what it leaves open.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

from usjepa.cache.coding.form import Form, LatentPrecision
from usjepa.cache.recipes.base import (
    Count,
    Depth,
    Edge,
    Fraction,
    ModelArguments,
    Positive,
    Processes,
    Seed,
    Settings,
    ShareRange,
    TeacherPrecision,
    known_patch,
    misfit,
)
from usjepa.cache.recipes.marks import Hard, NoEffect, OnlyWith, Soft

_LayerName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
Percent = Annotated[float, Field(ge=0, le=100)]


def _apart(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] >= pair[1]:
        raise PydanticCustomError("reversed", "the first number must be below the second")
    return pair


def _rule_of_groups(rule: str) -> str:
    """Return a rule of groups; an expression without parentheses is more likely a misspelt word."""
    if rule in ("auto", "file", "folder", "dicom-patient"):
        return rule
    try:
        groups = re.compile(rule).groups
    except re.error as error:
        raise PydanticCustomError("group", "is no regular expression ({reason})", {"reason": str(error)}) from error
    if not groups:
        raise PydanticCustomError(
            "group",
            "must be auto, file, folder, dicom-patient, or a regular expression with parentheses around what names the "
            "group, such as (patient\\d+)",
        )
    return rule


def _per_channel(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) not in (1, 3):
        raise PydanticCustomError("channels", "must have one value per channel of the input, 1 or 3")
    return values


_FIELDS_OF_THEIR_OWN = {
    "img_size": "cache.teacher.image_size",
    "patch_size": "cache.teacher.patch_size",
    "depth": "cache.teacher.depth",
    "checkpoint_path": "cache.teacher.weights",
    "pretrained": "--teacher NAME.TAG",
}


def _distinct(blocks: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if blocks is not None and not 0 < len(set(blocks)) == len(blocks):
        raise PydanticCustomError("blocks", "must name one block or more, each once")
    return blocks


def _told_apart(args: ModelArguments) -> ModelArguments:
    """Refuse what has a field of its own, and what has no place in a teacher."""
    for name in args:
        if name in _FIELDS_OF_THEIR_OWN:
            raise PydanticCustomError("elsewhere", f"{name} is said by {_FIELDS_OF_THEIR_OWN[name]}")
        if name.startswith(("pretrained", "num_classes", "features_only", "cache_dir", "scriptable", "exportable")):
            raise PydanticCustomError("no_part", f"{name} is no part of a teacher's model")
    return args


class PhantomSettings(Settings):
    """The built-in simulated ultrasound source."""

    patients: Annotated[Count, Soft("rows")] = 60
    """Number of patients (groups); frames of one share background, gain and geometry."""
    frames_per_patient: Annotated[Count, Hard("rows")] = 20
    """Frames per patient, with independent lesions and speckle."""
    size: Annotated[int, Field(ge=64, le=1024), Hard("rows")] = 224
    """Height and width of a frame in pixels, including the interface around the scan."""
    seed: Annotated[Seed, Hard("rows")] = 0
    """Seed of the whole source: the same seed gives the same bytes."""


class ViewSettings(Settings):
    """Fixed geometric views of each frame; view 0 is the plain frame."""

    count: Annotated[Count, Hard("pixels")] = 1
    """K, the views stored per frame."""
    crop_scale: Annotated[ShareRange, Hard("pixels")] = (0.6, 1.0)
    """Range of a crop's area as a share of the frame [paper: 0.6 to 1.0]; views 1 to K-1 only."""
    horizontal_flip: Annotated[Fraction, Hard("pixels")] = 0.5
    """Probability that a view (not view 0) is mirrored left-right."""
    vertical_flip: Annotated[Fraction, Hard("pixels")] = 0.5
    """Probability that a view (not view 0) is mirrored top-bottom."""


class PreprocessSettings(Settings):
    """Preparation of a frame before its views are cut [paper: preprocessing]."""

    grey: Annotated[bool, Hard("pixels")] = True
    """Convert to one grey channel; false keeps three colour channels."""
    inpaint_below: Annotated[Fraction, Hard("pixels")] = 0.05
    """Inpaint coloured marks that cover less than this share of the frame; 0: never."""
    percentiles: Annotated[tuple[Percent, Percent], AfterValidator(_apart), Hard("pixels")] = (2.0, 98.0)
    """Percentiles of intensity inside the scan region that are mapped to 0 and 255."""
    deidentify: Annotated[bool, Hard("pixels")] = True
    """Set every stored pixel outside the scan region to 0, so that burned-in names and dates never reach the store."""
    text: Annotated[Literal["stop", "skip", "inpaint", "keep"], Hard("pixels"), OnlyWith("deidentify")] = "stop"
    """With `deidentify`, on a scan region that keeps marks that look like text: stop and name the frame, leave it out
    and record why, paint the marks over, or keep them. All are counted and named."""
    whole: Annotated[Literal["stop", "skip", "keep"], Soft("rows"), OnlyWith("deidentify")] = "stop"
    """With `deidentify`, on a frame in which no scan region was found, so that all of the screen would be stored: stop
    and name it, leave it out and record why, or keep it. All are counted and named; the phantom's are kept."""


class TeacherSettings(Settings):
    """The frozen encoder whose patch tokens are stored as latents."""

    name: Annotated[_LayerName, Hard("latents", "evaluation")] = "teacher"
    """Name of its layer in the store: `latents/<name>`."""
    architecture: Annotated[str, Hard("latents", "evaluation")] = "vit_base_patch16_224"
    """timm model name, name of an installed adapter, or `module:function` of one (docs/how-to/add-a-teacher.md)."""
    weights: Annotated[str | None, Hard("latents", "evaluation")] = None
    """Checkpoint file (safetensors or torch, of which only tensors are loaded) or folder of a run; null: random."""
    key: Annotated[str | None, Hard("latents", "evaluation", when_set=True)] = None
    """Which set of a checkpoint's weights to take, as `target_encoder`; null: an average before others."""
    patch_size: Annotated[Edge | None, Hard("latents", "evaluation")] = None
    """Edge of a patch in pixels; null: the architecture's."""
    depth: Annotated[Depth | None, Hard("latents", "evaluation")] = None
    """Number of transformer blocks; null: the architecture's."""
    args: Annotated[ModelArguments, AfterValidator(_told_apart), Hard("latents", "evaluation", when_set=True)] = {}
    """Arguments for timm beside these fields, as `{num_heads: 12}`, for what a file can't tell; also `eps`."""
    positions: Annotated[
        Literal["antialiased", "plain", "offset"] | None, Hard("latents", "evaluation", when_set=True)
    ] = None
    """How positions of another grid are resampled; null: antialiased, as timm does; offset: as DINOv2's hub does."""
    block: Annotated[Depth | None, Hard("latents", "evaluation")] = None
    """Take tokens after this many transformer blocks (1: of the first); null: after the last."""
    blocks: Annotated[
        tuple[Depth, ...] | None, AfterValidator(_distinct), Hard("latents", "evaluation", when_set=True)
    ] = None
    """Take tokens after each of these blocks in one forward pass, as `[4, 8, 12]`: a layer for each, `latents/NAME.4`
    and so on, with the values that `block: 4` gives. More of them can join a store later. null: one layer, of `block`.
    """
    norm: Annotated[bool, Hard("latents", "evaluation")] = True
    """Apply the model's final normalisation to the tokens."""
    image_size: Annotated[Edge | None, Hard("latents", "evaluation")] = None
    """Edge of the teacher's input in pixels; null: that of the stored pixels."""
    mean: Annotated[tuple[Fraction, ...], AfterValidator(_per_channel), Hard("latents", "evaluation")] = (
        0.485,
        0.456,
        0.406,
    )
    """Per channel, subtracted from pixels scaled to [0, 1]."""
    std: Annotated[tuple[Positive, ...], AfterValidator(_per_channel), Hard("latents", "evaluation")] = (
        0.229,
        0.224,
        0.225,
    )
    """Per channel, divides what is left after the mean."""
    compute: Annotated[TeacherPrecision, Hard("latents", "evaluation")] = "fp32"
    """Precision of the forward pass; bf16 and fp16 by autocast, bf16-pure and fp16-pure with weights in half too."""
    compile: Annotated[bool, Hard("latents", "evaluation", when_set=True)] = False
    """Compile the model (torch.compile): faster after a minute; rounding is another one, so it is another layer."""
    batch_size: Annotated[Count | None, Soft("latents"), Hard("evaluation")] = None
    """Images per forward pass, within one shard; null: 32 on a CPU, found by trial on a GPU and kept for the store."""
    seed: Annotated[Seed, Hard("latents", "evaluation")] = 0
    """Seed of random weights; without effect when `weights` names a checkpoint."""

    _stated: frozenset[str] = PrivateAttr(default=frozenset())

    @property
    def stated(self) -> frozenset[str]:
        """Fields that the user named for this call (`--set cache.teacher.mean=...`), not the recipe."""
        return self._stated

    def __hash__(self) -> int:
        # `args` is a dict, and settings are keys of caches.
        return hash(self.model_dump_json())

    def with_stated(self, names: frozenset[str]) -> TeacherSettings:
        """Return these settings, marked as stated in some fields."""
        marked = self.model_copy()
        marked._stated = names
        return marked

    @model_validator(mode="after")
    def _one_block_or_several(self) -> TeacherSettings:
        if self.block is not None and self.blocks is not None:
            raise misfit("blocks", list(self.blocks), f"names the blocks: leave out block ({self.block})")
        return self

    @model_validator(mode="after")
    def _one_normalisation_per_channel(self) -> TeacherSettings:
        if len(self.mean) != len(self.std):
            raise misfit("std", self.std, f"must have as many values as mean, which has {len(self.mean)}")
        return self


class CacheSettings(Settings):
    """Stage one: sources to views, and views through the teacher into a store."""

    source: Annotated[str | None, Soft("rows")] = None
    """Default source: a path, or `phantom` for the built-in one; null: --source must name one."""
    phantom: PhantomSettings = PhantomSettings()
    image_size: Annotated[int, Field(ge=16, le=2048, multiple_of=2), Hard("pixels")] = 224
    """S, the edge of the stored square images in pixels."""
    views: ViewSettings = ViewSettings()
    preprocess: PreprocessSettings = PreprocessSettings()
    precision: Annotated[LatentPrecision, Hard("latents")] = "fp16"
    """Stored precision of latents: int8 takes half of fp16, int4 a quarter (docs/smaller.md)."""
    axes: Annotated[Count | None, Hard("latents", when_set=True)] = None
    """Store latents on so many leading principal axes of a sample instead of on all channels; readers get all channels
    back. null: all channels. About 0.8 of the channels with int4 take a fifth of fp16."""
    rows_per_shard: Annotated[int, Field(ge=1, le=65536), Soft("latents")] = 512
    """Rows per shard, the unit of work, commit and repair. A store keeps the value it was created with."""
    seed: Annotated[Seed, Hard("pixels")] = 0
    """Seed of the views' crops and flips."""
    group: Annotated[str, AfterValidator(_rule_of_groups), Soft("rows")] = "auto"
    """What is never torn apart between training and test: `auto` (as the data names patients; a DICOM's patient; else
    the file), `file`, `folder`, `dicom-patient`, or a regular expression whose parentheses find it in the path."""
    layout: Annotated[str, Soft("rows")] = "auto"
    """How SOURCE lies on disk: `auto` (known layouts are recognised), `folders` (folder names alone), or a layout's
    name."""
    on_error: Annotated[Literal["stop", "skip"], Soft("rows")] = "stop"
    """On an unreadable source: stop and name it, or skip it and record the reason."""
    on_blank: Annotated[Literal["keep", "skip", "stop"], Soft("rows")] = "keep"
    """On a frame of one colour, of fewer than 8 levels, or whose scan region covers under 2 %: keep it, leave it out
    and record why, or stop and name it. All are counted and named."""
    test_fraction: Annotated[Fraction, Soft("rows")] = 0.0
    """Share of groups, by hash, that the scan marks `test` in datasets without a test split of their own; 0: none."""
    max_frames_per_source: Annotated[Count | None, Soft("rows")] = None
    """Most frames taken from one file, evenly spaced among those that differ by `min_change`; null: all."""
    min_change: Annotated[int, Field(ge=0, le=256), Soft("rows")] = 0
    """Of a clip, take only frames that differ from the last one taken in at least so many of the 256 bits of a
    perceptual hash (docs/rows.md): 16 takes about four of ten; 0: all. Stills are always taken."""
    hdf5: Annotated[tuple[str, ...] | None, Soft("rows")] = None
    """Data sets to take from HDF5 files, by name or glob (`bmode`, `*/images`); null: those that look like images."""
    follow_links: Annotated[bool, Soft("rows")] = False
    """Follow symbolic links that lead out of SOURCE, to files and folders (the Hugging Face cache, git-annex, DataLad);
    false: they are refused."""
    decode_processes: Annotated[Processes | None, NoEffect()] = None
    """Child processes that decode sources, of each process that builds; null: a scan takes as many as cores, a build
    half, at most 8, and workers of Dask on one machine share that. A process of several takes one more for clips whose
    rows lie in several shards."""
    decode_timeout: Annotated[float, Field(ge=1, le=86400), NoEffect()] = 300.0
    """Seconds without a sign of life (a frame decoded, a piece hashed) after which a file counts as unreadable."""
    hash_paths: Annotated[bool, Soft("rows")] = False
    """Name sources and groups by hashes in store, logs and reports, because paths may contain names of patients."""
    teacher: TeacherSettings | None = None

    @property
    def form(self) -> Form:
        """How latents are stored."""
        return Form(self.precision, self.axes)

    @model_validator(mode="after")
    def _teacher_sees_whole_patches(self) -> CacheSettings:
        teacher = self.teacher
        patch = None if teacher is None else known_patch(teacher.architecture, teacher.patch_size)
        if teacher is None or patch is None:
            return self
        own = teacher.image_size
        field, edge = ("image_size", self.image_size) if own is None else ("teacher.image_size", own)
        if edge % patch:
            setting = "architecture" if teacher.patch_size is None else "patch_size"
            raise misfit(field, edge, f"must be a multiple of {patch}, the edge of a patch (teacher.{setting})")
        return self
