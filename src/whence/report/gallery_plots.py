"""The plots of a gallery: at which frequencies a value hangs, and which frequencies the samples have."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from whence.evaluation.invariance import spectral_deviation, spectral_slope
from whence.invariants import InvariantSet, Objective
from whence.report.figures import INK, MUTED, SECOND, Figure, axis, compact, layout
from whence.report.words import number

_SMALLEST = 8  # pixels of a side: below there is no spectrum to speak of
_BAND = (0.1, 0.5, 0.9)  # quantiles of the samples' curves


def gallery_figures(
    objective: Objective, found: InvariantSet, draws: Tensor | None = None, key: str = "gallery"
) -> tuple[Figure, ...]:
    """Return the plots of a set; none if its inputs are no pictures of 8 × 8 or more.

    Args:
        objective: What was kept.
        found: The samples.
        draws: Of the prior, to compare spectra with.
        key: Begins the keys of the plots.
    """
    if found.query.ndim != 3 or min(found.query.shape[1:]) < _SMALLEST or not found.solved.any():
        return ()
    solved = found.only(found.solved)
    return (_deviation(objective, solved, key), _spectrum(solved, draws, key))


def _deviation(objective: Objective, found: InvariantSet, key: str) -> Figure:
    """Draw how far values move under low-pass filters (EquiDiff, figure 4.5)."""
    curves = spectral_deviation(objective, found)
    cutoffs, query = curves.cutoff.values, curves.values[0]
    low, middle, high = np.quantile(curves.values[1:], _BAND, axis=0)
    both = [*cutoffs, *cutoffs[::-1]]
    band = {
        "type": "scatter",
        "mode": "lines",
        "name": "samples, 10 % to 90 %",
        "x": compact(np.array(both)),
        "y": compact(np.array([*high, *low[::-1]])),
        "fill": "toself",
        "fillcolor": SECOND,
        "opacity": 0.2,
        "line": {"width": 0},
        "hoverinfo": "skip",
    }
    lines = (_line("query", cutoffs, query, INK, "dash"), _line("samples, median", cutoffs, middle, SECOND))
    unit = f"distance from {number(float(found.certificate.attrs['goal'][0]), 4)}"
    scalar = len(found.certificate.attrs["goal"]) == 1
    rows = tuple(
        (name, *(number(float(one), 2) for one in values))
        for name, values in (("query", query), ("samples, median", middle), ("10 %", low), ("90 %", high))
    )
    return Figure(
        f"{key}-deviation",
        "Under low-pass filters",
        f"How far {objective.name} moves if only frequencies up to a cut-off are left of an input; 1 is the highest. "
        "Samples that move where the query does not have their value from details of another size than the query has "
        "it from.",
        (band, *lines),
        layout(axis("cut-off"), axis(unit if scalar else "distance from the query's values"), height=340, **_LEGEND),
        ("", *(f"cut-off {number(float(one), 1)}" for one in cutoffs)),
        rows,
    )


def _spectrum(found: InvariantSet, draws: Tensor | None, key: str) -> Figure:
    """Draw power by frequency."""
    groups = {"query": found.query[None], "samples": found.inputs}
    if draws is not None:
        groups["draws of the prior"] = draws
    colours, dashes = (INK, SECOND, MUTED), ("dash", "solid", "dot")
    powers = {name: ring_powers(images).mean(0).cpu().numpy() for name, images in groups.items()}
    slopes = {name: float(spectral_slope(images).mean()) for name, images in groups.items()}
    rings = np.arange(1, len(powers["query"]) + 1)
    traces = tuple(
        _line(name, rings, power, colour, dash)
        for (name, power), colour, dash in zip(powers.items(), colours, dashes, strict=False)
    )
    some = sorted({0, len(rings) // 2, len(rings) - 1})
    rows = tuple(
        (name, number(slopes[name]), *(number(float(power[place])) for place in some)) for name, power in powers.items()
    )
    return Figure(
        f"{key}-spectrum",
        "Spectra",
        "Mean power of rings of equal frequency, in waves over the shorter side. Samples with more power at high "
        "frequencies than the draws of the prior carry patterns that the prior does not make by itself.",
        traces,
        layout(axis("frequency", type="log"), axis("power", type="log"), height=340, **_LEGEND),
        ("", "slope", *(f"frequency {rings[place]}" for place in some)),
        rows,
    )


def ring_powers(images: Float[Tensor, "some channels height width"]) -> Float[Tensor, "some rings"]:
    """Return each image's mean power in rings of equal distance from zero frequency, one a whole frequency."""
    height, width = images.shape[-2:]
    power = torch.fft.fft2(images.double(), norm="ortho").abs().square().mean(1)
    up, across = (torch.fft.fftfreq(one, dtype=torch.float64) * min(height, width) for one in (height, width))
    ring = torch.hypot(up[:, None], across[None]).round().long().to(images.device)
    return torch.stack([power[:, ring == one].mean(1) for one in range(1, min(height, width) // 2 + 1)], 1)


def _line(name: str, x: Any, y: Any, colour: str, dash: str = "solid") -> dict[str, Any]:
    line = {"color": colour, "dash": dash, "width": 2.5}
    return {"type": "scatter", "mode": "lines", "name": name, "x": compact(x), "y": compact(y), "line": line}


_LEGEND = {"showlegend": True}
