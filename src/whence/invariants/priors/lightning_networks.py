"""The transformer of LightningDiT (Yao et al. 2025), with the names of its published parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_FREQUENCIES = 256  # of the time's embedding
_PERIOD = 10_000.0


@final
@dataclass(frozen=True)
class TransformerSizes:
    """How a transformer is built.

    Attributes:
        channels: Of a latent.
        side: Of a latent, height and width.
        patch: Side of a patch.
        hidden: Width.
        depth: Blocks.
        heads: Of attention.
        classes: Rows of the table of classes, with the null class.
        feedforward: Inner width of the feed-forward part.
        variance: Whether the model predicts a variance too.
        swiglu, rope, rms_norm, qk_norm, shift: Which of its parts it has: gated feed-forward, rotary positions, norms
            by the root mean square instead of `LayerNorm`, norms of queries and keys, shifts before each part.
    """

    channels: int
    side: int
    patch: int
    hidden: int
    depth: int
    heads: int
    classes: int
    feedforward: int
    variance: bool = False
    swiglu: bool = True
    rope: bool = True
    rms_norm: bool = True
    qk_norm: bool = False
    shift: bool = True


@final
class LightningTransformer(nn.Module):
    """The velocity of latents at times from 0 (noise) to 1 (data), for classes.

    Args:
        sizes: How it is built.
    """

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.sizes, hidden, grid = sizes, sizes.hidden, sizes.side // sizes.patch
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(sizes.channels, hidden, sizes.patch, stride=sizes.patch)})
        self.t_embedder = nn.ModuleDict(
            {"mlp": nn.Sequential(nn.Linear(_FREQUENCIES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))}
        )
        self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(sizes.classes, hidden)})
        self.pos_embed = nn.Parameter(torch.zeros(1, grid**2, hidden), requires_grad=False)
        self.feat_rope = _Rotary(hidden // sizes.heads, grid) if sizes.rope else None
        self.blocks = nn.ModuleList(_Block(sizes) for _ in range(sizes.depth))
        self.final_layer = _Final(sizes)

    def forward(
        self, latents: Float[Tensor, "batch channels side side"], times: Float[Tensor, " batch"], labels: Tensor
    ) -> Float[Tensor, "batch channels side side"]:
        """Return the velocity."""
        state = self.x_embedder["proj"](latents).flatten(2).transpose(1, 2) + self.pos_embed
        told = self.t_embedder["mlp"](_waves(times)) + self.y_embedder["embedding_table"](labels)
        for block in self.blocks:
            state = block(state, told, self.feat_rope)
        patches = self.final_layer(state, told)
        grid, patch = self.sizes.side // self.sizes.patch, self.sizes.patch
        whole = patches.unflatten(1, (grid, grid)).unflatten(3, (patch, patch, -1)).permute(0, 5, 1, 3, 2, 4)
        found: Tensor = whole.flatten(4, 5).flatten(2, 3)[:, : self.sizes.channels]  # a variance comes second
        return found


@final
class _Block(nn.Module):
    """Attention and a feed-forward part, each scaled, shifted and gated by time and class."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(sizes, sizes.hidden), _norm(sizes, sizes.hidden)
        self.attn = _Attention(sizes)
        self.mlp = _Gated(sizes) if sizes.swiglu else _Plain(sizes)
        self._shift = sizes.shift
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(sizes.hidden, (4 + 2 * sizes.shift) * sizes.hidden))

    def forward(self, state: Tensor, told: Tensor, rope: nn.Module | None) -> Tensor:
        """Return the state after the block."""
        parts = self.adaLN_modulation(told)[:, None]
        if self._shift:
            shift_one, scale_one, gate_one, shift_two, scale_two, gate_two = parts.chunk(6, 2)
        else:
            scale_one, gate_one, scale_two, gate_two = parts.chunk(4, 2)
            shift_one = shift_two = torch.zeros_like(scale_one)
        state = state + gate_one * self.attn(self.norm1(state) * (1 + scale_one) + shift_one, rope)
        found: Tensor = state + gate_two * self.mlp(self.norm2(state) * (1 + scale_two) + shift_two)
        return found


@final
class _Attention(nn.Module):
    """Attention of all places to all, with rotary positions."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self._heads, width = sizes.heads, sizes.hidden // sizes.heads
        self.qkv = nn.Linear(sizes.hidden, 3 * sizes.hidden)
        self.q_norm = _norm(sizes, width, learned=True) if sizes.qk_norm else nn.Identity()
        self.k_norm = _norm(sizes, width, learned=True) if sizes.qk_norm else nn.Identity()
        self.proj = nn.Linear(sizes.hidden, sizes.hidden)

    def forward(self, state: Tensor, rope: nn.Module | None) -> Tensor:
        """Return what each place takes from the others."""
        queries, keys, values = self.qkv(state).unflatten(2, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys = self.q_norm(queries), self.k_norm(keys)
        if rope is not None:
            queries, keys = rope(queries), rope(keys)
        found: Tensor = self.proj(F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2))
        return found


@final
class _Gated(nn.Module):
    """A gated feed-forward part (Shazeer 2020)."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.w12 = nn.Linear(sizes.hidden, 2 * sizes.feedforward)
        self.w3 = nn.Linear(sizes.feedforward, sizes.hidden)

    def forward(self, state: Tensor) -> Tensor:
        """Return the part's output."""
        gate, inner = self.w12(state).chunk(2, 2)
        found: Tensor = self.w3(F.silu(gate) * inner)
        return found


@final
class _Plain(nn.Module):
    """A feed-forward part of two layers."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.fc1 = nn.Linear(sizes.hidden, sizes.feedforward)
        self.fc2 = nn.Linear(sizes.feedforward, sizes.hidden)

    def forward(self, state: Tensor) -> Tensor:
        """Return the part's output."""
        found: Tensor = self.fc2(F.gelu(self.fc1(state), approximate="tanh"))
        return found


@final
class _Final(nn.Module):
    """From the last state to patches of velocity."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.norm_final = _norm(sizes, sizes.hidden)
        self.linear = nn.Linear(sizes.hidden, sizes.patch**2 * sizes.channels * (1 + sizes.variance))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(sizes.hidden, 2 * sizes.hidden))

    def forward(self, state: Tensor, told: Tensor) -> Tensor:
        """Return the patches."""
        shift, scale = self.adaLN_modulation(told)[:, None].chunk(2, 2)
        found: Tensor = self.linear(self.norm_final(state) * (1 + scale) + shift)
        return found


@final
class _Rotary(nn.Module):
    """Rotary positions in the plane (Su et al. 2021): half of a head's pairs turn by row, half by column."""

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        half = width // 2
        turns = torch.arange(grid)[:, None] * _PERIOD ** (-torch.arange(0, half, 2)[: half // 2] / half)
        pairs = turns.repeat_interleave(2, 1)
        angles = torch.cat([pairs[:, None].expand(grid, grid, -1), pairs[None].expand(grid, grid, -1)], 2).flatten(0, 1)
        self.register_buffer("freqs_cos", angles.cos())
        self.register_buffer("freqs_sin", angles.sin())

    def forward(self, state: Float[Tensor, "batch heads places width"]) -> Float[Tensor, "batch heads places width"]:
        """Return queries or keys turned by the angles of their places."""
        first, second = state.unflatten(3, (-1, 2)).unbind(4)
        turned = torch.stack([-second, first], 4).flatten(3)
        return state * self.freqs_cos + turned * self.freqs_sin


@final
class _RootMeanSquare(nn.Module):
    """A norm by the root of the mean square, with a weight for each number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, state: Tensor) -> Tensor:
        """Return the normed state."""
        return state * torch.rsqrt(state.square().mean(-1, keepdim=True) + 1e-6) * self.weight


def _norm(sizes: TransformerSizes, width: int, *, learned: bool = False) -> nn.Module:
    """Return a norm; `LayerNorm` has weights only of its own in attention, as published."""
    if sizes.rms_norm:
        return _RootMeanSquare(width)
    return nn.LayerNorm(width) if learned else nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def _waves(times: Float[Tensor, " batch"]) -> Float[Tensor, "batch waves"]:
    """Return cosines and sines of times."""
    half = _FREQUENCIES // 2
    rates = torch.exp(-math.log(_PERIOD) * torch.arange(half, dtype=times.dtype, device=times.device) / half)
    angles = times[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)
