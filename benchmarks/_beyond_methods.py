"""The methods of ``beyond.py``: what each makes of the derivatives and outcomes, what it costs, and how it scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LassoCV

Array = NDArray[Any]
Found = Mapping[str, Any]
"""What was computed: (forces, targets, train) for each pass, (weights, outcomes) or (sets, outcomes) for trainings."""
PARTS = (5, 10, 20, 40)
FORCES = ("exact", *(f"held {one}" for one in PARTS), *(f"linear {one}" for one in PARTS), "last tenth", "last half")
"""Of a pass, by the place in its first axis; the last two of the pass at weights 1 alone."""
_DRAWS = 500
_PENALTIES = np.logspace(-2, 4, 13)
_BUDGET = 50


@dataclass(frozen=True)
class Costs:
    """Measured costs of a pass, each in plain trainings: for twelve targets, and for one."""

    twelve: list[float]
    single: list[float]


@dataclass(frozen=True)
class Method:
    """One number a target and example, (targets, train): the change of the log loss without the example.

    Attributes:
        effects: Makes them.
        passes: How many derivatives it needs.
        trainings: How many plain trainings besides.
    """

    effects: Callable[[Found], Array]
    passes: int
    trainings: int


def mean(names: Sequence[str], force: str = "exact", share: float = 1.0) -> Callable[[Found], Array]:
    """Return the mean of derivatives, with a share of the forces replaced by another kind."""

    def effects(found: Found) -> Array:
        place = FORCES.index(force)
        mixed = [(1 - share) * found[name][0] + share * found[name][place] for name in names]
        average: Array = np.mean(mixed, 0)
        return average

    return effects


def ridge(pools: Mapping[str, int], prior: Callable[[Found], Array] | None) -> Callable[[Found], Array]:
    """Return a ridge regression of the first outcomes of pools on weights, shrunk to a multiple of prior effects."""

    def effects(found: Found) -> Array:
        moved = np.concatenate([found[name][0][:count] - 1 for name, count in pools.items()])
        outcomes = np.concatenate([found[name][1][:count] for name, count in pools.items()])
        x, y = moved - moved.mean(0), outcomes - outcomes.mean(0)
        start = np.zeros((y.shape[1], x.shape[1]))
        if prior is not None:
            known = prior(found)
            told = -x @ known.T
            start = known * ((told * y).sum(0) / (told**2).sum(0))[:, None]
        kernel, rest = x @ x.T, y + x @ start.T
        values, vectors = np.linalg.eigh(kernel)
        turned = vectors.T @ rest
        errors = []
        for penalty in _PENALTIES * kernel.diagonal().mean():
            kept = penalty / (values + penalty)
            left_out = (vectors @ (kept[:, None] * turned)) / ((vectors**2) @ kept)[:, None]
            errors.append((left_out**2).sum(0))
        best = _PENALTIES[np.argmin(errors, 0)] * kernel.diagonal().mean()
        dual = vectors @ (turned / (values[:, None] + best))
        found_: Array = start - dual.T @ x
        return found_

    return effects


def lasso(pool: str) -> Callable[[Found], Array]:
    """Return a lasso regression of outcomes on weights, its penalty chosen in five parts (datamodels)."""

    def effects(found: Found) -> Array:
        moved, outcomes = found[pool][0] - 1, found[pool][1]
        fits = [LassoCV(cv=5, alphas=20, max_iter=3000).fit(moved, one) for one in outcomes.T]
        return -np.stack([one.coef_ for one in fits])

    return effects


_WIDE = [f"noise0.2-{number}" for number in range(4)]
_NARROW = [f"noise0.1-{number}" for number in range(2)]
_LINEAR = mean(["one"], "linear 20")
METHODS: dict[str, Method] = {
    "derivative": Method(mean(["one"]), 1, 0),
    "mean of 4 derivatives, random 95 % subsets": Method(mean([f"less5%-{n}" for n in range(4)]), 4, 0),
    "mean of 2, weights N(1, 0.1²), mirrored": Method(mean(_NARROW), 2, 0),
    "mean of 2, weights N(1, 0.2²), mirrored": Method(mean(_WIDE[:2]), 2, 0),
    "mean of 4, weights N(1, 0.2²), mirrored": Method(mean(_WIDE), 4, 0),
    "walk cut to the last tenth": Method(mean(["one"], "last tenth"), 1, 0),
    "walk cut to the last half": Method(mean(["one"], "last half"), 1, 0),
    "walk damped by 1 % a step": Method(mean(["damped"]), 1, 0),
    "mean loss of the last epoch": Method(mean(["smooth"]), 1, 0),
    "derivative at another order of the batches": Method(mean(["other order"]), 1, 0),
    "mean of the derivatives at both orders": Method(mean(["one", "other order"]), 2, 0),
    "held-out gradients, 20 parts": Method(mean(["one"], "held 20"), 1, 20),
    "half held-out gradients, 20 parts": Method(mean(["one"], "held 20", 0.5), 1, 20),
    **{f"held-out outputs, {n} parts": Method(mean(["one"], f"linear {n}"), 1, n) for n in PARTS},
    "held-out outputs, 20 parts; mean of 2, N(1, 0.2²)": Method(mean(_WIDE[:2], "linear 20"), 2, 20),
    "derivative + ridge on 39 outcomes (95 %)": Method(ridge({"pool250": 39}, mean(["one"])), 1, 39),
    "derivative + ridge on 39 outcomes (halves)": Method(ridge({"pool2500": 39}, mean(["one"])), 1, 39),
    "held-out outputs, 20 parts + ridge on 39 outcomes": Method(ridge({"folds20": 20, "pool250": 19}, _LINEAR), 1, 39),
    "control: ridge on 50 outcomes (halves)": Method(ridge({"pool2500": 50}, None), 0, 50),
    "control: ridge on 50 outcomes (95 %)": Method(ridge({"pool250": 50}, None), 0, 50),
    "control: lasso on 50 outcomes (halves)": Method(lasso("pool2500"), 0, 50),
}


def summed(effects: Array, sets: Sequence[Array]) -> Array:
    """Return the predicted change of each set, (sets, targets)."""
    return np.stack([effects[:, one].sum(1) for one in sets])


def agreement(predicted: Array, truth: Array) -> float:
    """Return the mean over targets of the rank correlation over sets; 0 of a target of which nothing is predicted."""
    told = np.ptp(predicted, axis=0) > 0
    first, second = (np.argsort(np.argsort(one, axis=0), axis=0).astype(float) for one in (predicted, truth))
    first, second = first - first.mean(0), second - second.mean(0)
    each = (first * second).sum(0) / np.sqrt((first**2).sum(0) * (second**2).sum(0))
    return float((each * told).mean())


def interval(predicted: Array, truth: Array, other: Array | None = None) -> list[float]:
    """Return a 95 % interval, over sets, of the agreement, or of how far it is above another prediction's."""
    draws = np.random.default_rng(0).integers(len(truth), size=(_DRAWS, len(truth)))
    found = [
        agreement(predicted[rows], truth[rows]) - (0.0 if other is None else agreement(other[rows], truth[rows]))
        for rows in draws
    ]
    return [float(one) for one in np.percentile(found, (2.5, 97.5))]


def slope(predicted: Array, truth: Array) -> float:
    """Return the median over targets of the least squares slope through 0 of the truth on the prediction."""
    size = (predicted**2).sum(0)
    return float(np.median((predicted * truth).sum(0) / np.where(size > 0, size, 1.0)))


def error(predicted: Array, truth: Array) -> float:
    """Return the median over targets of the mean error relative to the mean change."""
    return float(np.median(np.abs(predicted - truth).sum(0) / np.abs(truth).sum(0)))


def report(found: Found, computer: object) -> dict[str, Any]:
    """Score every method; return the results and their table, with the machine that they are from."""
    twelve, single = (float(np.median(one)) for one in (found["costs"].twelve, found["costs"].single))
    plain = METHODS["derivative"].effects(found)
    rows: dict[str, dict[str, Any]] = {}
    for name, method in METHODS.items():
        effects = method.effects(found)
        row: dict[str, Any] = {
            "cost_twelve_targets": method.passes * twelve + method.trainings,
            "cost_one_target": method.passes * single + method.trainings,
        }
        for kind in ("choosing", "1%", "5%"):
            sets, truth = found[kind]
            told, base = summed(effects, sets), summed(plain, sets)
            row[kind] = {"score": agreement(told, truth), "slope": slope(told, truth)}
            row[kind] |= {"interval": interval(told, truth), "gain": interval(told, truth, base)}
        rows[name] = row
    why = explanation(found, plain)
    own_cost = {
        "pass_twelve_targets": twelve,
        "pass_one_target": single,
        "library_one_and_twelve": found["library-cost"],
    }
    own_cost |= {f"training_{count}_parts": found[f"folds{count}-cost"] for count in PARTS}
    return {"costs": own_cost, "scores": rows, "explanation": why, "table": table(rows, why, own_cost, computer)}


def explanation(found: Found, plain: Array) -> dict[str, Any]:
    """Return how the prediction does at every step of the weights, in float64, and with the true held-out forces."""
    sets, removed = found["choosing"]
    told, why = summed(plain, sets), {}
    cases = {step: found[f"step {step:g}"] / step for step in (0.01, 0.1, 0.5)}
    count = len(cases[0.01])
    cases |= {1.0: removed[:count], -1.0: -found["step -1"]}
    for step, change in cases.items():
        part = told[:count]
        why[f"{step:g}"] = {
            "score": agreement(part, change), "slope": slope(part, change), "error": error(part, change)
        }  # fmt: skip
    double = found["double"]
    odd, even = (removed[:count] - found["step -1"]) / 2, (removed[:count] + found["step -1"]) / 2
    return {
        "steps": why,
        "float32_removal_error": error(double[1:5] - double[0], removed[:4]),
        "float64_error_at_0.001": error(told[:4], (double[5:] - double[0]) / 1e-3),
        "odd_part_score": agreement(odd, removed[:count]),
        "even_share_of_variance": float(np.median(even.var(0) / removed[:count].var(0))),
        "true_held_out": {
            kind: {"score": agreement(part, removed[:count]), "slope": slope(part, removed[:count])}
            for kind, part in {
                "gradients": found["oracle"][:count],
                "half gradients": (found["oracle"][:count] + told[:count]) / 2,
                "outputs": found["oracle"][count:],
            }.items()
        },
        "library_difference": float(np.abs(found["library"] - plain).max() / np.abs(plain).max()),
        "base_losses": np.exp(found["base"][0]).tolist(),
    }


_HEAD = """\
MNIST, first 5,000 training images, 784-128-64-10 with GELU, SGD 0.01, momentum 0.9, batch 64, 10 epochs; 12 test images
as targets. Random removals, same initialisation and order (track B): 60 of 1 % and 60 of 5 % for the scores, 40 others
of 1 % for choosing. Score: mean over targets of the rank correlation of predicted and retrained loss over removals;
"above the derivative": 95 % interval over removals of the difference. Costs in plain trainings measured beside: a pass
is {pass_twelve:.0f} for 12 targets, {pass_one:.0f} for one (the library: {library[1]:.0f} and {library[0]:.0f}). Slope:
least squares of retrained on predicted change of the log loss.
Written by `python -m benchmarks.beyond`; machine: {machine}
"""
_WHY = """
## Why the derivative falls short

The prediction beside retraining, the sets of 1 % at other weights (16 of the sets for choosing):
"""
_THEN = """
The training is smooth, and precision is no matter: float32 and float64 agree on the change by a removal within
{float32:.1e}; at weights 0.999 in float64 the prediction errs by {float64:.2%}. The derivative is right for steps of a
tenth of a weight, not for a whole one, and it fails in a one-sided way: removal does more than predicted, doubling does
less. The part of the change that is odd in the step, all that derivatives at 1 can follow, has a rank correlation
of {odd:.3f} with the whole ({even:.0%} of the variance is even), so there is far more to gain than averages of
derivatives gain. Some of the even part is each example's own square, which one number an example can hold.

What is missing is the example's own pull. Near weight 1, an example that the parameters move away from pulls them back;
with weight 0 it does not. So to first order in the parameters' change dθ, but with the weight at 0, the walk back u
stays as it is, and an example's force g = ∂ℓ/∂z becomes g + H (z° - z), with H = ∂²ℓ/∂z² and z, z° its outputs in the
recorded training and in one without it. Of least squares this is exact. With the true z° of each set (16 sets) the
score is {oracle_outputs:.3f} (slope {oracle_slope:.2f}); with the true gradients ∂ℓ/∂z(z°), which
overshoot, {oracle_gradients:.3f}; the derivative there {derivative:.3f}. The parts give z° for every example at once:
20 trainings, each without a twentieth.
"""


def table(rows: Mapping[str, Any], why: Mapping[str, Any], costs: Mapping[str, Any], computer: object) -> str:
    """Return scores and explanation as Markdown."""
    lines = [
        "| method | cost, 12 targets | one target | 1 % (choosing) | 1 % | above the derivative | 5 % "
        "| above the derivative | slope 1 % / 5 % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        one, five = row["1%"], row["5%"]
        gains = [f"{part['gain'][0]:+.3f} to {part['gain'][1]:+.3f}" for part in (one, five)]
        over = "" if row["cost_twelve_targets"] <= _BUDGET else " (over 50)"
        lines.append(
            f"| {name} | {row['cost_twelve_targets']:.0f}{over} | {row['cost_one_target']:.0f} "
            f"| {row['choosing']['score']:.3f} | **{one['score']:.3f}** | {gains[0]} | **{five['score']:.3f}** "
            f"| {gains[1]} | {one['slope']:.2f} / {five['slope']:.2f} |"
        )
    steps = ["| weights of the set | rank correlation | slope of truth on prediction | error |", "|---|---|---|---|"]
    for step, case in why["steps"].items():
        name = f"{1 - float(step):g}"
        steps.append(f"| {name} | {case['score']:.3f} | {case['slope']:.2f} | {case['error']:.1%} |")
    true = why["true_held_out"]
    head = _HEAD.format(
        pass_twelve=costs["pass_twelve_targets"],
        pass_one=costs["pass_one_target"],
        library=costs["library_one_and_twelve"],
        machine=computer,
    )
    then = _THEN.format(
        float32=why["float32_removal_error"],
        float64=why["float64_error_at_0.001"],
        odd=why["odd_part_score"],
        even=why["even_share_of_variance"],
        oracle_outputs=true["outputs"]["score"],
        oracle_slope=true["outputs"]["slope"],
        oracle_gradients=true["gradients"]["score"],
        derivative=why["steps"]["1"]["score"],
    )
    return "\n".join([head, *lines, _WHY, *steps, then])
