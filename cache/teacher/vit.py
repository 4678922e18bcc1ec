"""Run a timm vision transformer as a frozen teacher.

Prefix tokens (class, registers) are dropped; patch tokens come row-major over the grid. The input derivation (scale,
grey repeated, resize, mean and std) is part of the identity: a wrong normalisation is another teacher.

Block n of N is the model after n blocks: 1 is what the first block gives, N what the last gives. The model's final
normalisation, where `norm` asks for it, is applied to whichever block's tokens. So block N has the very numbers of a
teacher without `block`, which takes the last, though the two are different layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from usjepa.cache.errors import UsageError
from usjepa.cache.recipes.marks import hard_values
from usjepa.cache.teacher.fitting import fit
from usjepa.cache.teacher.model_input import RESIZE, ModelInput
from usjepa.cache.teacher.teacher import Alone, ModuleTeacher, Sharing
from usjepa.cache.teacher.timm_models import gives_maps, is_vit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.cache import TeacherSettings
    from usjepa.cache.teacher.fitting import Fitted
    from usjepa.cache.teacher.teacher import Pass

_INPUT_VERSION = 1
_RESOLVED = {
    "name", "weights", "key", "seed", "patch_size", "depth", "args", "positions", "blocks", "image_size", "mean", "std",
}  # fmt: skip
"""Hard fields that count by what they become: the layer's name, a hash of weights, arguments for timm, the input."""


@dataclass(frozen=True)
class ViT(ModuleTeacher):
    """A timm vision transformer as a teacher: the patch tokens of its last block, or of an earlier one."""

    block: int | None = None
    """Tokens are taken after this many blocks; none: after the last."""
    norm: bool = True
    """Apply the model's final normalisation."""

    @property
    def count(self) -> int:
        """Blocks that the model has."""
        return len(self.model.blocks)  # type: ignore[arg-type]

    def tokens(self, x_BCSS: torch.Tensor) -> torch.Tensor:
        """Return patch tokens [B, T, D] after the chosen block."""
        return self.depths(x_BCSS, [self.block or self.count])[0]

    def depths(self, x_BCSS: torch.Tensor, blocks: Sequence[int]) -> list[torch.Tensor]:
        """Return patch tokens [B, T, D] after each of some blocks, ascending."""
        return _intermediates(self.model, x_BCSS, blocks, self.norm, "NLC")


@dataclass(frozen=True)
class Maps(ModuleTeacher):
    """Another timm model as a teacher: the places of its last map of features, or of an earlier stage's, row by row."""

    block: int | None = None
    """Which stage's map (of SAM: which block's), counted from 1; none: the last."""
    norm: bool = True
    """Apply the model's final normalisation, if it has one for maps; SAM's is its neck."""

    def tokens(self, x_BCSS: torch.Tensor) -> torch.Tensor:
        """Return the map's places [B, H W, D]."""
        return self.depths(x_BCSS, [self.block or _stages(self.model)])[0]

    def depths(self, x_BCSS: torch.Tensor, blocks: Sequence[int]) -> list[torch.Tensor]:
        """Return the places [B, H W, D] of each of some stages' maps, ascending."""
        found = _intermediates(self.model, x_BCSS, blocks, self.norm, "NCHW")
        return [map_BDHW.flatten(2).transpose(1, 2) for map_BDHW in found]


@dataclass(frozen=True)
class Depths:
    """The pass of several blocks of one timm model: those up to the deepest that is wanted are computed, once."""

    model: ViT | Maps
    blocks: tuple[int, ...]
    """Ascending."""
    shapes: tuple[tuple[int, tuple[int, int]], ...]
    """Width and grid of each."""

    @property
    def device(self) -> torch.device:
        """The model's."""
        return self.model.device

    @cached_property
    def teachers(self) -> tuple[Sharing, ...]:
        """One for each block, named after model and block, as `urfm.8`."""
        model, named = self.model, zip(self.blocks, self.shapes, strict=True)
        # What is compiled for one set of blocks may be rounded otherwise than for another.
        more: dict[str, Json] = {"pass": list(self.blocks)} if model.compiled else {}
        return tuple(
            Sharing(
                f"{model.name}.{block}", grid, dim, {**model.identity, "block": block, **more}, model.compute,
                model.warning, place, self,
            )
            for place, (block, (dim, grid)) in enumerate(named)
        )  # fmt: skip

    def __call__(self, pixels_BCSS: torch.Tensor, wanted: Sequence[int] | None = None) -> list[torch.Tensor]:
        """Return the latents of some of its blocks, by their places, each float32 [B, T, D], without gradient."""
        places = range(len(self.blocks)) if wanted is None else wanted
        if not places:
            return []
        with torch.no_grad(), self.model.precision():
            found = self._forward(self.model.given(pixels_BCSS), places)
        return [latents_BTD.to(torch.float32) for latents_BTD in found]

    def _forward(self, x_BCSS: torch.Tensor, places: Sequence[int]) -> list[torch.Tensor]:
        if not self.model.compiled:
            return self.model.depths(x_BCSS, [self.blocks[place] for place in places])
        found = self._compiled(x_BCSS)
        return [found[place] for place in places]

    @cached_property
    def _compiled(self) -> Callable[[torch.Tensor], list[torch.Tensor]]:
        return torch.compile(lambda x_BCSS: self.model.depths(x_BCSS, self.blocks))


def _stages(model: torch.nn.Module) -> int:
    return len(model.feature_info)  # type: ignore[arg-type]


def _intermediates(
    model: torch.nn.Module, x_BCSS: torch.Tensor, blocks: Sequence[int], norm: bool, form: str
) -> list[torch.Tensor]:
    forward: Callable[..., list[torch.Tensor]] = model.forward_intermediates  # type: ignore[assignment]
    indices = [block - 1 for block in blocks]
    return forward(x_BCSS, indices=indices, norm=norm, stop_early=True, output_fmt=form, intermediates_only=True)


def load_timm(settings: TeacherSettings, pixel_size: int, device: torch.device) -> Pass:
    """Build a timm model as a teacher, or as one for each of `blocks`; arguments and errors as of `load_vit`."""
    made = load_vit(settings, pixel_size, device)
    if settings.blocks is None:
        return Alone(made)
    blocks = tuple(sorted(settings.blocks))
    if isinstance(made, ViT):
        return Depths(made, blocks, tuple((made.dim, made.grid) for _ in blocks))
    black = torch.zeros(1, 1, pixel_size, pixel_size, dtype=torch.uint8)
    with torch.no_grad(), made.precision():
        maps = _intermediates(made.model, made.given(black), blocks, made.norm, "NCHW")
    return Depths(made, blocks, tuple(_shape(map_BDHW, settings, made.input.size) for map_BDHW in maps))


def load_vit(settings: TeacherSettings, pixel_size: int, device: torch.device) -> ViT | Maps:
    """Build a timm model as one teacher; where `blocks` are asked for, of the deepest.

    Args:
        settings: its architecture, weights, layer and normalisation.
        pixel_size: S, edge of the stored pixels.
        device: where it computes.

    Raises:
        UsageError: unknown architecture, missing weights, a block it does not have, or a precision the device lacks.
        TeacherError: the checkpoint does not fit.
        DamageError: the weights are an exported encoder's, and not as they were exported.
    """
    if settings.compute.startswith("fp16") and device.type == "cpu":
        raise UsageError(f"cache.teacher.compute={settings.compute} needs a GPU. Use fp32 or bf16 on a CPU.")
    edge = settings.image_size or pixel_size
    fitted = fit(settings, edge)
    model = fitted.model
    _check_fits(model, settings, edge)
    block = settings.block or max(settings.blocks or (0,)) or None
    given = ModelInput(edge, _channels(fitted, settings), settings.mean, settings.std)
    hard = {name: value for name, value in hard_values(settings, "latents").items() if name not in _RESOLVED}
    identity: dict[str, Json] = {
        **hard,
        **fitted.more,
        "model_args": fitted.args,
        "weights": fitted.weights,
        "tokens": "patch",
        "input": {
            "version": _INPUT_VERSION,
            "size": edge,
            "resize": RESIZE if edge != pixel_size else "none",
            "scale": "1/255",
            "mean": list(given.mean),
            "std": list(given.std),
        },
    }
    if is_vit(model):
        rows, columns = (int(n) for n in model.patch_embed.grid_size)  # type: ignore[union-attr]
        dim = int(model.num_features)  # type: ignore[arg-type]
    else:
        dim, (rows, columns) = _tried(model, given.channels, settings, block, edge)
    kind = ViT if is_vit(model) else Maps
    return kind(
        settings.name,
        model,
        given,
        identity,
        (rows, columns),
        dim,
        device,
        settings.compute,
        fitted.note,
        settings.compile,
        block=block,
        norm=settings.norm,
    )


def _tried(
    model: torch.nn.Module, channels: int, settings: TeacherSettings, block: int | None, edge: int
) -> tuple[int, tuple[int, int]]:
    """Return width and grid of the map that a model gives, from one black image."""
    black, blocks = torch.zeros(1, channels, edge, edge), [block or _stages(model)]
    try:
        with torch.no_grad():
            (found,) = _intermediates(model.eval(), black, blocks, settings.norm, "NCHW")
    except (RuntimeError, AssertionError, TypeError, ValueError, IndexError) as error:
        if settings.norm and "norm" in str(error):
            raise UsageError(
                f"cache.teacher.norm=true: {settings.architecture} can't normalise its maps of features ({error}). "
                "--set cache.teacher.norm=false takes them as they are."
            ) from error
        raise UsageError(
            f"{settings.architecture}: gives no map of features for images of {edge} x {edge} ({error}). Set "
            "cache.teacher.image_size to a size it takes."
        ) from error
    return _shape(found, settings, edge)


def _shape(map_BDHW: torch.Tensor, settings: TeacherSettings, edge: int) -> tuple[int, tuple[int, int]]:
    """Return width and grid of a map of features; UsageError where its places are no equal parts of the input."""
    _, dim, rows, columns = map_BDHW.shape
    if edge % rows or edge % columns:
        raise UsageError(
            f"cache.teacher.image_size={edge}: {settings.architecture} gives a map of {rows} x {columns}, which does "
            "not divide it evenly, so that latents would lie beside what they show. Take a multiple of its stride."
        )
    return dim, (rows, columns)


def _check_fits(model: torch.nn.Module, settings: TeacherSettings, edge: int) -> None:
    """Refuse a model that gives no tokens on a grid, an input that it would cut, and a block that it does not have."""
    if not is_vit(model) and not gives_maps(model):
        raise UsageError(
            f"cache.teacher.architecture={settings.architecture}: gives neither patch tokens nor maps of features."
        )
    embed = getattr(getattr(model, "patch_embed", None), "proj", None)
    kernel = getattr(embed, "kernel_size", None)
    if isinstance(kernel, tuple) and kernel == getattr(embed, "stride", None) and edge % kernel[0]:
        raise UsageError(
            f"cache.teacher.image_size={edge}: {settings.architecture} has patches of {kernel[0]} pixels, and the rest "
            f"would be cut off, so that latents lie beside what they show. Take a multiple of {kernel[0]}."
        )
    count = len(model.blocks) if is_vit(model) else _stages(model)  # type: ignore[arg-type]
    for field, block in (("block", settings.block), ("blocks", max(settings.blocks or (0,)))):
        if block is not None and block > count:
            kind = "blocks" if hasattr(model, "blocks") else "stages"
            raise UsageError(f"cache.teacher.{field}={block}: {settings.architecture} has {count} {kind}.")


def _channels(fitted: Fitted, settings: TeacherSettings) -> int:
    """Return the channels that the model takes; UsageError where the normalisation has another number of them."""
    channels = int(fitted.args.get("in_chans", 3))
    if channels not in (1, 3):
        raise UsageError(
            f"{settings.architecture}: takes {channels} channels, and a frame has 1 (grey) or 3 (colour). Write an "
            "adapter that makes its channels of these: docs/how-to/add-a-teacher.md."
        )
    if channels != len(settings.mean):
        raise UsageError(
            f"cache.teacher.mean: {len(settings.mean)} values, and the model takes {channels} "
            f"{'channel' if channels == 1 else 'channels'}. Give mean and std one value per channel."
        )
    return channels
