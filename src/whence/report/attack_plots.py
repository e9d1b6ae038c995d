"""The plots of a study of adversarial inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import xarray as xr

from whence.adversarial import Study
from whence.adversarial.groups import ADVERSARIAL, CLEAN, RANDOM
from whence.adversarial.study import CONTROL, CURED, CURED_RANDOM, WITHOUT_MODES
from whence.report.figures import FIRST, HARMED, INK, MUTED, SECOND, Figure, axis, compact, layout
from whence.report.words import number

_COLOURS = {
    CLEAN: FIRST,
    RANDOM: MUTED,
    ADVERSARIAL: SECOND,
    CURED: FIRST,
    CONTROL: HARMED,
    CURED_RANDOM: MUTED,
    WITHOUT_MODES: INK,
}
_DASHES = {CURED: "dash", CONTROL: "dot", CURED_RANDOM: "dash", WITHOUT_MODES: "dashdot"}
_TOP = 10  # leading modes
_POINTS = 2000  # of a scatter plot


def attacked_figures(study: Study) -> tuple[Figure, ...]:
    """Return the plots of a study (PLGK, figures 9 to 19)."""
    curves = (*_of_influence(study), *_of_training(study))
    return (_twins(study), *(one.figure for one in curves), _modes(study), *(one.figure for one in _of_modes(study)))


@final
@dataclass(frozen=True)
class _Curves:
    """A plot of lines over one axis."""

    key: str
    title: str
    summary: str
    along: str
    unit: str
    x: Any
    lines: dict[str, xr.DataArray]

    @property
    def figure(self) -> Figure:
        """The plot."""
        x = compact(np.asarray(self.x))
        traces = tuple(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": x,
                "y": compact(np.asarray(one)),
                "line": {"dash": _DASHES.get(name, "solid"), **({"color": _COLOURS[name]} if name in _COLOURS else {})},
            }
            for name, one in self.lines.items()
        )
        places = (0, len(x) // 2, -1)
        rows = tuple((name, *(number(float(one[at])) for at in places)) for name, one in self.lines.items())
        columns = ("", *(f"{self.along} {number(x[at])}" for at in places))
        plot = layout(axis(self.along), axis(self.unit), height=340, showlegend=True)
        return Figure(f"attacked-{self.key}", self.title, self.summary, traces, plot, columns, rows)


def _of_influence(study: Study) -> tuple[_Curves, ...]:
    """PLGK, figures 10, 11 and 13."""
    epochs, unit = study.influences.epoch.values + 1, str(study.influences.attrs.get("unit", ""))
    gross, net = (study.influences[name].mean("example") for name in ("cumulative_gross", "cumulative_net"))
    by_layer = study.influences["gross"].mean("example").sel(group=ADVERSARIAL)
    layers = {str(name): by_layer.sel(layer=name) for name in by_layer.layer.values}
    share = study.path["share"]
    chosen = share.position.values[:: max(1, len(share) // 5)]
    path = {number(float(at), 2): share.sel(position=at) for at in chosen}
    epoch = study.influences["gross"].mean("example")
    each = epoch.sum("layer") if "layer" in epoch.dims else epoch
    apart = "Sizes of the influences of each epoch, added up over layers and training examples."
    grown = "Sizes of the influences of all training examples, added up. It grows on where influences cancel."
    signed = "Influences of all training examples with their signs, added up: the change of the loss."
    along = "Share of the gross influence that had come by each epoch; 0 is the clean input, 1 the adversarial one."
    return (
        _Curves("gross", "Gross influence so far", grown, "epoch", unit, epochs, _groups(gross)),
        _Curves("epochs", "Gross influence of each epoch", apart, "epoch", unit, epochs, _groups(each)),
        _Curves("net", "Net influence so far", signed, "epoch", unit, epochs, _groups(net)),
        _Curves(
            "layers", "Gross influence on adversarial inputs", "By layer, of each epoch.", "epoch", unit, epochs, layers
        ),
        _Curves("path", "When influence came, on the path to an attack", along, "epoch", "share", epochs, path),
    )


def _of_training(study: Study) -> tuple[_Curves, ...]:
    """PLGK, figures 12, 14 and 19."""
    losses, times = study.losses.mean("example"), study.regime.time.values
    regime = {str(name): one for name, one in study.regime.items()}
    alike = "How like the end of training each state is: 1 is the same."
    mean = "Mean over the inputs of each group."
    return (
        _Curves("losses", "Loss along training", mean, "step", "loss", losses.time.values, _groups(losses)),
        _Curves("regime", "How settled the network is", alike, "step", "cosine", times, regime),
    )


def _of_modes(study: Study) -> tuple[_Curves, ...]:
    """PLGK, figures 16 and 18."""
    felt = study.sensitivity["corrected"].mean("example")
    ratio = study.course["cancellation"].mean("example")
    last = ratio.isel(time=-1)
    slope = "Slope of the coefficient in the input, over the length of the loss gradient."
    course = study.course["corrected"].mean("example")
    learned = {
        f"{name}, {what}": course.sel(group=name)[:, part].mean("mode")
        for name in course.group.values
        for what, part in (("first 10 modes", slice(_TOP)), ("the others", slice(_TOP, None)))
    }
    modes, unit = felt.mode.values + 1, "per unit of input"
    cancel = "1 where all modes push an input's loss the same way, 0 where they cancel."
    times, whole = ratio.time.values, _groups(ratio.isel(modes=-1))
    return (
        _Curves("sensitivity", "How strongly inputs move each mode", slope, "mode", unit, modes, _groups(felt)),
        _Curves(
            "learned", "How strongly modes are moved, in training", slope, "step", unit, course.time.values, learned
        ),
        _Curves("cancellation", "Cancellation ratio along training", cancel, "step", "ratio", times, whole),
        _Curves("share", "Cancellation ratio at the end", cancel, "modes", "ratio", last.modes.values, _groups(last)),
    )


def _groups(values: xr.DataArray) -> dict[str, xr.DataArray]:
    return {str(name): values.sel(group=name) for name in values.group.values}


def _twins(study: Study) -> Figure:
    """Draw the influences on an adversarial input against those on its clean twin (PLGK, figure 9)."""
    many = len(study.groups)
    both = study.audit.influence.isel(target=[0, 2 * many])
    clean, attacked = both.sum([dim for dim in both.dims if dim not in {"target", "train"}]).values
    some = np.unique(np.linspace(0, len(clean) - 1, min(_POINTS, len(clean))).round().astype(int))
    trace = {
        "type": "scatter",
        "mode": "markers",
        "marker": {"size": 3, "color": SECOND, "opacity": 0.5},
        "x": compact(clean[some]),
        "y": compact(attacked[some]),
        "showlegend": False,
        "hoverinfo": "skip",
    }
    rows = tuple(
        (f"#{study.groups.ids[place]}", *(number(float(study.agreement[name][place])) for name in _TOLD))
        for place in range(min(12, many))
    )
    return Figure(
        "attacked-twins",
        "Influences on an adversarial input and on its clean twin",
        f"A point is a training example ({len(some)} of {len(clean)}), for the first input.",
        (trace,),
        layout(axis("on the clean input"), axis("on the adversarial input"), height=340),
        ("input", "correlation", "slope", "gross influence, adversarial / clean"),
        rows,
    )


_TOLD = ("correlation", "slope", "ratio")


def _modes(study: Study) -> Figure:
    """Draw how far adversarial inputs differ from clean ones, mode by mode (PLGK, figure 15)."""
    size = study.differences["size"].sel(group=ADVERSARIAL)
    values, aligned = (study.differences[name] for name in ("singular_value", "alignment"))
    largest = float(size.max())
    marker = {
        "size": [4 + 30 * float(np.sqrt(one / largest)) for one in size.values],
        "color": SECOND,
        "opacity": 0.55,
    }
    text = [f"mode {mode + 1}: |Δc| {number(float(one))}" for mode, one in enumerate(size.values)]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "marker": marker,
        "text": text,
        "hoverinfo": "text",
        "x": compact(values.values),
        "y": compact(aligned.values),
        "showlegend": False,
    }
    rows = tuple(
        (f"mode {mode + 1}", number(float(size[mode])), number(float(values[mode])), number(float(aligned[mode])))
        for mode in range(min(12, size.sizes["mode"]))
    )
    return Figure(
        "attacked-modes",
        "In which modes adversarial inputs differ from clean ones",
        "Size: mean difference of the coefficient. Right: modes with large singular values. The alignment says which "
        "way training examples push the mode on balance: above 0 one way, below the other.",
        (trace,),
        layout(axis("singular value", type="log"), axis("alignment")),
        ("", "|Δc|", "singular value", "alignment"),
        rows,
    )
