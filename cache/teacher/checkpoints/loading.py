"""Load a set of weights into a model strictly, and account for every key.

Wrapping prefixes come off, an MAE decoder and heads are dropped and counted with the reason, and a key that is missing
or left over is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from usjepa.cache.errors import TeacherError
from usjepa.cache.teacher.checkpoints.positions import resampled

if TYPE_CHECKING:
    import torch

    from usjepa.cache.teacher.checkpoints.positions import Positions
    from usjepa.cache.teacher.checkpoints.sets import Tensors

_PREFIXES = ("module.", "model.", "encoder.", "backbone.", "teacher.", "student.", "target_encoder.")
_WRAPPERS = {
    *(prefix.rstrip(".") for prefix in _PREFIXES), "net", "network", "_orig_mod", "_forward_module",
    "_fsdp_wrapped_module",
}  # fmt: skip
"""What may stand before a head or a decoder that lies beside an encoder."""
_HEAD = (
    "head.",
    "head_dist.",
    "fc_norm.",
    "projector.",
    "predictor.",
    "dino_head.",
    "ibot_head.",
    "fc.",
    "classifier.",
)
_FIRST = "patch_embed.proj.weight"
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


def stripped(tensors: Tensors, wanted: set[str]) -> Tensors:
    """Return the tensors without wrapping prefixes: one comes off while that makes more keys known to the model."""
    best = tensors
    known = len(wanted & set(best))
    improved = True
    while improved:
        improved = False
        for prefix in (*_PREFIXES, *_seen_prefix(best)):
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


def _seen_prefix(tensors: Tensors) -> tuple[str, ...]:
    """Return what stands before the patch embedding, if anything: a wrapper of a name that nobody listed."""
    places = [key.removesuffix(_FIRST) for key in tensors if key.endswith(f".{_FIRST}") and " " not in key]
    return tuple(places) if len(places) == 1 else ()


def load_into(model: torch.nn.Module, tensors: Tensors, where: str, positions: Positions | None = None) -> LoadReport:
    """Load a checkpoint's tensors into a timm model, strictly.

    Args:
        model: built without a head.
        tensors: a set of weights, under timm's names, perhaps behind prefixes.
        where: names the checkpoint in messages.
        positions: how positions of another grid are resampled; none: as timm does.

    Raises:
        TeacherError: a key of the model is missing, a key of the checkpoint is left over, or a shape differs.
    """
    wanted = model.state_dict()
    found = stripped(tensors, set(wanted))
    dropped = {key: reason for key, t in found.items() if key not in wanted and (reason := _why_dropped(key, t))}
    kept = {key: tensor for key, tensor in found.items() if key not in dropped}
    fitted = resampled(kept, model, positions)
    missing = [key for key in wanted if key not in kept]
    unexpected = [key for key in kept if key not in wanted]
    shapes = [
        f"{key}: {list(tensor.shape)} in the file, {list(wanted[key].shape)} in the model"
        for key, tensor in kept.items()
        if key in wanted and tensor.shape != wanted[key].shape
    ]
    types = [
        f"{key}: {str(tensor.dtype).removeprefix('torch.')}"
        for key, tensor in kept.items()
        if key in wanted and wanted[key].is_floating_point() and not tensor.is_floating_point()
    ]
    if types:
        raise TeacherError(
            f"{where}: holds whole, truth or complex numbers where a model has floats. Quantised weights mean nothing "
            "without their scales: save the model's own in floats.\n" + "\n".join(_listed("of another type", types))
        )
    problems = _listed("missing", missing) + _listed("unexpected", unexpected) + _listed("of another shape", shapes)
    if problems:
        raise TeacherError(f"{where}: does not fit {type(model).__name__} as asked for:\n" + "\n".join(problems))
    model.load_state_dict(kept, strict=True)
    return LoadReport(tuple(sorted(kept)), dropped, fitted)


def _why_dropped(key: str, tensor: torch.Tensor) -> str:
    components = key.rsplit(" ", 1)[-1].split(".")
    while len(components) > 1 and components[0] in _WRAPPERS:
        components = components[1:]
    bare = ".".join(components)
    if bare.startswith("decoder"):
        return "of an MAE decoder"
    if bare == "mask_token":
        return "of training under a mask"
    if bare.startswith(_HEAD):
        return "of a head"
    if tensor.ndim == 0 and not tensor.is_floating_point():
        return "a counter"  # torch's AveragedModel has one: n_averaged
    return ""


def _listed(kind: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"  {len(names)} {kind}: {', '.join(names[:_SHOWN])}{more}"]
