"""The conditions of the paper's experiment on robustness (Provenance Networks, 5.2, figure 22)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from whence.provenance.distortions import (
    Blur,
    Distortion,
    GaussianNoise,
    MotionBlur,
    NoDistortion,
    Occlusion,
    Rotation,
    SaltAndPepper,
    Scaling,
    Translation,
)


def conditions(low: float = 0.0, high: float = 1.0) -> Mapping[str, Distortion]:
    """Return the paper's 15 conditions, by name in its order, for pictures of a range.

    Args:
        low, high: The ends of the pictures' range; `CONDITIONS` are those for 0 and 1.

    Raises:
        ArgumentError: If they are no range.

    Example:
        >>> list(conditions(-1.0, 1.0))[:2]
        ['no distortion', 'salt-and-pepper p=0.1']
    """
    found: dict[str, Distortion] = {"no distortion": NoDistortion()}
    found |= {f"salt-and-pepper p={p}": SaltAndPepper(p, low, high) for p in (0.1, 0.2)}
    found |= {f"Gaussian noise σ={sigma}": GaussianNoise(sigma, low, high) for sigma in (0.1, 0.2)}
    found |= {f"occlusion {size}×{size}": Occlusion(size, low) for size in (4, 6)}
    found |= {f"translation ±{pixels} px": Translation(pixels, low=low) for pixels in (3, 4)}
    found |= {f"rotation ±{degrees}°": Rotation(degrees, low=low) for degrees in (30, 40)}
    found |= {"scaling 0.8-1.2×": Scaling(0.8, 1.2, low)}
    found |= {f"Gaussian blur σ={sigma}": Blur(sigma, low) for sigma in (1, 2)}
    found |= {"motion blur 5 px": MotionBlur(5, low)}
    return MappingProxyType(found)


CONDITIONS: Mapping[str, Distortion] = conditions()
