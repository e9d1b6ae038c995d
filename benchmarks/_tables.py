"""Gather the results of `benchmarks.counterfactual` into one page."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks._networks import SETTINGS, TARGETS

_SCORED = ("derivative", "held-out", "audit", "grad-dot")
_PRECISIONS = ("float32", "float64")
_COSTS = "network | threads | plain training, s | 1 target | 12 targets | 100 targets"
_HOLDS = 0.05  # relative error up to which a prediction counts as right


def table(results: Path) -> None:
    """Gather the results that are there into tables."""
    folders = (".", "small", "cost", "again", "cost-cuda")
    scores, small, costs, again, faster = (_read(results / "counterfactual" / folder) for folder in folders)
    machines = {json.dumps(one["machine"], sort_keys=True) for one in [*scores.values(), *small.values()]}
    head = (
        "Small networks on the first 5,000 training images of MNIST (convolution: 3,000; transformer: 3,000 sequences "
        f"of four, labelled with the largest digit), {TARGETS} test examples as targets, random removals; same "
        "initialisation and order. Scores: mean over targets of the rank correlation of predicted and retrained loss "
        "over removals (95 % interval over targets).\n"
    )
    text = head + "".join(f"Machine: {one}\n" for one in sorted(machines)) + "\n"
    text += _lines(
        "network | accuracy | sets | removed | derivative | derivative with 20 parts held out | audit | grad-dot | "
        "slope of these two | error at weights -2 % / -10 %",
        [row for name, one in scores.items() for row in _scored(name, one)],
    )
    if short := [row for name, one in scores.items() for row in _short(name, one)]:
        text += "\nBelow the bar set for it:\n\n" + "".join(f"- {row}\n" for row in short)
    if again:
        text += (
            f"\nThe derivative again with other seeds, each with an initialisation, order, {TARGETS} targets and "
            "removals of its own (mean over all targets, 95 % interval over targets, and each seed's mean):\n\n"
        )
        text += _lines(
            "network | sets | removed | derivative | bar | seeds",
            [row for name, one in again.items() for row in _again(name, one)],
        )
    if small:
        text += (
            "\nThe same prediction when 5 % of the examples lose only a part of their weight: error of the predicted "
            "change relative to the retrained one (sums of absolute values over removals and targets), and in "
            "brackets the score.\n\n"
        )
        parts = next(iter(small.values()))["parts"]
        text += _lines(
            "network | precision | sets | " + " | ".join(f"weights -{part:.0%}" for part in parts),
            [row for name, one in small.items() for row in _small(name, one)],
        )
        text += "\n" + "".join(f"- {name}: {_found(one)}\n" for name, one in small.items())
    text += "\nTime of a counterfactual as a multiple of the plain training it explains (median, range):\n\n"
    text += _lines(
        _COSTS,
        [_cost(name, one) for name, one in costs.items()],
    )
    if faster:
        accelerator = " and ".join(sorted({one["machine"]["accelerator"] for one in faster.values()}))
        text += f"\nThe same on {accelerator}:\n\n"
        text += _lines(_COSTS, [_cost(name, one) for name, one in faster.items()])
    (results / "counterfactual.md").write_text(text)


def file_of(folder: Path, name: str) -> Path:
    """Return where the result of a network stands."""
    return folder / f"{name.replace(', ', '-').replace(' ', '-')}.json"


def _read(folder: Path) -> dict[str, Any]:
    files = {name: file_of(folder, name) for name in SETTINGS}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def _lines(head: str, rows: list[str]) -> str:
    ruler = " | ".join("---" for _ in head.split("|"))
    return "".join(f"| {row} |\n" for row in [head, ruler, *rows])


def _scored(name: str, one: dict[str, Any]) -> list[str]:
    smooth = " / ".join(f"{error:.1%}" for error in one["smoothness"])
    rows = []
    for share, found in one["scores"].items():
        told = [
            f"{found[kind]['score']:.3f} ({found[kind]['low']:.3f} to {found[kind]['high']:.3f})"
            if kind in found
            else "not measured"
            for kind in _SCORED
        ]
        slopes = " / ".join(f"{found[kind]:.2f}" for kind in ("slope", "held_out_slope") if kind in found)
        rows.append(
            f"{name} | {one['accuracy']:.3f} | {one['sets']} | {float(share):.0%} | {' | '.join(told)} | "
            f"{slopes} | {smooth}"
        )
    return rows


def _short(name: str, one: dict[str, Any]) -> list[str]:
    rows = []
    for (share, found), bar in zip(one["scores"].items(), one["bars"] or (), strict=False):
        ours = found["derivative"]
        if ours["score"] < bar:
            within = "reaches" if ours["high"] >= bar else "stays below"
            rows.append(f"{name}, {float(share):.0%} removed: {ours['score']:.3f} of {bar}; the interval {within} it")
    return rows


def _again(name: str, one: dict[str, Any]) -> list[str]:
    bars = one["bars"] or ["none"] * len(one["scores"])
    return [
        f"{name} | {one['sets']} | {float(share):.0%} | {found['score']:.3f} ({found['low']:.3f} to "
        f"{found['high']:.3f}) | {bar} | {', '.join(f'{each:.3f}' for each in found['seeds'])}"
        for (share, found), bar in zip(one["scores"].items(), bars, strict=True)
    ]


def _small(name: str, one: dict[str, Any]) -> list[str]:
    return [
        f"{name} | {precision} | {one['sets']} | "
        + " | ".join(f"{found['error']:.1%} ({found['score']:.2f})" for found in one[precision])
        for precision in _PRECISIONS
    ]


def _found(one: dict[str, Any]) -> str:
    """Say what the errors of a network mean: whether its training bends or breaks, and whether rounding matters."""
    smallest, parts = one["parts"][-1], one["parts"]
    error = {precision: one[precision][-1]["error"] for precision in _PRECISIONS}
    scores = {precision: one[precision][0]["score"] for precision in _PRECISIONS}
    best = max(found["score"] for found in one["float64"])
    at = parts[[found["score"] for found in one["float64"]].index(best)]
    if error["float64"] < _HOLDS:
        told = (
            f"the training is smooth, and first order ends before weight 0: in float64 the error falls from "
            f"{one['float64'][0]['error']:.1%} to {error['float64']:.1%} as the part falls to {smallest:.0%}, and the "
            f"score rises from {scores['float64']:.3f} to {best:.3f} (at {at:.0%})"
        )
    else:
        told = (
            f"the training is not smooth: in float64 the error is still {error['float64']:.1%} when weights fall by "
            f"{smallest:.0%}, and no part gives a score above {best:.3f} (at {at:.0%})"
        )
    rounding = "is" if error["float32"] - error["float64"] > _HOLDS else "is not"
    return (
        f"{told}. Rounding {rounding} what limits small changes (error {error['float32']:.1%} in float32 against "
        f"{error['float64']:.1%} at {smallest:.0%}); whole examples score {scores['float32']:.3f} in float32, "
        f"{scores['float64']:.3f} in float64."
    )


def _cost(name: str, one: dict[str, Any]) -> str:
    ratios = one["ratios"].values()
    times = [f"{statistics.median(found):.1f} x ({found[0]:.1f} to {found[-1]:.1f})" for found in ratios]
    return f"{name} | {one['machine']['threads']} | {one['plain_seconds']:.2f} | {' | '.join(times)}"
