"""A claim of the paper holds for a study built so that it does, and not for one built so that it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from whence.adversarial import Finding, Study, findings

GROUPS = ("clean", "random", "adversarial")
MODES = 20


def told(made: Study, where: str) -> Finding:
    """Return what is said of a figure."""
    (one,) = [one for one in findings(made) if one.where == where]
    return one


def on_the_path(studied: Study, total: Sequence[float], clean: Sequence[float], adversarial: Sequence[float]) -> Study:
    """Return the study with these gross influences at the points, and these shares by epoch at both ends."""
    share = np.stack([clean, *[np.ones(len(clean))] * (len(total) - 2), adversarial])
    path = xr.Dataset(
        {"total": ("position", np.array(total, float)), "share": (("position", "epoch"), share)},
        {"position": np.linspace(0, 1, len(total))},
    )
    return replace(studied, path=path)


EARLY, LATE = (0.8, 0.9, 0.95, 1.0), (0.1, 0.4, 0.7, 1.0)


@pytest.mark.parametrize(
    ("total", "clean", "adversarial", "holds"),
    [
        ((1, 2, 9), EARLY, LATE, True),
        ((1, 5, 9), EARLY, LATE, False),  # in proportion
        ((1, 8, 9), EARLY, LATE, False),  # less than in proportion
        ((1, 2, 9), LATE, EARLY, False),  # not later
        ((1, 2, 9), (0.3, 0.5, 0.9, 1.0), (0.3, 0.5, 0.6, 1.0), False),  # the same up to half time
    ],
)
def test_figure_11_influence_grows_super_linearly_and_later_along_the_path(
    studied: Study, total: Sequence[float], clean: Sequence[float], adversarial: Sequence[float], holds: bool
) -> None:
    found = told(on_the_path(studied, total, clean, adversarial), "figure 11")
    assert found.holds is holds
    assert found.numbers["half way, over the straight line"] == pytest.approx(total[1] / 5)
    assert found.numbers["share in the first half of training, clean"] == pytest.approx(clean[1])


def test_figure_11_can_hold_in_a_training_of_two_epochs(studied: Study) -> None:
    assert told(on_the_path(studied, (1, 2, 9), (0.9, 1.0), (0.2, 1.0)), "figure 11").holds


def accumulated(studied: Study, net: Sequence[float], gross: Sequence[float], clean: float = -9.0) -> Study:
    """Return the study with these influences on adversarial inputs by epoch; a clean one's gross influence is 10."""

    def of_groups(adversarial: Sequence[float], end: float) -> xr.DataArray:
        other = np.linspace(0, end, len(adversarial) + 1)[1:]
        values = np.stack([other, other, adversarial])[:, None]
        return xr.DataArray(values, {"group": list(GROUPS)}, ("group", "example", "epoch"))

    rest = studied.influences[["gross", "net"]].isel(example=[0], epoch=[0] * len(net)).drop_vars("epoch")
    made = {"cumulative_net": of_groups(net, clean), "cumulative_gross": of_groups(gross, 10.0)}
    return replace(studied, influences=rest.drop_vars("example").assign(made))


@pytest.mark.parametrize(
    ("net", "gross", "clean", "holds"),
    [
        ((-0.5, -1.0, -1.1, -1.0), (5, 10, 15, 20), -9.0, True),
        ((-1.0, 0.0, 0.05, 0.1), (5, 10, 15, 20), -9.0, True),  # levels off at next to 0
        ((-0.5, -1.0, -1.5, -2.0), (5, 10, 15, 20), -9.0, False),  # both grow on alike
        ((-1.0, -2.0, -1.0, 0.0), (5, 10, 15, 20), -9.0, False),  # taken back
        ((-0.5, -1.0, -1.1, -1.0), (19, 20, 20, 20), -9.0, False),  # gross influence stops too
        ((-0.5, -1.0, -1.1, -1.0), (5, 10, 15, 20), -0.1, False),  # clean inputs cancel more
    ],
)
def test_figure_13_net_influence_levels_off_while_gross_influence_grows(
    studied: Study, net: Sequence[float], gross: Sequence[float], clean: float, holds: bool
) -> None:
    found = told(accumulated(studied, net, gross, clean), "figure 13")
    assert found.holds is holds
    assert found.numbers["net / gross at the end, clean"] == pytest.approx(abs(clean) / 10)
    change = found.numbers["change of gross influence in the second half, share of its largest"]
    assert change == pytest.approx((gross[-1] - gross[1]) / gross[-1])


@pytest.mark.parametrize(
    ("start", "fifth", "holds"),
    [
        ((0.2, 0.2, 0.5), (0.9, 0.85, 0.95), True),
        ((0.2, 0.2, 0.5), (1.0, 1.0, 0.7), False),  # one of the three comes later
        ((0.2, 0.95, 0.5), (0.9, 0.9, 0.95), False),  # one was there from the start
    ],
)
def test_figure_14_all_three_measures_rise_and_settle_within_a_fifth_of_training(
    studied: Study, start: Sequence[float], fifth: Sequence[float], holds: bool
) -> None:
    names = ("gradients", "subspace", "activations")
    values = {name: ("time", [a, (a + b) / 4, b, 1.0, 1.0]) for name, a, b in zip(names, start, fifth, strict=True)}
    found = told(replace(studied, regime=xr.Dataset(values, {"time": [0, 10, 20, 50, 100]})), "figure 14")
    assert found.holds is holds
    assert found.numbers["activations after a fifth of training"] == fifth[2]


@pytest.mark.parametrize(
    ("leading", "positive", "holds"),
    [(3.0, 4, True), (1.0, 4, False), (3.0, 0, False), (3.0, 10, False)],
)
def test_figure_15_adversarial_inputs_differ_in_leading_modes_of_both_signs(
    studied: Study, leading: float, positive: int, holds: bool
) -> None:
    size = np.ones((2, MODES))
    size[0, :10] = leading
    differences = xr.Dataset({"size": (("group", "mode"), size)}, {"group": ["adversarial", "random"]})
    alignment = torch.cat([torch.ones(positive), -torch.ones(len(studied.modes) - positive)]).double()
    made = replace(studied, differences=differences, modes=replace(studied.modes, alignment=alignment))
    found = told(made, "figure 15")
    assert found.holds is holds
    share = found.numbers["share of |Δc| in the first 10 modes, adversarial"]
    assert share == pytest.approx(leading / (leading + 1))
    assert found.numbers["the same, random"] == pytest.approx(0.5)


def by_mode(leading: float, groups: Sequence[str] = GROUPS) -> xr.DataArray:
    values = np.ones((len(groups), 2, MODES))
    values[..., :10] = leading
    return xr.DataArray(values, {"group": list(groups)}, ("group", "example", "mode"))


@pytest.mark.parametrize(
    ("raw", "corrected", "holds"), [(3.0, 2.0, True), (3.0, 0.9, False), (0.9, 3.0, False), (1.0, 1.0, False)]
)
def test_figure_16_leading_modes_are_more_sensitive_raw_and_corrected(
    studied: Study, raw: float, corrected: float, holds: bool
) -> None:
    made = xr.Dataset({"raw": by_mode(raw), "corrected": by_mode(corrected)})
    found = told(replace(studied, sensitivity=made), "figure 16")
    assert found.holds is holds
    assert found.numbers["corrected, first 10 / other modes, adversarial"] == pytest.approx(corrected)


def test_figure_16_is_of_clean_and_of_adversarial_inputs(studied: Study) -> None:
    for group in ("clean", "adversarial"):
        one = by_mode(3.0)
        one.loc[{"group": group}] = 1.0
        assert not told(replace(studied, sensitivity=xr.Dataset({"raw": one, "corrected": one})), "figure 16").holds


def along_the_run(
    studied: Study, sensitivities: dict[str, Sequence[float]], ratio: Sequence[float] = (1.0, 1.0, 1.0)
) -> Study:
    """Return the study with leading modes so many times as sensitive at its states, and late ratios of the groups."""
    cancellation = np.ones((4, 3, 2, 5))
    cancellation[2:, ..., -1] = np.array(ratio)[:, None]
    made = {name: xr.concat([by_mode(one) for one in values], "time") for name, values in sensitivities.items()}
    dims = ("time", "group", "example", "modes")
    return replace(studied, course=xr.Dataset({**made, "cancellation": (dims, cancellation)}))


@pytest.mark.parametrize(
    ("raw", "corrected", "holds"),
    [
        ((1.0, 7.0, 7.0, 3.0), (1.0, 7.0, 7.0, 2.0), True),
        ((3.0, 7.0, 7.0, 3.0), (1.0, 7.0, 7.0, 2.0), False),  # raw, it was there from the start
        ((1.0, 7.0, 7.0, 3.0), (2.0, 7.0, 7.0, 1.5), False),  # corrected, it shrinks
        ((0.2, 0.3, 0.5, 0.8), (0.2, 0.3, 0.5, 0.8), False),  # it grows, and the other modes stay ahead
    ],
)
def test_figure_17_sensitivity_of_leading_modes_pulls_away_in_training(
    studied: Study, raw: Sequence[float], corrected: Sequence[float], holds: bool
) -> None:
    found = told(along_the_run(studied, {"raw": raw, "corrected": corrected}), "figure 17")
    assert found.holds is holds
    assert found.numbers["raw, first 10 / other modes, early"] == pytest.approx(raw[0])
    assert found.numbers["corrected, first 10 / other modes, at the end"] == pytest.approx(corrected[-1])


@pytest.mark.parametrize(
    ("ratio", "holds"),
    [((0.5, 0.5, 0.2), True), ((0.5, 0.1, 0.2), False), ((0.1, 0.5, 0.2), False), ((0.4, 0.4, 0.4), False)],
)
def test_figure_18_adversarial_inputs_cancel_more_than_clean_and_random_ones(
    studied: Study, ratio: Sequence[float], holds: bool
) -> None:
    flat: dict[str, Sequence[float]] = {"raw": (1.0,) * 4, "corrected": (1.0,) * 4}
    found = told(along_the_run(studied, flat, ratio), "figure 18")
    assert found.holds is holds
    late = {name: found.numbers[f"mean ratio in the second half of training, {name}"] for name in GROUPS}
    assert late == pytest.approx(dict(zip(GROUPS, ratio, strict=True)))
    assert found.numbers["modes until the ratio settles"] == 5.0
