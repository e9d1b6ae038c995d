"""The adversarial case on the page: what training did to attacked inputs, and whether the paper's account holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
import xarray as xr

from whence.adversarial import Study, findings
from whence.adversarial.groups import ADVERSARIAL, CLEAN, RANDOM
from whence.adversarial.study import CONTROL, CURED
from whence.datasets import as_examples
from whence.report.figures import FIRST, HARMED, MUTED, SECOND, Figure, Rows, axis, compact, layout
from whence.report.pictures import png
from whence.report.words import count, number, percent

_COLOURS = {CLEAN: FIRST, RANDOM: MUTED, ADVERSARIAL: SECOND, CURED: FIRST, CONTROL: HARMED}
_DASHES = {CURED: "dash", CONTROL: "dot"}
_SHOWN = 8


@final
@dataclass(frozen=True)
class Shown:
    """One input under every change.

    Attributes:
        key: Unique in the page.
        name: Of the group.
        picture: How it looks, as a data URI.
        answer: What the network gives.
        right: Whether that is the label.
    """

    key: str
    name: str
    picture: str | None
    answer: str
    right: bool


@final
@dataclass(frozen=True)
class Attacked:
    """The adversarial panel.

    Attributes:
        verdict: What came out, in a sentence or two.
        note: How to read it.
        outcomes: Rows of the table of answers: group, share answered rightly, mean loss, mean length of the change.
        claims: Rows of the table of claims: where, what, whether it holds, the numbers.
        rows: Inputs, each under every change.
        figures: Plots.
    """

    verdict: str
    note: str
    outcomes: Rows
    claims: Rows
    rows: tuple[tuple[Shown, ...], ...]
    figures: tuple[Figure, ...]


def attacked(study: Study) -> Attacked:
    """Return what the page says of a study.

    Args:
        study: Of `whence.adversarial.study`.
    """
    told = findings(study)
    right = study.outcomes["right"].mean("example")
    held = sum(one.holds for one in told)
    verdict = (
        f"{percent(float(right.sel(group=CURED)))} of {count(len(study.groups), 'adversarial input')} "
        f"({study.groups.attack}) are answered rightly after a small change that shifts their modes, "
        f"{percent(float(right.sel(group=CONTROL)))} after a random change of the same length. {held} of the "
        f"{len(told)} claims of the paper hold on this run."
    )
    note = (
        "Claims are those of the paper on path-integrated loss-gradient kernels, section 6.3; each stands beside the "
        "numbers that decide it here. The cure sees neither label nor clean input."
    )
    claims = tuple(
        (one.where, one.claim, "holds" if one.holds else "does not hold", _numbers(one.numbers)) for one in told
    )
    return Attacked(verdict, note, _outcomes(study), claims, _pictures(study), attacked_figures(study))


def attacked_figures(study: Study) -> tuple[Figure, ...]:
    """Return the plots of a study (PLGK, figures 10 to 19)."""
    curves = (*_of_influence(study), *_of_training(study))
    return (*(one.figure for one in curves), _modes(study), *(one.figure for one in _of_modes(study)))


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
    epochs, unit = study.influences.epoch.values, str(study.influences.attrs.get("unit", ""))
    gross, net = (study.influences[name].mean("example") for name in ("cumulative_gross", "cumulative_net"))
    by_layer = study.influences["gross"].mean("example").sel(group=ADVERSARIAL)
    layers = {str(name): by_layer.sel(layer=name) for name in by_layer.layer.values}
    share = study.path["share"]
    chosen = share.position.values[:: max(1, len(share) // 5)]
    path = {number(float(at), 2): share.sel(position=at) for at in chosen}
    grown = "Sizes of the influences of all training examples, added up. It grows on where influences cancel."
    signed = "Influences of all training examples with their signs, added up: the change of the loss."
    along = "Share of the gross influence that had come by each epoch; 0 is the clean input, 1 the adversarial one."
    return (
        _Curves("gross", "Gross influence so far", grown, "epoch", unit, epochs, _groups(gross)),
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
    slope = "Slope of each coefficient in the input, over the length of the loss gradient."
    modes, unit = felt.mode.values + 1, "per unit of input"
    cancel = "1 where all modes push an input's loss the same way, 0 where they cancel."
    times, whole = ratio.time.values, _groups(ratio.isel(modes=-1))
    return (
        _Curves("sensitivity", "How strongly inputs move each mode", slope, "mode", unit, modes, _groups(felt)),
        _Curves("cancellation", "Cancellation ratio along training", cancel, "step", "ratio", times, whole),
        _Curves("share", "The same at the end, by modes", cancel, "modes", "ratio", last.modes.values, _groups(last)),
    )


def _groups(values: xr.DataArray) -> dict[str, xr.DataArray]:
    return {str(name): values.sel(group=name) for name in values.group.values}


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
        "Size: mean difference of the coefficient. Right: modes with large singular values. Above 0: training examples "
        "push the mode one way on balance, below the other.",
        (trace,),
        layout(axis("singular value", type="log"), axis("alignment of the training examples")),
        ("", "|Δc|", "singular value", "alignment"),
        rows,
    )


def _outcomes(study: Study) -> Rows:
    means = study.outcomes.drop_vars("answer").mean("example")
    return tuple(
        (
            str(name),
            percent(float(means["right"].sel(group=name))),
            number(float(means["loss"].sel(group=name))),
            number(float(means["size"].sel(group=name))),
        )
        for name in study.groups.names
    )


def _numbers(numbers: dict[str, float]) -> str:
    return "; ".join(f"{name} {number(value)}" for name, value in numbers.items())


def _pictures(study: Study) -> tuple[tuple[Shown, ...], ...]:
    """Show the first inputs under every change."""
    few = range(min(_SHOWN, len(study.groups)))
    drawn = {
        name: as_examples((torch.as_tensor(inputs)[: len(few)].cpu(), study.groups.labels[: len(few)].cpu()))
        for name, inputs in study.groups.inputs.items()
    }
    rows = []
    for place in few:
        row = []
        for name in study.groups.names:
            pixels = drawn[name].picture(place)
            one = study.outcomes.sel(group=name).isel(example=place)
            picture = None if pixels is None else png(pixels)
            key = f"attacked-{place}-{study.groups.names.index(name)}"
            row.append(Shown(key, name, picture, str(int(one["answer"])), bool(one["right"])))
        rows.append(tuple(row))
    return tuple(rows)
