"""What the paper says of adversarial inputs, each with the number that decides it for a study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import xarray as xr

from whence.adversarial.groups import ADVERSARIAL, CLEAN, RANDOM
from whence.adversarial.study import CONTROL, CURED, CURED_RANDOM, WITHOUT_MODES, Study

_APART = 10  # the paper: two orders of magnitude between layers against a factor of 2
_TOP = 10
_STILL = 0.1  # share of itself by which a loss may move and still be called stuck
_SETTLED = 0.8  # how near to 1 a measure of the kernel regime is to be
_LOST = 0.05  # share of inputs that a cure may harm and still be called harmless


@final
@dataclass(frozen=True)
class Finding:
    """A claim and what a study says of it.

    Attributes:
        where: The figure or table of the paper (PLGK, section 6.3).
        claim: What is claimed.
        numbers: What decides, by name.
        holds: Whether the claim holds by them.
    """

    where: str
    claim: str
    numbers: dict[str, float]
    holds: bool


def findings(found: Study) -> list[Finding]:
    """Compare a study with the paper's account, claim by claim.

    Args:
        found: The study.
    """
    return [one(found) for one in _CLAIMS]


def _broad(found: Study) -> Finding:
    """Influences grow across the whole training set, about in proportion."""
    middle = {str(name): float(one.median()) for name, one in found.agreement.items()}
    numbers = {
        "gross influence, adversarial / clean": middle["ratio"],
        "share of training examples with more": middle["fraction_larger"],
        "correlation": middle["correlation"],
    }
    holds = middle["ratio"] > 1 and middle["fraction_larger"] > 0.5 and middle["correlation"] > 0.6
    return Finding("figure 9", "influences are stronger across the whole training set, about linearly", numbers, holds)


def _layered(found: Study) -> Finding:
    """The gross influence of adversarial inputs lies late and in the first fully connected layers."""
    gross = found.influences["gross"].mean("example").sel(group=ADVERSARIAL)
    by_layer = gross.sum("epoch")
    late = gross.isel(epoch=slice(max(1, gross.sizes["epoch"] // 5), None))
    net = abs(found.influences["net"].mean("example").sel(group=ADVERSARIAL)).sum("epoch")
    numbers = {
        "share of gross influence in the largest layer": float(by_layer.max() / by_layer.sum()),
        "gross influence, largest / smallest layer": float(by_layer.max() / by_layer.min()),
        "net influence, largest / smallest layer": float(net.max() / net.min()),
        "share of gross influence after a fifth of the epochs": float(late.sum() / gross.sum()),
    }
    apart = numbers["gross influence, largest / smallest layer"] / numbers["net influence, largest / smallest layer"]
    holds = numbers["share of gross influence after a fifth of the epochs"] > 0.5 and apart >= _APART
    claim = f"gross influence is late, and differs {_APART} times more by layer than net influence"
    return Finding("figure 10", claim, numbers, holds)


def _along(found: Study) -> Finding:
    """Along the path influence grows faster than in proportion, and comes later."""
    total, share = found.path["total"], found.path["share"]
    middle = int(total.sizes["position"] // 2)
    half = share.sizes["epoch"] // 2 - 1  # the last epoch of the first half
    line = float(total[0] + (total[-1] - total[0]) * found.path.position[middle])
    numbers = {
        "gross influence, adversarial / clean end": float(total[-1] / total[0]),
        "half way, over the straight line": float(total[middle] / line),
        "share in the first half of training, clean": float(share[0, half]),
        "share in the first half of training, adversarial": float(share[-1, half]),
    }
    holds = (
        numbers["half way, over the straight line"] < 1
        and numbers["share in the first half of training, clean"]
        > numbers["share in the first half of training, adversarial"]
    )
    return Finding("figure 11", "towards the adversarial end influence grows super-linearly, and later", numbers, holds)


def _stuck(found: Study) -> Finding:
    """Losses stop while influences on adversarial inputs stay large."""
    gross = found.influences["gross"].sum("layer").mean("example").isel(epoch=-1)
    losses = found.losses.mean("example")
    back = max(1, losses.sizes["time"] // 5)
    change = losses.isel(time=-1) - losses.isel(time=-1 - back)
    numbers = {
        "gross influence in the last epoch, adversarial / clean": float(
            gross.sel(group=ADVERSARIAL) / gross.sel(group=CLEAN)
        ),
        "the same, random / clean": float(gross.sel(group=RANDOM) / gross.sel(group=CLEAN)),
        "final loss, clean": float(losses.isel(time=-1).sel(group=CLEAN)),
        "final loss, adversarial": float(losses.isel(time=-1).sel(group=ADVERSARIAL)),
        "change of adversarial loss in the last fifth": float(change.sel(group=ADVERSARIAL)),
    }
    ours = numbers["gross influence in the last epoch, adversarial / clean"]
    loss, moved = numbers["final loss, adversarial"], numbers["change of adversarial loss in the last fifth"]
    high = loss > 2 * numbers["final loss, clean"] and abs(moved) < _STILL * loss
    holds = high and ours > 2 and ours > 2 * numbers["the same, random / clean"]
    return Finding("figure 12", "influence stays large on adversarial inputs, whose loss stays high", numbers, holds)


def _cancelled(found: Study) -> Finding:
    """The net influence stops, the gross one goes on.

    Each is measured by its own largest size: at half time a net influence may be next to 0, and anything is large
    beside that.
    """
    half = found.influences.sizes["epoch"] // 2
    gross, net = (
        found.influences[name].mean("example").sel(group=ADVERSARIAL) for name in ("cumulative_gross", "cumulative_net")
    )
    numbers = {
        "change of gross influence in the second half, share of its largest": _moved(gross, half),
        "change of net influence in the second half, share of its largest": _moved(net, half),
        "net / gross at the end, adversarial": float(abs(net[-1]) / gross[-1]),
        "net / gross at the end, clean": _net_share(found, CLEAN),
    }
    holds = numbers["net / gross at the end, adversarial"] < numbers["net / gross at the end, clean"] and (
        numbers["change of gross influence in the second half, share of its largest"]
        > numbers["change of net influence in the second half, share of its largest"]
    )
    return Finding(
        "figure 13", "net influence on adversarial inputs levels off while gross influence grows", numbers, holds
    )


def _moved(course: xr.DataArray, half: int) -> float:
    return float(abs(course[-1] - course[half - 1]) / abs(course).max())


def _net_share(found: Study, group: str) -> float:
    net, gross = (
        found.influences[name].mean("example").sel(group=group).isel(epoch=-1)
        for name in ("cumulative_net", "cumulative_gross")
    )
    return float(abs(net) / gross)


def _regime(found: Study) -> Finding:
    """All three measures rise early, and are near 1 then."""
    times = found.regime.time.values
    fifth = int(np.searchsorted(times, times[-1] / 5))
    numbers = {f"{name} after a fifth of training": float(one[fifth]) for name, one in found.regime.items()}
    numbers |= {f"{name} at the start": float(one[0]) for name, one in found.regime.items()}
    holds = all(float(one[fifth]) > max(_SETTLED, float(one[0])) for one in found.regime.values())
    claim = "gradients, subspace and activations all rise and settle within a fifth of training"
    return Finding("figure 14", claim, numbers, holds)


def _few_modes(found: Study) -> Finding:
    """The difference lies in the leading modes, of both alignments."""
    sizes = found.differences["size"]
    share = {
        name: float(sizes.sel(group=name)[:_TOP].sum() / sizes.sel(group=name).sum()) for name in (ADVERSARIAL, RANDOM)
    }
    signs = found.modes.alignment[:_TOP].sign()
    numbers = {
        "share of |Δc| in the first 10 modes, adversarial": share[ADVERSARIAL],
        "the same, random": share[RANDOM],
        "|Δc| of adversarial / of random": float(sizes.sel(group=ADVERSARIAL).sum() / sizes.sel(group=RANDOM).sum()),
        "of these 10 modes, aligned positively": float((signs > 0).sum()),
    }
    both = 0 < numbers["of these 10 modes, aligned positively"] < _TOP
    return Finding(
        "figure 15",
        "adversarial inputs differ in the leading modes, of both signs",
        numbers,
        share[ADVERSARIAL] > 0.5 and both,
    )


def _sensitive(found: Study) -> Finding:
    """The leading modes are the most sensitive to the input."""
    numbers = {}
    for name in ("raw", "corrected"):
        one = found.sensitivity[name].mean("example")
        for group in (CLEAN, ADVERSARIAL):
            mine = one.sel(group=group)
            numbers[f"{name}, first 10 / other modes, {group}"] = float(mine[:_TOP].mean() / mine[_TOP:].mean())
    holds = all(value > 1 for value in numbers.values())
    return Finding("figure 16", "the leading modes are the most sensitive to the input", numbers, holds)


def _learned(found: Study) -> Finding:
    """Their sensitivity is learned."""
    numbers = {}
    for name in ("raw", "corrected"):
        one = found.course[name].mean("example").sel(group=CLEAN)
        gap = one[:, :_TOP].mean("mode") / one[:, _TOP:].mean("mode")
        numbers[f"{name}, first 10 / other modes, early"] = float(gap[0])
        numbers[f"{name}, first 10 / other modes, at the end"] = float(gap[-1])
    holds = all(
        numbers[f"{name}, first 10 / other modes, at the end"]
        > max(1, numbers[f"{name}, first 10 / other modes, early"])
        for name in ("raw", "corrected")
    )
    return Finding(
        "figure 17", "the leading modes' sensitivity grows away from the others' in training", numbers, holds
    )


def _ratio(found: Study) -> Finding:
    """Adversarial inputs cancel more."""
    ratio = found.course["cancellation"].isel(modes=-1).mean("example")
    late = ratio.isel(time=slice(ratio.sizes["time"] // 2, None)).mean("time")
    numbers = {
        f"mean ratio in the second half of training, {name}": float(late.sel(group=name)) for name in late.group.values
    }
    numbers |= {"modes until the ratio settles": _settled(found.course["cancellation"])}
    ours = numbers[f"mean ratio in the second half of training, {ADVERSARIAL}"]
    holds = ours < min(numbers[f"mean ratio in the second half of training, {name}"] for name in (CLEAN, RANDOM))
    return Finding("figure 18", "what the modes do to adversarial inputs cancels more than for others", numbers, holds)


def _settled(ratio: xr.DataArray) -> float:
    """Return after how many modes the adversarial ratio at the end of training stays within 10 % of its last value."""
    one = ratio.isel(time=-1).sel(group=ADVERSARIAL).mean("example").values
    away = np.flatnonzero(abs(one - one[-1]) > 0.1 * one[-1])
    return float(away[-1] + 2 if len(away) else 1)


def _concentrated(found: Study) -> Finding:
    """Few modes carry it."""
    told = found.concentration
    numbers = {
        "participation ratio of |Λ|": told["participation_drive"],
        "of |Δc|": told["participation_change"],
        "of the sensitivity": told["participation_sensitivity"],
        "of |Λ| |Δc|": told["participation_product"],
        "share of |Λ| |Δc| in 5 modes": told["share_of_top_5"],
        "correlation of |Λ| with |Δc|": told["correlation_drive_change"],
        "correlation of |Λ| with the sensitivity": told["correlation_drive_sensitivity"],
    }
    least = min(told["participation_drive"], told["participation_change"])
    holds = told["share_of_top_5"] > 0.5 and told["participation_product"] < least
    return Finding("section 6.3", "the product of drive and change is more concentrated than either", numbers, holds)


def _cured(found: Study) -> Finding:
    """The cure works where a random change does not."""
    right = found.outcomes["right"].mean("example")
    numbers = {f"right, {name}": float(right.sel(group=name)) for name in (CLEAN, RANDOM, ADVERSARIAL, CURED, CONTROL)}
    numbers["cosine of cure and attack"] = float(found.undoing.mean())
    holds = numbers[f"right, {CURED}"] >= 0.85 and numbers[f"right, {CONTROL}"] <= 0.2
    claim = f"a small change that {_AIMS[found.plan.recipe.aim]} cures, a random one does not"
    return Finding("table 2", claim, numbers, holds)


def _needed(found: Study) -> Finding:
    """The cure does more than the same steps without modes would."""
    right = found.outcomes["right"].mean("example")
    numbers = {f"right, {name}": float(right.sel(group=name)) for name in (CURED, WITHOUT_MODES)}
    holds = numbers[f"right, {CURED}"] >= numbers[f"right, {WITHOUT_MODES}"] + _LOST
    return Finding("control", "the cure does more than raising the loss of the answer, without modes", numbers, holds)


_AIMS = {
    "drive": "breaks the balance of modes",
    "grow": "strengthens what all modes together do",
    "loss": "raises the loss of the answer",
}


def _unharmed(found: Study) -> Finding:
    """The cure does nothing to inputs that are answered rightly."""
    right = found.outcomes["right"].mean("example")
    numbers = {f"right, {name}": float(right.sel(group=name)) for name in (RANDOM, CURED_RANDOM)}
    holds = numbers[f"right, {CURED_RANDOM}"] >= numbers[f"right, {RANDOM}"] - _LOST
    return Finding("table 2", "the cure leaves randomly changed inputs answered as before", numbers, holds)


_CLAIMS: tuple[Callable[[Study], Finding], ...] = (
    *(_broad, _layered, _along, _stuck, _cancelled, _regime, _few_modes, _sensitive, _learned, _ratio),
    *(_concentrated, _unharmed, _cured, _needed),
)
