"""Load a set of weights into a model strictly, and account for every key.

Wrapping prefixes come off, an MAE decoder and heads are dropped and counted with the reason, and a key that is missing
or left over is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from usjepa.cache.errors import TeacherError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from usjepa.cache.teacher.checkpoints.sets import Tensors

_PREFIXES = ("module.", "model.", "encoder.", "backbone.", "teacher.", "student.", "target_encoder.")
_DECODER = ("decoder", "mask_token")
_HEAD = ("head.", "head_dist.", "fc_norm.", "projector.", "predictor.")
_SHOWN = 10


@dataclass(frozen=True)
class LoadReport:
    """The fate of every key of a checkpoint: loaded, dropped with a reason, or resampled."""

    loaded: tuple[str, ...]
    dropped: dict[str, str] = field(default_factory=dict)
    """Key -> reason."""
    resampled: tuple[str, ...] = ()
    """Position embeddings that were interpolated to another grid."""

    def summary(self) -> str:
        """Return one line for the log."""
        reasons = sorted(set(self.dropped.values()))
        counts = ", ".join(f"{list(self.dropped.values()).count(reason)} {reason}" for reason in reasons)
        resampled = f"; resampled {', '.join(self.resampled)}" if self.resampled else ""
        return f"{len(self.loaded)} tensors loaded" + (f"; dropped {counts}" if counts else "") + resampled


def _stripped(tensors: Tensors, wanted: set[str]) -> Tensors:
    """Return the tensors without wrapping prefixes: one comes off while that makes more keys known to the model."""
    best = tensors
    known = len(wanted & set(best))
    improved = True
    while improved:
        improved = False
        for prefix in _PREFIXES:
            # Keys without the prefix stay under a name no model has, so that they are still accounted for.
            candidate = {
                key.removeprefix(prefix) if key.startswith(prefix) else f"outside {prefix} {key}": tensor
                for key, tensor in best.items()
            }
            inside = sum(key.startswith(prefix) for key in best)
            if inside and (len(wanted & set(candidate)) > known or (known == 0 and inside == len(best))):
                best, known, improved = candidate, len(wanted & set(candidate)), True
                break
    return best


def load_into(model: torch.nn.Module, tensors: Tensors, where: str) -> LoadReport:
    """Load a checkpoint's tensors into a timm model, strictly.

    Args:
        model: built without a head.
        tensors: a set of weights, under the names of its file.
        where: names the checkpoint in messages.

    Raises:
        TeacherError: a key of the model is missing, a key of the checkpoint is left over, or a shape differs.
    """
    wanted = model.state_dict()
    found = _stripped(tensors, set(wanted))
    dropped = {key: reason for key in found if key not in wanted and (reason := _why_dropped(key))}
    kept = {key: tensor for key, tensor in found.items() if key not in dropped}
    resampled = _resample_positions(model, kept, wanted)
    missing = [key for key in wanted if key not in kept]
    unexpected = [key for key in kept if key not in wanted]
    shapes = [
        f"{key}: {list(tensor.shape)} in the file, {list(wanted[key].shape)} in the model"
        for key, tensor in kept.items()
        if key in wanted and tensor.shape != wanted[key].shape
    ]
    problems = _listed("missing", missing) + _listed("unexpected", unexpected) + _listed("of another shape", shapes)
    if problems:
        raise TeacherError(
            f"{where}: does not fit {type(model).__name__} as asked for:\n"
            + "\n".join(problems)
            + "\nIs cache.teacher.architecture (and patch_size) that of the checkpoint?"
        )
    model.load_state_dict(kept, strict=True)
    return LoadReport(tuple(sorted(kept)), dropped, resampled)


def _why_dropped(key: str) -> str:
    bare = key.rsplit(" ", 1)[-1]
    for prefix in _PREFIXES:
        bare = bare.removeprefix(prefix)
    if bare.startswith(_DECODER):
        return "of an MAE decoder"
    if bare.startswith(_HEAD):
        return "of a head"
    return ""


def _resample_positions(model: torch.nn.Module, kept: Tensors, wanted: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Interpolate absolute position embeddings of another grid, as timm does for its own weights."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    stored, target = kept.get("pos_embed"), wanted.get("pos_embed")
    if stored is None or target is None or stored.shape == target.shape or stored.shape[-1] != target.shape[-1]:
        return ()
    prefix = 0 if getattr(model, "no_embed_class", False) else int(getattr(model, "num_prefix_tokens", 0))
    edge = (stored.shape[1] - prefix) ** 0.5
    if edge != int(edge):
        return ()
    grid = list(model.patch_embed.grid_size)  # type: ignore[union-attr, arg-type]
    kept["pos_embed"] = resample_abs_pos_embed(stored.float(), new_size=grid, num_prefix_tokens=prefix)
    return ("pos_embed",)


def _listed(kind: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"  {len(names)} {kind}: {', '.join(names[:_SHOWN])}{more}"]
