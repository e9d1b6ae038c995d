"""Random numbers that each sample has for itself: the same ones whatever is drawn beside it, on every device."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

# SplitMix64 (Steele, Lea and Flood 2014), in the signed numbers that torch has: they wrap around.
_GOLDEN, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def uniforms(places: Int[Tensor, " samples"], seed: int, draw: int, count: int) -> Float[Tensor, "samples count"]:
    """Return numbers uniform over 0 to 1, without 0.

    Args:
        places: Which sample each row is.
        seed: Of all.
        draw: Which drawing this is: another one gives other numbers.
        count: Numbers a sample.
    """
    key = _mixed(
        _mixed(places.long() + 1) + _mixed(torch.tensor((seed % (1 << 32) << 24) + draw, device=places.device))
    )
    counter = torch.arange(1, count + 1, device=places.device) * _GOLDEN
    return ((_mixed(key[:, None] + counter) >> 11 & (1 << 53) - 1) + 1).double() / (1 << 53)


def normals(places: Int[Tensor, " samples"], seed: int, draw: int, count: int) -> Float[Tensor, "samples count"]:
    """Return standard normal numbers (Box and Muller 1958); see `uniforms`."""
    pairs = uniforms(places, seed, draw, 2 * count).reshape(len(places), count, 2)
    found: Tensor = (-2 * pairs[..., 0].log()).sqrt() * (2 * math.pi * pairs[..., 1]).cos()
    return found


def _mixed(numbers: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Return numbers that look like chance, each of one number."""
    mixed = (numbers ^ _shifted(numbers, 30)) * _FIRST
    mixed = (mixed ^ _shifted(mixed, 27)) * _SECOND
    return mixed ^ _shifted(mixed, 31)


def _shifted(numbers: Tensor, by: int) -> Tensor:
    """Return numbers shifted to the right, zeros coming in from the left."""
    return numbers >> by & (1 << 64 - by) - 1
