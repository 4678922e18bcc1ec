"""Predict the targets of masked patches from context tokens, with a narrow ViT.

As in I-JEPA (arXiv 2301.08243), which US-JEPA follows: context tokens are projected to the predictor's width and given
fixed 2-D sine-cosine positions; every target patch is a learnable mask token plus its position; each target block is a
sequence of its own, so that blocks do not see each other. With `joint`, all blocks of an image are one sequence: the
context then passes once, not once per block. The last layer maps to the width of the targets. With `visible`, what
comes out at the context's own places is a prediction, too (V-JEPA 2.1, arXiv 2603.14482).

Shape suffixes: B images, N context length, M target blocks, P target length, D width of student or targets, d width of
the predictor.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from usjepa.train.masks.tensors import beside
from usjepa.train.model.initial import seeded, sincos_positions
from usjepa.train.model.student import run_block

if TYPE_CHECKING:
    from usjepa.cache.recipes.train import PredictorSettings

_PART = 1


class _Norm(nn.LayerNorm):
    """Layer norm with the epsilon of ViTs, 1e-6."""

    def __init__(self, dim: int, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__(dim, eps=1e-6, device=device, dtype=dtype)


class Predictor(nn.Module):
    """Maps context tokens and the positions of target blocks to predicted targets."""

    positions: torch.Tensor

    def __init__(
        self,
        settings: PredictorSettings,
        student_dim: int,
        teacher_dim: int,
        grid: tuple[int, int],
        seed: int,
        recompute: bool = False,
        visible: bool = False,
    ) -> None:
        """Draw the weights from a seed.

        Args:
            settings: the `train.predictor` section.
            student_dim: D of the context tokens.
            teacher_dim: D of the targets.
            grid: patches down and across.
            seed: of the run.
            recompute: keep no activations, compute them again in the backward pass.
            visible: predict the visible patches as well.
        """
        super().__init__()
        self.joint, self.recompute, self.visible = settings.joint, recompute, visible
        with seeded(seed, _PART):
            self.embed = nn.Linear(student_dim, settings.dim)
            self.mask_token = nn.Parameter(torch.zeros(settings.dim))
            self.blocks = nn.ModuleList(
                Block(settings.dim, settings.heads, qkv_bias=True, norm_layer=_Norm) for _ in range(settings.depth)
            )
            self.norm = _Norm(settings.dim)
            self.out = nn.Linear(settings.dim, teacher_dim)
            self._initialise()
        self.register_buffer("positions", sincos_positions(settings.dim, grid), persistent=False)

    def _initialise(self) -> None:
        """Draw truncated normals of 0.02, biases 0; scale outputs of block k by 1 / sqrt(2 k), as in I-JEPA's code."""
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            for k in range(len(self.blocks)):
                for name in ("attn.proj.weight", "mlp.fc2.weight"):
                    self.get_parameter(f"blocks.{k}.{name}").div_(math.sqrt(2.0 * (k + 1)))

    def forward(
        self,
        context_BND: torch.Tensor,
        context_BN: torch.Tensor,
        context_valid_BN: torch.Tensor | None,
        targets_BMP: torch.Tensor,
        targets_valid_BMP: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the predictions, float [B, M, P, D]; at padded targets they are finite and meaningless.

        With `visible`, those at the context stand behind them, as each sequence gave them: [B, M + 1, L, D] if the
        blocks are joint, else [B, 2 M, L, D], where L is the longer of P and N.

        Args:
            context_BND: float, the student's tokens of the visible patches.
            context_BN: int64, indices of the visible patches.
            context_valid_BN: bool, False at padding; None: nothing is padded.
            targets_BMP: int64, indices of the patches of M target blocks.
            targets_valid_BMP: bool, False at padding; None: nothing is padded.
        """
        if self.joint:
            B, M, P = targets_BMP.shape
            valid_B1P = None if targets_valid_BMP is None else targets_valid_BMP.reshape(B, 1, M * P)
            together = self._predict(
                context_BND, context_BN, context_valid_BN, targets_BMP.reshape(B, 1, M * P), valid_B1P
            )
            behind = together.shape[2] - M * P
            return self._arranged(together[:, :, behind:].reshape(B, M, P, -1), together[:, :, :behind])
        each = self._predict(context_BND, context_BN, context_valid_BN, targets_BMP, targets_valid_BMP)
        behind = each.shape[2] - targets_BMP.shape[2]
        return self._arranged(each[:, :, behind:], each[:, :, :behind])

    def _arranged(self, masked_BMPD: torch.Tensor, visible_BKND: torch.Tensor) -> torch.Tensor:
        return beside(masked_BMPD, visible_BKND) if self.visible else masked_BMPD

    def _predict(
        self,
        context_BND: torch.Tensor,
        context_BN: torch.Tensor,
        context_valid_BN: torch.Tensor | None,
        targets_BMP: torch.Tensor,
        targets_valid_BMP: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the predictions of each sequence, [B, M, P, D]; with `visible` [B, M, N + P, D], the context first."""
        B, M, P = targets_BMP.shape
        N = context_BN.shape[1]
        # Positions are float32: under autocast they keep the residual stream in float32, as in the student.
        context_BNd = self.embed(context_BND) + self.positions[context_BN]
        masked_BMPd = self.mask_token + self.positions[targets_BMP]
        tokens = torch.cat([context_BNd[:, None].expand(-1, M, -1, -1), masked_BMPd], dim=2).reshape(B * M, N + P, -1)
        mask = _attention_mask(context_BN, context_valid_BN, targets_BMP, targets_valid_BMP)
        for block in self.blocks[:-1]:
            tokens = run_block(block, tokens, mask, self.recompute)
        if self.visible:
            tokens = run_block(self.blocks[-1], tokens, mask, self.recompute)
        elif self.recompute and torch.is_grad_enabled():
            tokens = checkpoint(_at_targets, self.blocks[-1], tokens, mask, N, use_reentrant=False)
        else:
            tokens = _at_targets(self.blocks[-1], tokens, mask, N)
        out: torch.Tensor = self.out(self.norm(tokens)).reshape(B, M, tokens.shape[1], -1)
        return out


def _at_targets(block: Any, tokens: torch.Tensor, mask: torch.Tensor | None, N: int) -> torch.Tensor:
    """Return a block's output behind the first N tokens; nothing else of the last block is used.

    Context tokens still are keys and values; their queries, their MLP and all else behind attention are left out: five
    sixths of their work.
    """
    attention = block.attn
    dim = tokens.shape[-1]
    normed, targets = block.norm1(tokens), tokens[:, N:]
    (to_q, to_kv), (q_bias, kv_bias) = (
        part.split([dim, 2 * dim]) for part in (attention.qkv.weight, attention.qkv.bias)
    )
    q = functional.linear(normed[:, N:], to_q, q_bias)
    k, v = functional.linear(normed, to_kv, kv_bias).chunk(2, dim=-1)
    q, k, v = (part.reshape(*part.shape[:2], attention.num_heads, -1).transpose(1, 2) for part in (q, k, v))
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    targets = targets + attention.proj(mixed.transpose(1, 2).flatten(2))
    out: torch.Tensor = targets + block.mlp(block.norm2(targets))
    return out


def _attention_mask(
    context_BN: torch.Tensor,
    context_valid_BN: torch.Tensor | None,
    targets_BMP: torch.Tensor,
    targets_valid_BMP: torch.Tensor | None,
) -> torch.Tensor | None:
    """Return which keys may be attended to, bool [B * M, 1, 1, N + P]; None where nothing is padded."""
    if context_valid_BN is None and targets_valid_BMP is None:
        return None
    B, M = targets_BMP.shape[:2]
    if context_valid_BN is None:
        context_valid_BN = torch.ones_like(context_BN, dtype=torch.bool)
    if targets_valid_BMP is None:
        targets_valid_BMP = torch.ones_like(targets_BMP, dtype=torch.bool)
    keys_BML = torch.cat([context_valid_BN[:, None].expand(-1, M, -1), targets_valid_BMP], dim=2)
    return keys_BML.reshape(B * M, 1, 1, -1)
