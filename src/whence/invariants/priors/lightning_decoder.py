"""The decoder of VA-VAE, which has the architecture of the latent diffusion model's (Rombach et al. 2022)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_GROUPS = 32


@final
class LatentDecoder(nn.Module):
    """From latents to images of about -1 to 1; built as the names and shapes of published tensors tell.

    Args:
        tensors: Of the decoder, with the published names.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        shapes = {name: tuple(one.shape) for name, one in tensors.items()}
        self.post_quant_conv = _conv(shapes, "post_quant_conv")
        self.decoder = _Body(shapes)

    def forward(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch colours tall wide"]:
        """Return the images of latents."""
        images: Tensor = self.decoder(self.post_quant_conv(latents))
        return images


Shapes = Mapping[str, tuple[int, ...]]


@final
class _Residual(nn.Module):
    """Two convolutions beside a way around them."""

    def __init__(self, shapes: Shapes, name: str) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(shapes, f"{name}.norm1"), _conv(shapes, f"{name}.conv1")
        self.norm2, self.conv2 = _norm(shapes, f"{name}.norm2"), _conv(shapes, f"{name}.conv2")
        self.nin_shortcut = _conv(shapes, around) if f"{(around := f'{name}.nin_shortcut')}.weight" in shapes else None

    def forward(self, state: Tensor) -> Tensor:
        """Return the state after the block."""
        inner = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(state))))))
        found: Tensor = inner + (state if self.nin_shortcut is None else self.nin_shortcut(state))
        return found


@final
class _Attention(nn.Module):
    """Attention of all places to all, with one head."""

    def __init__(self, shapes: Shapes, name: str) -> None:
        super().__init__()
        self.norm = _norm(shapes, f"{name}.norm")
        self.q, self.k, self.v, self.proj_out = (
            _conv(shapes, f"{name}.{part}") for part in ("q", "k", "v", "proj_out")
        )

    def forward(self, state: Tensor) -> Tensor:
        """Return the state after the attention."""
        normed = self.norm(state)
        queries, keys, values = (part(normed).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        weights = (queries @ keys.transpose(1, 2) * queries.shape[2] ** -0.5).softmax(2)
        found: Tensor = state + self.proj_out((weights @ values).transpose(1, 2).unflatten(2, state.shape[2:]))
        return found


@final
class _Level(nn.Module):
    """The blocks at one size of the image, and what doubles it."""

    def __init__(self, shapes: Shapes, name: str) -> None:
        super().__init__()
        blocks = range(_count(shapes, rf"{re.escape(name)}\.block\.(\d+)\."))
        attentions = range(_count(shapes, rf"{re.escape(name)}\.attn\.(\d+)\."))
        self.block = nn.ModuleList(_Residual(shapes, f"{name}.block.{place}") for place in blocks)
        self.attn = nn.ModuleList(_Attention(shapes, f"{name}.attn.{place}") for place in attentions)
        doubled = f"{name}.upsample.conv"
        self.upsample = nn.ModuleDict({"conv": _conv(shapes, doubled)} if f"{doubled}.weight" in shapes else {})

    def forward(self, state: Tensor) -> Tensor:
        """Return the state at the next size."""
        for place, block in enumerate(self.block):
            state = block(state)
            if len(self.attn):
                state = self.attn[place](state)
        for conv in self.upsample.values():
            state = conv(F.interpolate(state, scale_factor=2.0, mode="nearest"))
        return state


@final
class _Body(nn.Module):
    """From latents through the middle to images, level by level."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.conv_in = _conv(shapes, "decoder.conv_in")
        middle: dict[str, nn.Module] = {
            "block_1": _Residual(shapes, "decoder.mid.block_1"),
            "attn_1": _Attention(shapes, "decoder.mid.attn_1"),
            "block_2": _Residual(shapes, "decoder.mid.block_2"),
        }
        self.mid = nn.ModuleDict(middle)
        levels = range(_count(shapes, r"decoder\.up\.(\d+)\."))
        self.up = nn.ModuleList(_Level(shapes, f"decoder.up.{level}") for level in levels)
        self.norm_out, self.conv_out = _norm(shapes, "decoder.norm_out"), _conv(shapes, "decoder.conv_out")

    def forward(self, latents: Tensor) -> Tensor:
        """Return the images."""
        state = self.conv_in(latents)
        for part in (*self.mid.values(), *reversed(list(self.up))):
            state = part(state)
        images: Tensor = self.conv_out(F.silu(self.norm_out(state)))
        return images


def _count(shapes: Shapes, pattern: str) -> int:
    """Return how many parts of a list the names tell of."""
    return max((int(found[1]) + 1 for name in shapes if (found := re.match(pattern, name))), default=0)


def _conv(shapes: Shapes, name: str) -> nn.Conv2d:
    out, channels, side, _ = shapes[f"{name}.weight"]
    return nn.Conv2d(channels, out, side, padding=side // 2)


def _norm(shapes: Shapes, name: str) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, shapes[f"{name}.weight"][0], eps=1e-6)


def decoder_of(tensors: Mapping[str, Tensor]) -> LatentDecoder:
    """Return the decoder whose tensors are among those of a published autoencoder.

    Raises:
        KeyError: If one is missing.
        RuntimeError: If one has another shape or name than the architecture's.
    """
    own = {name: one for name, one in tensors.items() if name.startswith(("decoder.", "post_quant_conv."))}
    with torch.device("meta"):
        found = LatentDecoder(own)
    found.load_state_dict(own, strict=True, assign=True)
    return found
