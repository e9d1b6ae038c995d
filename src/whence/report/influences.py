"""The plots of one target's influences: sorted, by class, by layer and epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray

from whence.audit import Audit
from whence.report.figures import DIVERGING, HARMED, HELPED, Figure, Rows, axis, compact, layout, plain
from whence.report.words import label_name, number, percent, short_unit, signed

_POINTS = 400
_LAYERS = 30
_EPOCHS = 60
_CLASSES = 30


def sorted_figure(key: str, total: xr.DataArray, unit: str, helps: int) -> Figure:
    """Return the curve of all influences, most helpful first (figure 2 of the paper, right)."""
    values: Float[np.ndarray, " train"] = total.values.astype(np.float64)
    ranked = values[np.argsort(-helps * values, kind="stable")]
    kept = _thinned(ranked.size)
    helped = np.where(ranked * helps > 0, ranked, 0)
    harmed = np.where(ranked * helps < 0, ranked, 0)
    traces = (
        _area((kept + 1).tolist(), compact(helped[kept]), "helped", HELPED),
        _area((kept + 1).tolist(), compact(harmed[kept]), "harmed", HARMED),
    )
    strong = float((np.abs(ranked) > 0.1 * np.abs(ranked).max()).mean()) if ranked.any() else 0.0
    summary = (
        f"All {ranked.size:,} training examples, the most helpful first: {percent(float((helped != 0).mean()))} "
        f"helped, {percent(float((harmed != 0).mean()))} harmed, and {percent(strong)} have more than a tenth of the "
        "largest influence."
    )
    marks = sorted({0, *(round(share * (ranked.size - 1)) for share in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1))})
    rows = tuple((f"{at + 1:,}", signed(float(ranked[at]))) for at in marks)
    plan = layout(axis("training examples, most helpful first"), axis(f"influence ({unit})"), showlegend=True)
    return Figure(
        f"{key}-sorted",
        "Influence of every training example",
        summary,
        traces,
        plan,
        ("rank", f"influence ({unit})"),
        rows,
    )


def class_figure(
    key: str, audit: Audit, position: int, total: xr.DataArray | None, names: Sequence[str] | None
) -> Figure | None:
    """Return the sums of helpful and of harmful influence by label of the training examples."""
    labels, values = _labelled(audit, position, total)
    if labels is None or values is None:
        return None
    classes = np.unique(labels)
    helped = np.array([values[(labels == one) & (values * audit.helps > 0)].sum() for one in classes])
    harmed = np.array([values[(labels == one) & (values * audit.helps < 0)].sum() for one in classes])
    shown = [label_name(one, names) for one in classes]
    if classes.size > _CLASSES:
        shown, helped, harmed = _strongest(shown, helped, harmed)
    best, worst = int(np.argmax(np.abs(helped))), int(np.argmax(np.abs(harmed)))
    unit = short_unit(audit.unit)
    summary = (
        f"Training examples labelled {shown[best]} helped most ({signed(float(helped[best]))} {unit}); those labelled "
        f"{shown[worst]} harmed most ({signed(float(harmed[worst]))})."
    )
    plan = layout(
        axis("label of the training examples", type="category", tickangle=0 if len(shown) <= 12 else -45),
        axis(f"influence ({unit})"),
        barmode="relative",
        showlegend=True,
    )
    drawn = [plain(name) for name in shown]
    traces = (_bars(drawn, helped, "helped", HELPED, ""), _bars(drawn, harmed, "harmed", HARMED, "/"))
    columns = ("label", "helped", "harmed", "share of all")
    return Figure(f"{key}-class", "Share by class", summary, traces, plan, columns, _shares(shown, helped, harmed))


def _shares(names: list[str], helped: Any, harmed: Any) -> Rows:
    """Return a row a class: both sums, and the class's share of all influence counted without signs."""
    sizes = np.abs(helped) + np.abs(harmed)
    shares = sizes / (sizes.sum() or 1.0)
    return tuple(
        (name, signed(float(up)), signed(float(down)), percent(float(share)))
        for name, up, down, share in zip(names, helped, harmed, shares, strict=True)
    )


def profile_figure(key: str, profile: xr.DataArray, unit: str, helps: int) -> Figure:
    """Return the heat map of influence by layer and epoch, coloured by the square root so that late epochs show."""
    values: Float[np.ndarray, "layer epoch"] = profile.transpose("layer", "epoch").values.astype(np.float64)
    layers = (
        [str(one) for one in profile.coords["layer"].values]
        if "layer" in profile.coords
        else [str(one) for one in range(values.shape[0])]
    )
    layers, values = _fewer_layers(layers, values)
    epochs, values = _fewer_epochs(values)
    traces = (_heat([plain(name) for name in layers], epochs, values, unit, helps),)
    row, column = np.unravel_index(int(np.argmax(np.abs(values))), values.shape)
    early = np.abs(values).sum(0)
    first = float(early[: max(1, early.size // 4)].sum() / (early.sum() or 1))
    summary = (
        f"Influence summed over the training examples. The largest is {signed(float(values[row, column]))} {unit}, in "
        f"layer {layers[row]} in epoch {epochs[column]}; the first quarter of training holds {percent(first)} of it "
        "all, counted without signs. Colour follows the square root, so that small values show."
    )
    rows = tuple(
        (name, signed(float(part.sum())), number(float(np.abs(part).sum())))
        for name, part in zip(layers, values, strict=True)
    )
    height = 120 + 26 * max(3, len(layers))
    plan = layout(
        axis("epoch", type="category", nticks=12), axis("", type="category", autorange="reversed"), height=height
    )
    columns = ("layer", f"sum over epochs ({unit})", "sum without signs")
    return Figure(f"{key}-profile", "Influence by layer and epoch", summary, traces, plan, columns, rows, wide=True)


def _heat(
    layers: list[str], epochs: list[str], values: Float[np.ndarray, "layer epoch"], unit: str, helps: int
) -> dict[str, Any]:
    """Return the heat map's trace; blue is always help, whatever its sign in this quantity."""
    shown = -helps * np.sign(values) * np.sqrt(np.abs(values))  # help at the low end of the colours
    limit = float(np.abs(shown).max()) or 1.0
    ticks = [-limit, -limit / 2, 0.0, limit / 2, limit]
    return {
        "type": "heatmap",
        "x": epochs,
        "y": layers,
        "z": compact(shown, 4),
        "text": [[signed(float(one)) for one in row] for row in values],
        "zmin": -limit,
        "zmax": limit,
        "colorscale": [list(stop) for stop in DIVERGING],
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": f"%{{y}}, epoch %{{x}}<br>%{{text}} {unit}<extra></extra>",
        "colorbar": {
            "tickvals": compact(ticks),
            "ticktext": [signed(-helps * float(np.sign(one)) * one * one, 2) for one in ticks],
            "thickness": 12,
            "outlinewidth": 0,
            "title": {"text": unit, "side": "right"},
        },
    }


def _labelled(audit: Audit, position: int, total: xr.DataArray | None) -> tuple[Any, Float[np.ndarray, " n"] | None]:
    if total is not None:
        labels = total.coords["train_label"].values if "train_label" in total.coords else None
        return labels, total.values.astype(np.float64)
    row = audit.influence.isel(target=position).load()
    if "label" not in row.dims:
        return None, None
    row = row.sum([dim for dim in row.dims if dim != "label"])
    return row.coords["label"].values, row.values.astype(np.float64)


def _thinned(size: int) -> NDArray[np.int64]:
    """Return up to 400 ranks, all of the first and last hundred among them."""
    if size <= _POINTS:
        return np.arange(size)
    edge = _POINTS // 4
    middle = np.linspace(edge, size - edge - 1, _POINTS - 2 * edge).astype(np.int64)
    return np.unique(np.concatenate([np.arange(edge), middle, np.arange(size - edge, size)]))


def _strongest(names: list[str], helped: Any, harmed: Any) -> tuple[list[str], Any, Any]:
    """Keep the classes with most influence and sum up the others."""
    order = np.argsort(-(np.abs(helped) + np.abs(harmed)), kind="stable")
    kept, others = np.sort(order[:_CLASSES]), order[_CLASSES:]
    return (
        [*(names[at] for at in kept), f"{others.size} others"],
        np.append(helped[kept], helped[others].sum()),
        np.append(harmed[kept], harmed[others].sum()),
    )


def _fewer_layers(
    names: list[str], values: Float[np.ndarray, "layer epoch"]
) -> tuple[list[str], Float[np.ndarray, "shown epoch"]]:
    if len(names) <= _LAYERS:
        return names, values
    order = np.argsort(-np.abs(values).sum(1), kind="stable")
    kept, others = np.sort(order[: _LAYERS - 1]), order[_LAYERS - 1 :]
    rest = values[others].sum(0, keepdims=True)
    return [*(names[at] for at in kept), f"{others.size} other layers"], np.concatenate([values[kept], rest])


def _fewer_epochs(values: Float[np.ndarray, "layer epoch"]) -> tuple[list[str], Float[np.ndarray, "layer shown"]]:
    """Return the names of the columns, counted from 1, and the values; of many epochs, neighbours are summed."""
    size = -(-values.shape[1] // _EPOCHS)
    starts = np.arange(0, values.shape[1], size)
    if size == 1:
        return [str(at + 1) for at in starts], values
    ends = np.minimum(starts + size, values.shape[1])
    return [f"{start + 1}–{end}" for start, end in zip(starts, ends, strict=True)], np.add.reduceat(
        values, starts, axis=1
    )


def _area(x: list[int], y: list[Any], name: str, colour: str) -> dict[str, Any]:
    return {
        "x": x,
        "y": y,
        "name": name,
        "mode": "lines",
        "fill": "tozeroy",
        "line": {"color": colour, "width": 1.5},
        "hovertemplate": f"rank %{{x:,}}<br>{name} %{{y}}<extra></extra>",
    }


def _bars(x: list[str], y: Any, name: str, colour: str, pattern: str) -> dict[str, Any]:
    return {
        "type": "bar",
        "x": x,
        "y": compact(y),
        "name": name,
        "marker": {"color": colour, "pattern": {"shape": pattern, "solidity": 0.25}},
        "hovertemplate": f"label %{{x}}<br>{name} %{{y}}<extra></extra>",
    }
