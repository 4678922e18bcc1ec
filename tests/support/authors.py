"""Vision transformers written from their papers, with the names that their authors' code gives to tensors.

They share no line with timm or with `usjepa`: what they compute is what a translated file is compared with. Weights are
random, and large enough that a tensor left out shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

TIMM = {
    "patch": "patch_embed.proj", "cls": "cls_token", "pos": "pos_embed", "reg": "reg_token", "block": "blocks.{}",
    "norm1": "norm1", "qkv": "attn.qkv", "q": "attn.q", "k": "attn.k", "v": "attn.v", "proj": "attn.proj",
    "ls1": "ls1.gamma", "norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2", "gate": "mlp.w1", "up": "mlp.w2",
    "ls2": "ls2.gamma", "norm": "norm", "pre": "norm_pre", "table": "attn.relative_position_bias_table",
}  # fmt: skip
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


@dataclass(frozen=True)
class Plan:
    """What one family's vision transformers are made of."""

    names: dict[str, str] = field(default_factory=lambda: TIMM)
    width: int = 48
    heads: int = 6
    depth: int = 2
    patch: int = 16
    size: int = 64
    channels: int = 3
    cls: bool = True
    registers: int = 0
    """Register tokens between class token and patches, which have no position."""
    positions: bool = True
    rope: bool = False
    scales: bool = False
    pre_norm: bool = False
    final_norm: bool = True
    packed: bool = True
    """One tensor for queries, keys and values."""
    mlp: str = "plain"
    """plain, swiglu (gate and values in one tensor), gated (in two)."""
    bias: str = "qkv"
    """qkv; or beit: of queries and values alone, by themselves."""
    table: str = ""
    """Relative positions: shared by all blocks, or of each block."""
    act: str = "gelu"
    eps: float = 1e-6

    @property
    def grid(self) -> int:
        """Patches along an edge."""
        return self.size // self.patch


def weights(plan: Plan, seed: int = 0) -> dict[str, Tensor]:
    """Return random weights under the authors' names."""
    rng = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}

    def put(name: str, *shape: int, around: float = 0.0, scale: float = 0.2) -> None:
        found[name] = around + scale * torch.randn(shape, generator=rng)

    def linear(name: str, out: int, inside: int, bias: bool = True) -> None:
        put(f"{name}.weight", out, inside, scale=1.5 / math.sqrt(inside))
        if bias:
            put(f"{name}.bias", out)

    def norm(name: str) -> None:
        put(f"{name}.weight", plan.width, around=1.0)
        put(f"{name}.bias", plan.width)

    names, width = plan.names, plan.width
    put(f"{names['patch']}.weight", width, plan.channels, plan.patch, plan.patch, scale=0.05)
    if not plan.pre_norm:
        put(f"{names['patch']}.bias", width)
    if plan.cls:
        put(names["cls"], 1, 1, width)
    if plan.registers:
        put(names["reg"], 1, plan.registers, width)
    if plan.positions:
        put(names["pos"], 1, int(plan.cls) + plan.grid**2, width, scale=0.5)
    distances = (2 * plan.grid - 1) ** 2 + 3
    if plan.table == "shared":
        put("rel_pos_bias.relative_position_bias_table", distances, plan.heads, scale=1.0)
    for number in range(plan.depth):
        at = names["block"].format(number) + "."
        norm(at + names["norm1"])
        if plan.packed:
            linear(at + names["qkv"], 3 * width, width, plan.bias == "qkv")
        else:
            for part in "qkv":
                linear(at + names[part], width, width)
        if plan.bias == "beit":
            put(at + "attn.q_bias", width)
            put(at + "attn.v_bias", width)
        if plan.table == "each":
            put(at + names["table"], distances, plan.heads, scale=1.0)
        linear(at + names["proj"], width, width)
        norm(at + names["norm2"])
        if plan.mlp == "gated":
            linear(at + names["gate"], 2 * width, width)
            linear(at + names["up"], 2 * width, width)
        else:
            linear(at + names["fc1"], 4 * width, width)
        linear(at + names["fc2"], width, (4 if plan.mlp == "plain" else 2) * width)
        if plan.scales:
            put(at + names["ls1"], width, around=0.7)
            put(at + names["ls2"], width, around=0.7)
    if plan.pre_norm:
        norm(names["pre"])
    if plan.final_norm:
        norm(names["norm"])
    return found


def tokens(plan: Plan, w: dict[str, Tensor], images_BCSS: Tensor) -> Tensor:
    """Return patch tokens [B, T, D] of normalised images, as the authors' forward pass gives them."""
    names, width = plan.names, plan.width
    projected = functional.conv2d(
        images_BCSS, w[f"{names['patch']}.weight"], w.get(f"{names['patch']}.bias"), stride=plan.patch
    )
    x = projected.flatten(2).transpose(1, 2)
    count = len(x)
    if plan.cls:
        x = torch.cat([w[names["cls"]].reshape(1, 1, width).expand(count, -1, -1), x], dim=1)
    if plan.positions:
        x = x + w[names["pos"]].reshape(1, -1, width)
    if plan.registers:
        extra = w[names["reg"]].expand(count, -1, -1)
        x = torch.cat([x[:, :1], extra, x[:, 1:]], dim=1)
    prefix = x.shape[1] - plan.grid**2
    if plan.pre_norm:
        x = _norm(plan, w, names["pre"], x)
    for number in range(plan.depth):
        at = names["block"].format(number) + "."
        attended = _attention(plan, w, at, _norm(plan, w, at + names["norm1"], x), prefix)
        x = x + attended * (w[at + names["ls1"]] if plan.scales else 1.0)
        through = _mlp(plan, w, at, _norm(plan, w, at + names["norm2"], x))
        x = x + through * (w[at + names["ls2"]] if plan.scales else 1.0)
    x = _norm(plan, w, names["norm"], x) if plan.final_norm else x
    return x[:, prefix:]


def _linear(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return functional.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def _norm(plan: Plan, w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return functional.layer_norm(x, (plan.width,), w[f"{name}.weight"], w[f"{name}.bias"], plan.eps)


def _mlp(plan: Plan, w: dict[str, Tensor], at: str, x: Tensor) -> Tensor:
    if plan.mlp == "gated":
        inner = functional.silu(_linear(w, at + plan.names["gate"], x)) * _linear(w, at + plan.names["up"], x)
    elif plan.mlp == "swiglu":
        gate, values = _linear(w, at + plan.names["fc1"], x).chunk(2, dim=-1)
        inner = functional.silu(gate) * values
    else:
        inner = ACTIVATIONS[plan.act](_linear(w, at + plan.names["fc1"], x))
    return _linear(w, at + plan.names["fc2"], inner)


def _attention(plan: Plan, w: dict[str, Tensor], at: str, x: Tensor, prefix: int) -> Tensor:
    count, length, width = x.shape
    if plan.packed:
        parts = list(_linear(w, at + plan.names["qkv"], x).chunk(3, dim=-1))
    else:
        parts = [_linear(w, at + plan.names[part], x) for part in "qkv"]
    if plan.bias == "beit":
        parts[0], parts[2] = parts[0] + w[at + "attn.q_bias"], parts[2] + w[at + "attn.v_bias"]
    q, k, v = (part.reshape(count, length, plan.heads, -1).transpose(1, 2) for part in parts)
    if plan.rope:
        q, k = _turned(plan, q, prefix), _turned(plan, k, prefix)
    scores = q @ k.transpose(-2, -1) / math.sqrt(width // plan.heads)
    if plan.table:
        shared = "rel_pos_bias.relative_position_bias_table"
        table = w[shared if plan.table == "shared" else at + plan.names["table"]]
        scores = scores + table[_distances(plan.grid)].permute(2, 0, 1)
    mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(count, length, width)
    return _linear(w, at + plan.names["proj"], mixed)


def _distances(grid: int) -> Tensor:
    """Return which entry of BEiT's table belongs to each pair of tokens; the last three are the class token's."""
    places = torch.stack(torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")).flatten(1)
    apart = places[:, :, None] - places[:, None, :] + grid - 1
    whole = torch.full((grid**2 + 1, grid**2 + 1), 0)
    whole[1:, 1:] = apart[0] * (2 * grid - 1) + apart[1]
    rest = (2 * grid - 1) ** 2
    whole[0, :], whole[:, 0], whole[0, 0] = rest, rest + 1, rest + 2
    return whole


def _turned(plan: Plan, x: Tensor, prefix: int) -> Tensor:
    """Turn patch tokens [B, H, T, d] by DINOv3's rotary positions; prefix tokens stay."""
    quarter = x.shape[-1] // 4
    periods = 100.0 ** (torch.arange(quarter) / quarter)
    along = (torch.arange(plan.grid) + 0.5) / plan.grid * 2 - 1
    places = torch.stack(torch.meshgrid(along, along, indexing="ij"), dim=-1).flatten(0, 1)
    angles = (2 * math.pi * places[:, :, None] / periods).flatten(1).tile(2)
    patches = x[:, :, prefix:]
    first, second = patches.chunk(2, dim=-1)
    turned = patches * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()
    return torch.cat([x[:, :, :prefix], turned], dim=2)


# DINOv3's own names, and those of others: what differs from timm's.
META = {**TIMM, "reg": "register_tokens"}
CHUNKED = {**META, "block": "blocks.0.{}"}
DINOV3 = {**TIMM, "reg": "storage_tokens", "fc2": "mlp.fc2"}
CLIP = {
    **TIMM, "patch": "visual.conv1", "cls": "visual.class_embedding", "pos": "visual.positional_embedding",
    "block": "visual.transformer.resblocks.{}", "norm1": "ln_1", "qkv": "attn.in_proj", "proj": "attn.out_proj",
    "norm2": "ln_2", "fc1": "mlp.c_fc", "fc2": "mlp.c_proj", "pre": "visual.ln_pre", "norm": "visual.ln_post",
}  # fmt: skip
BEIT = {**TIMM, "ls1": "gamma_1", "ls2": "gamma_2"}


def prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return tensors with something before each name."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def clip_weights(plan: Plan) -> dict[str, Tensor]:
    """Return weights in CLIP's shapes, with a text tower and a projection beside them."""
    w = weights(plan)
    for part in ("weight", "bias"):
        for number in range(plan.depth):
            at = f"visual.transformer.resblocks.{number}.attn.in_proj"
            w[f"{at}_{part}"] = w.pop(f"{at}.{part}")
    w["visual.class_embedding"] = w["visual.class_embedding"].flatten()
    w["visual.positional_embedding"] = w["visual.positional_embedding"][0]
    text = {"transformer.resblocks.0.ln_1.weight": torch.ones(4), "positional_embedding": torch.ones(7, 4)}
    return w | text | {"visual.proj": torch.ones(plan.width, 8), "logit_scale": torch.tensor(1.0)}


def clip_tokens(plan: Plan, w: dict[str, Tensor], images: Tensor) -> Tensor:
    """Return patch tokens of weights in CLIP's shapes."""
    plain = {name.replace("in_proj_", "in_proj."): tensor for name, tensor in w.items()}
    return tokens(plan, plain, images)


def smaller(plan: Plan, **changes: object) -> Plan:
    """Return a plan with other fields."""
    return replace(plan, **changes)  # type: ignore[arg-type]


class Sam(nn.Module):
    """Segment Anything's image encoder: windows, decomposed relative positions, a neck of convolutions."""

    def __init__(self, width: int = 48, heads: int = 6, depth: int = 3, size: int = 80, window: int = 3) -> None:
        super().__init__()
        self.heads, self.window, self.grid = heads, window, size // 16
        self.whole = {1}
        """Blocks that look at the whole image."""
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, 16, stride=16)})
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid, self.grid, width))
        self.blocks = nn.ModuleList([self._block(width, number) for number in range(depth)])
        norms = [nn.LayerNorm(256, eps=1e-6) for _ in range(2)]
        convolutions = [nn.Conv2d(width, 256, 1, bias=False), nn.Conv2d(256, 256, 3, padding=1, bias=False)]
        self.neck = nn.ModuleList([convolutions[0], norms[0], convolutions[1], norms[1]])
        rng = torch.Generator().manual_seed(3)
        for name, parameter in self.named_parameters():
            scale = 1.5 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 and "rel" not in name else 0.3
            with torch.no_grad():
                parameter.copy_(scale * torch.randn(parameter.shape, generator=rng))

    def _block(self, width: int, number: int) -> nn.Module:
        edge = self.grid if number in self.whole else self.window
        block = nn.Module()
        block.norm1, block.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        block.attn, block.mlp = nn.Module(), nn.Module()
        block.attn.qkv, block.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        for name in ("rel_pos_h", "rel_pos_w"):
            setattr(block.attn, name, nn.Parameter(torch.zeros(2 * edge - 1, width // self.heads)))
        block.mlp.lin1, block.mlp.lin2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        return block

    def maps(self, images_BCSS: Tensor) -> Tensor:
        """Return the last block's maps [B, H, W, D]."""
        x: Tensor = self.patch_embed["proj"](images_BCSS).permute(0, 2, 3, 1) + self.pos_embed
        for number, block in enumerate(self.blocks):
            x = x + self._attended(block, block.norm1(x), number in self.whole)  # type: ignore[operator]
            x = x + block.mlp.lin2(functional.gelu(block.mlp.lin1(block.norm2(x))))  # type: ignore[operator, union-attr]
        return x

    def forward(self, images_BCSS: Tensor) -> Tensor:
        """Return the neck's tokens [B, T, 256]."""
        x = self.maps(images_BCSS).permute(0, 3, 1, 2)
        for layer in self.neck:
            x = layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if isinstance(layer, nn.LayerNorm) else layer(x)
        return x.flatten(2).transpose(1, 2)

    def _attended(self, block: nn.Module, x: Tensor, whole: bool) -> Tensor:
        if whole:
            return self._attention(block.attn, x)  # type: ignore[arg-type]
        count, height, wide, width = x.shape
        n = self.window
        padded = functional.pad(x, (0, 0, 0, -wide % n, 0, -height % n))
        rows, columns = padded.shape[1] // n, padded.shape[2] // n
        windows = padded.reshape(count, rows, n, columns, n, width).transpose(2, 3).reshape(-1, n, n, width)
        seen = self._attention(block.attn, windows)  # type: ignore[arg-type]
        joined = seen.reshape(count, rows, columns, n, n, width).transpose(2, 3).reshape(padded.shape)
        return joined[:, :height, :wide]

    def _attention(self, attn: nn.Module, x: Tensor) -> Tensor:
        count, edge, _, width = x.shape
        qkv = attn.qkv(x).reshape(count, edge * edge, 3, self.heads, -1)  # type: ignore[operator]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        apart = torch.arange(edge)[:, None] - torch.arange(edge)[None, :] + edge - 1
        places = q.reshape(count, self.heads, edge, edge, -1)
        down = torch.einsum("bnhwd,hkd->bnhwk", places, attn.rel_pos_h[apart])  # type: ignore[index]
        across = torch.einsum("bnhwd,wkd->bnhwk", places, attn.rel_pos_w[apart])  # type: ignore[index]
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(width // self.heads)
        scores = scores.reshape(count, self.heads, edge, edge, edge, edge)
        scores = scores + down[..., :, None] + across[..., None, :]
        mixed = scores.reshape(count, self.heads, edge**2, edge**2).softmax(dim=-1) @ v
        mixed = mixed.transpose(1, 2).reshape(count, edge, edge, width)
        out: Tensor = attn.proj(mixed)  # type: ignore[operator]
        return out
