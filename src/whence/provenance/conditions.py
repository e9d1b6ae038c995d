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
from whence.provenance.pixels import check_whole

_SIDE = 28  # of the paper's pictures, which its strengths in pixels are for


def conditions(low: float = 0.0, high: float = 1.0, *, side: int = _SIDE) -> Mapping[str, Distortion]:
    """Return the paper's 15 conditions, by name in its order, for pictures of a range and a size.

    Args:
        low, high: The ends of the pictures' range; `CONDITIONS` are those for 0 and 1.
        side: Of the pictures, the shorter one. Strengths in pixels are the paper's times ``side / 28``; squares and
            lines have whole pixels, at least 1 and 3, and the second square is the larger one. Names say them.

    Raises:
        ArgumentError: If they are no range, or the side is no whole number, at least 4.

    Examples:
        >>> list(conditions(-1.0, 1.0))[:2]
        ['no distortion', 'salt-and-pepper p=0.1']
        >>> list(conditions(side=8))[5:8]
        ['occlusion 1×1', 'occlusion 2×2', 'translation ±0.857 px']
    """
    check_whole(side, "side", 4)
    scale = side / _SIDE
    first = max(1, round(4 * scale))
    line = max(3, 2 * round((5 * scale - 1) / 2) + 1)
    found: dict[str, Distortion] = {"no distortion": NoDistortion()}
    found |= {f"salt-and-pepper p={p}": SaltAndPepper(p, low, high) for p in (0.1, 0.2)}
    found |= {f"Gaussian noise σ={sigma}": GaussianNoise(sigma, low, high) for sigma in (0.1, 0.2)}
    found |= {f"occlusion {size}×{size}": Occlusion(size, low) for size in (first, max(first + 1, round(6 * scale)))}
    found |= {f"translation ±{pixels * scale:.3g} px": Translation(pixels * scale, low=low) for pixels in (3, 4)}
    found |= {f"rotation ±{degrees}°": Rotation(degrees, low=low) for degrees in (30, 40)}
    found |= {"scaling 0.8-1.2×": Scaling(0.8, 1.2, low)}
    found |= {f"Gaussian blur σ={sigma * scale:.3g}": Blur(sigma * scale, low) for sigma in (1, 2)}
    found |= {f"motion blur {line} px": MotionBlur(line, low)}
    return MappingProxyType(found)


CONDITIONS: Mapping[str, Distortion] = conditions()
