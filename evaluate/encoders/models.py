"""Use a timm model as an encoder: one pooled vector, or patch tokens, per frame.

Shape suffixes: B frames, C channels, S edge of the stored pixels, H and W rows and columns of patches, D features.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import UsjepaError
from usjepa.cache.frames.prepare import grey_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.reading.batch import Batch
    from usjepa.cache.teacher.model_input import ModelInput

POOLING = "mean of patch tokens"
OWN_POOLING = "the model's own pooling (timm forward_head)"


@dataclass
class ModelEncoder:
    """A timm model. Vision transformers give the mean of their patch tokens, others what their own head would see."""

    name: str
    input: ModelInput
    weights: dict[str, Json]
    """What identifies the weights, the architecture among it."""
    load: Callable[[], torch.nn.Module]
    """Called when features are first computed: those that are kept need no model."""
    device: str
    kind: str = "tokens"
    pooling: str = POOLING
    layers: tuple[str, ...] = ("pixels",)
    _model: torch.nn.Module | None = field(default=None, repr=False)

    @property
    def identity(self) -> dict[str, Json]:
        """Weights, architecture and input."""
        return {"kind": self.kind, "pooling": self.pooling, **self.weights}

    @property
    def given(self) -> str:
        """Size, channels and normalisation of its input."""
        return str(self.input)

    @property
    def model(self) -> torch.nn.Module:
        """The model, in eval mode on its device."""
        if self._model is None:
            self._model = self.load().eval().requires_grad_(False).to(self.device)
        return self._model

    def _given(self, batch: Batch) -> torch.Tensor:
        import torch

        grey = self.input.channels == 1
        return self.input(torch.from_numpy(grey_of(batch.pixels)[:, None] if grey else batch.pixels), self.device)

    def features(self, batch: Batch) -> NDArray[np.float32]:
        """Return one vector per frame, float32 [B, D]."""
        import torch

        model: Any = self.model
        with torch.inference_mode():
            out = model.forward_features(self._given(batch))
            if self.pooling == POOLING:
                pooled = self._after_pooling(out[:, int(model.num_prefix_tokens) :].float().mean(dim=1))
            else:
                pooled = model.forward_head(out, pre_logits=True).float()
        array: NDArray[np.float32] = pooled.cpu().numpy()
        return array

    def _after_pooling(self, pooled_BD: torch.Tensor) -> torch.Tensor:
        # Models that were trained on mean-pooled tokens normalise after the mean.
        norm = getattr(self.model, "fc_norm", None)
        return pooled_BD if norm is None else norm(pooled_BD)

    def normalised(self, pooled_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return pooled tokens, float32 [B, D], as the model's norm behind its pooling makes them, if it has one."""
        import torch

        with torch.inference_mode():
            array: NDArray[np.float32] = self._after_pooling(torch.from_numpy(pooled_BD).to(self.device)).cpu().numpy()
        return array

    def tokens(self, batch: Batch) -> NDArray[np.float32]:
        """Return patch tokens, float32 [B, H, W, D]; UsjepaError where the model has none on a grid."""
        import torch

        from usjepa.cache.teacher.timm_models import is_vit

        model: Any = self.model
        if not is_vit(model):
            raise UsjepaError(f"{self.name}: gives no patch tokens on a grid.")
        height, width = (int(n) for n in model.patch_embed.grid_size)
        with torch.inference_mode():
            out = model.forward_features(self._given(batch))[:, int(model.num_prefix_tokens) :]
        array: NDArray[np.float32] = out.float().reshape(len(out), height, width, -1).cpu().numpy()
        return array
