"""The normal space of a level set: the span of the derivatives' rows, which may depend on each other."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def gram(slopes: Float[Tensor, "some rows numbers"]) -> Float[Tensor, "some rows rows"]:
    """Return JJᵀ for each sample."""
    found: Tensor = torch.einsum("nrd,nsd->nrs", slopes, slopes)
    return found


def inverted(grams: Float[Tensor, "some rows rows"]) -> Float[Tensor, "some rows rows"]:
    """Return the pseudo-inverse of each: equations that follow from the others, and flat ones, do not count."""
    spectrum, basis = torch.linalg.eigh(grams)
    counted = _counted(spectrum)
    inverse = torch.where(counted, 1 / torch.where(counted, spectrum, 1), 0)
    found: Tensor = torch.einsum("nrk,nk,nsk->nrs", basis, inverse, basis)
    return found


def log_determinant(grams: Float[Tensor, "some rows rows"]) -> Float[Tensor, " some"]:
    """Return the logarithm of the determinant of each, over the space that counts."""
    spectrum = torch.linalg.eigvalsh(grams)
    counted = _counted(spectrum)
    found: Tensor = torch.where(counted, torch.where(counted, spectrum, 1).log(), 0).sum(1)
    return found


def tangent(
    slopes: Float[Tensor, "some rows numbers"], directions: Float[Tensor, "some numbers"]
) -> Float[Tensor, "some numbers"]:
    """Return what is left of directions along the level set: without their part in the span of the derivatives.

    Examples:
        >>> tangent(torch.tensor([[[0.0, 2.0]]]), torch.tensor([[3.0, 4.0]])).tolist()
        [[3.0, 0.0]]
    """
    along = torch.einsum("nrd,nd->nr", slopes, directions)
    weights = torch.einsum("nrs,ns->nr", inverted(gram(slopes)), along)
    left: Tensor = directions - torch.einsum("nrd,nr->nd", slopes, weights)
    return left


def _counted(spectrum: Float[Tensor, "some rows"]) -> Tensor:
    """Return which eigenvalues are more than rounding beside the greatest."""
    least = spectrum.shape[1] * torch.finfo(spectrum.dtype).eps * spectrum[:, -1:]
    return spectrum > least.clamp_min(torch.finfo(spectrum.dtype).tiny)
