"""The adversarial case on the page: what training did to attacked inputs, and whether the paper's account holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch

from whence.adversarial import Study, findings
from whence.adversarial.groups import ADVERSARIAL, CLEAN, RANDOM
from whence.adversarial.study import AUDITED, CONTROL, CURED, CURED_RANDOM, WITHOUT_MODES
from whence.audit import Audit
from whence.datasets import as_examples
from whence.report.attack_plots import attacked_figures
from whence.report.choice import refuse_another_run
from whence.report.figures import Figure, Rows
from whence.report.pictures import png
from whence.report.words import count, number, percent
from whence.runs import Run

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
        hardened: Rows of the table of networks trained anew, on clean and on adversarial inputs: network, accuracy,
            robust accuracy, modes that hold shares of the energy, ratio of energies.
    """

    verdict: str
    note: str
    outcomes: Rows
    claims: Rows
    rows: tuple[tuple[Shown, ...], ...]
    figures: tuple[Figure, ...]
    hardened: Rows


@final
@dataclass(frozen=True)
class Inputs:
    """What the targets of a page are, where a study made them.

    Attributes:
        names: By row of the audit.
        explained: The rows to explain: each adversarial input, then each clean one.
    """

    names: dict[int, str]
    explained: list[int]


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
        f"({study.groups.attack}) are answered rightly after the cure, "
        f"{percent(float(right.sel(group=WITHOUT_MODES)))} after the same steps without modes, "
        f"{percent(float(right.sel(group=CONTROL)))} after a random change of the same length. Of the random inputs, "
        f"{percent(float(right.sel(group=RANDOM)))} are answered rightly before the same cure and "
        f"{percent(float(right.sel(group=CURED_RANDOM)))} after it. {held} of the {len(told)} claims below hold on "
        "this run."
    )
    note = (
        "Claims are those of the paper on path-integrated loss-gradient kernels, section 6.3, and a control of its "
        "cure; each stands beside the numbers that decide it here. The cure sees neither label nor clean input, "
        "and does not know a wrong answer from a right one."
    )
    claims = tuple(
        (one.where, one.claim, "holds" if one.holds else "does not hold", _numbers(one.numbers)) for one in told
    )
    return Attacked(
        verdict, note, _outcomes(study), claims, _pictures(study), attacked_figures(study), _hardened(study)
    )


def audited_inputs(run: Run, study: Study | None, audit: Audit) -> Inputs:
    """Return what the audited inputs of a study are.

    Args:
        run: The run.
        study: The study, if there is one.
        audit: The audit that the page is about; where it is of other inputs than the study's, nothing is told of them.

    Raises:
        AuditError: If the study is of another run.
    """
    if study is not None:
        refuse_another_run(run, study.audit.data.attrs, "study", "study")
    if study is None or audit.data.attrs.get("targets_fingerprint") != study.audit.data.attrs["targets_fingerprint"]:
        return Inputs({}, [])
    ids, points = study.groups.ids, study.plan.points
    rows = {name: range(group * len(ids), (group + 1) * len(ids)) for group, name in enumerate(AUDITED)}
    names = {row: f"{name}, of example {one}" for name in AUDITED for row, one in zip(rows[name], ids, strict=True)}
    start = len(names)
    for point in range(points):
        names[start + point] = f"{number(point / (points - 1), 2)} of the way from example {ids[0]}"
    return Inputs(names, [*rows[ADVERSARIAL], *rows[CLEAN]])


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


def _hardened(study: Study) -> Rows:
    if study.hardened is None:
        return ()
    most = 0 if study.plan.hardening is None else study.plan.hardening.modes
    return tuple(
        (
            str(one["network"].item()),
            percent(float(one["accuracy"])),
            percent(float(one["robust"])),
            *(f"over {most}" if math.isnan(value) else f"{value:.0f}" for value in one["modes"].values.tolist()),
            number(float(one["energy_ratio"])),
        )
        for one in (study.hardened.isel(network=place) for place in range(study.hardened.sizes["network"]))
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
