"""The completeness certificate: true against reconstructed change, and how the error grew over training."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray

from whence.audit import Audit
from whence.report.figures import FIRST, MUTED, Figure, Rows, axis, compact, layout, plain
from whence.report.words import count, number, short_unit, signed

_DOTS = 2000  # targets drawn in the scatter plot
_SOURCES = {
    "initial parameters": "the initial parameters, through weight decay",
    "initial optimizer state": "the optimizer's state at the start",
    "buffers": "the statistics of normalisation layers",
    "rounding": "gradients that are nothing but rounding",
}


@final
@dataclass(frozen=True)
class Proof:
    """What the page says about completeness.

    Attributes:
        verdict: One sentence.
        facts: Pairs of name and value.
        residuals: Rows of the residual by source: source, mean, mean absolute, in the audit's unit.
        figures: The plots.
    """

    verdict: str
    facts: tuple[tuple[str, str], ...]
    residuals: Rows
    figures: tuple[Figure, ...]


def proof(audit: Audit) -> Proof:
    """Collect the certificate of an audit (path-integrated loss-gradient kernels, definitions 12 and 13, figure 1)."""
    whole, unit = audit.completeness, short_unit(audit.unit)
    change = float(np.abs(whole.true_change).mean())
    share = whole.mean_error / change if change else float("nan")
    verdict = (
        f"Added up, the shares give each target's true change to within {number(whole.mean_error)} {unit} on average; "
        f"the mean change is {number(change)} {unit}, so {percent_of(share)} is left unexplained."
    )
    facts = (
        ("mean error", f"{number(whole.mean_error)} {unit}"),
        ("largest error", f"{number(float(np.abs(whole.error).max()))} {unit}"),
        ("correlation", correlation_text(whole.correlation)),
        ("mean change", f"{number(change)} {unit}"),
        *_method(audit),
    )
    figures = (_scatter(audit, unit), *_over_time(audit, unit))
    return Proof(verdict, facts, _residuals(whole.residual), figures)


def percent_of(share: float) -> str:
    """Write a small share with as many digits as it needs."""
    return f"{number(100 * share, 2)} %" if np.isfinite(share) else "no measurable part"


def correlation_text(value: float) -> str:
    """Write a correlation with as many nines as it has."""
    if not np.isfinite(value):
        return "not defined"
    return "1.000000000" if value > 1 - 5e-10 else f"{value:.9f}"


def _method(audit: Audit) -> tuple[tuple[str, str], ...]:
    attrs = audit.data.attrs
    names = {
        "quadrature": "quadrature",
        "precision": "precision",
        "subsample": "every n-th step",
        "tolerance": "tolerance",
    }
    return tuple((name, str(attrs[key])) for key, name in names.items() if attrs.get(key) not in {None, "", 1, "none"})


def _residuals(residual: xr.DataArray) -> Rows:
    rows = []
    for source in residual.coords["source"].values if "source" in residual.coords else range(residual.sizes["source"]):
        part = residual.sel(source=source) if "source" in residual.coords else residual.isel(source=source)
        name = _SOURCES.get(str(source), str(source))
        rows.append((name, signed(float(part.mean())), number(float(np.abs(part).mean()))))
    return tuple(rows)


def _scatter(audit: Audit, unit: str) -> Figure:
    whole = audit.completeness
    every = max(1, -(-whole.true_change.size // _DOTS))
    true, ours = whole.true_change.values[::every], whole.reconstructed.values[::every]
    names = [str(one) for one in whole.true_change.coords["target"].values[::every]]
    shown = np.linspace(0, true.size - 1, min(12, true.size)).astype(int)
    order = np.argsort(true, kind="stable")[shown]
    rows = tuple((names[at], signed(float(true[at]), 5), signed(float(ours[at]), 5)) for at in order)
    return Figure(
        "proof-scatter",
        "True and reconstructed change",
        f"Each dot is one of {count(whole.true_change.size, 'target')}; on the dotted line, the sum of all shares "
        f"equals the true change. Changes run from {signed(float(true.min()))} to {signed(float(true.max()))} {unit}.",
        (_diagonal(true, ours), _dots(true, ours, names)),
        layout(axis(f"true change ({unit})"), axis("reconstructed")),
        ("target", f"true change ({unit})", "reconstructed"),
        rows,
    )


def _diagonal(true: NDArray[Any], ours: NDArray[Any]) -> dict[str, Any]:
    ends = compact([min(true.min(), ours.min()), max(true.max(), ours.max())])
    line = {"color": MUTED, "width": 1, "dash": "dot"}
    return {"x": ends, "y": ends, "mode": "lines", "line": line, "hoverinfo": "skip", "name": "equal"}


def _dots(true: NDArray[Any], ours: NDArray[Any], names: list[str]) -> dict[str, Any]:
    return {
        "x": compact(true),
        "y": compact(ours),
        "mode": "markers",
        "marker": {"color": FIRST, "size": 5, "opacity": 0.6},
        "text": [plain(name) for name in names],
        "hovertemplate": "target %{text}<br>true %{x}<br>reconstructed %{y}<extra></extra>",
        "name": "targets",
    }


def _over_time(audit: Audit, unit: str) -> tuple[Figure, ...]:
    """Mean error and correlation at the end of each epoch (figure 1 of the paper)."""
    if "course" not in audit.data or audit.data.sizes.get("point", 0) < 2:
        return ()
    true, ours = (np.asarray(audit.data[name].values, np.float64) for name in ("course", "explained"))
    true, ours = true - true[:, :1], ours - ours[:, :1]
    errors, match = np.abs(true - ours).mean(0), _correlations(true, ours)
    table = tuple(
        (str(epoch), number(float(error)), correlation_text(float(one)))
        for epoch, (error, one) in enumerate(zip(errors, match, strict=True))
    )
    return _error_figure(errors, unit, table), _correlation_figure(match, unit, table)


def _error_figure(errors: Float[np.ndarray, " point"], unit: str, table: Rows) -> Figure:
    return Figure(
        "proof-error",
        "Mean error over training",
        "Mean absolute error of the integral along the training path, before it is shared out among examples: "
        f"{number(float(errors[1]))} {unit} after the first epoch, {number(float(errors[-1]))} after the last.",
        (_line(errors, "mean error"),),
        layout(axis("epoch", rangemode="tozero"), axis(f"mean error ({unit})", rangemode="tozero", tickformat="~g")),
        ("epoch", f"mean error ({unit})", "correlation"),
        table,
    )


def _correlation_figure(match: Float[np.ndarray, " point"], unit: str, table: Rows) -> Figure:
    lack = np.where(1 - match > 0, 1 - match, np.nan)
    return Figure(
        "proof-correlation",
        "Correlation over training",
        "How far the correlation of true and explained change, over the targets, is from 1. At the end, the "
        f"correlation is {correlation_text(float(match[-1]))}.",
        (_line(lack, "1 − correlation"),),
        layout(axis("epoch", rangemode="tozero"), axis("1 − correlation", type="log", exponentformat="power", dtick=1)),
        ("epoch", f"mean error ({unit})", "correlation"),
        table,
    )


def _correlations(
    true: Float[np.ndarray, "target point"], ours: Float[np.ndarray, "target point"]
) -> Float[np.ndarray, " point"]:
    """Return the correlation over targets at each point; nan at the start, where nothing has changed yet."""
    x, y = true - true.mean(0), ours - ours.mean(0)
    norm = np.sqrt((x * x).sum(0) * (y * y).sum(0))
    found: Float[np.ndarray, " point"] = np.full(norm.shape, np.nan)
    np.divide((x * y).sum(0), norm, out=found, where=norm > 0)
    return found


def _line(values: Float[np.ndarray, " point"], name: str) -> dict[str, Any]:
    return {
        "x": list(range(values.size)),
        "y": compact(values, 10),
        "mode": "lines+markers",
        "line": {"color": FIRST, "width": 2},
        "marker": {"size": 4},
        "name": name,
        "hovertemplate": "epoch %{x}<br>%{y}<extra></extra>",
    }
