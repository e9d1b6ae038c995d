"""All of the adversarial case in one call: attack, audit, modes, cancellation, cure; and what it says in numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from whence._errors import ArgumentError, AuditError
from whence._numbers import is_whole, random_ids
from whence.adversarial.attacks import attack
from whence.adversarial.cancelling import (
    first_modes,
    mode_coefficients,
    mode_concentration,
    mode_differences,
    modes_over_time,
    sensitivity,
)
from whence.adversarial.cure import SMALLEST, Recipe, cure, with_cure
from whence.adversarial.groups import ADVERSARIAL, CLEAN, RANDOM, Groups
from whence.adversarial.hardening import Hardening, compare_hardened
from whence.adversarial.influences import influence_agreement, influence_over_time, path_profile, perturbation_path
from whence.adversarial.outcomes import agreement, loss_over_time, outcomes
from whence.adversarial.regime import kernel_regime
from whence.audit import Audit, audit, load_audit
from whence.audit.quadrature import check_tolerance, rule
from whence.datasets import as_examples
from whence.kernel import Modes, modes
from whence.kernel.moments import ends_of_epochs
from whence.runs import Run, check_run

CURED, CONTROL, CURED_RANDOM = f"cured {ADVERSARIAL}", f"{ADVERSARIAL} + {RANDOM}", f"cured {RANDOM}"
WITHOUT_MODES = f"{CURED}, no modes"
AUDITED = (CLEAN, RANDOM, ADVERSARIAL)
_TOP = 10  # leading modes, which findings compare with the others


@final
@dataclass(frozen=True)
class Plan:
    """What a study takes.

    Attributes:
        count: Adversarial inputs.
        method, epsilon, bounds: Of the attack, as in `attack`.
        modes: How many modes at the end of the training.
        sensitive: Of how many of them to measure the inputs' sensitivity, of all where that is more; above 10, as the
            first 10 are compared with the others.
        examples: How many training examples the modes along the run and the regime are of; those at the end are of all.
        times: At how many states the modes are followed, at least 2.
        points: Inputs on the path from a clean input to its adversarial twin, at least 3: one lies between the ends.
        recipe: The cure.
        quadrature, tolerance: Of the audit, as in `whence.audit`: a network of large steps needs more than the default.
        hardening: How the network is trained anew on adversarial inputs, to compare; None leaves that out.
        seed: Of every draw.
    """

    count: int = 32
    method: str | Callable[[], Any] = "linf-pgd"
    epsilon: float | None = None
    bounds: tuple[float, float] | None = None
    modes: int = 125
    sensitive: int = 50
    examples: int = 2048
    times: int = 11
    points: int = 11
    recipe: Recipe = SMALLEST
    quadrature: str = "trapezoid"
    tolerance: float | None = None
    hardening: Hardening | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what can be checked before any work.

        Raises:
            ArgumentError: If a number is too small for what is compared, or the recipe or hardening is none.
        """
        kinds = {"recipe": (Recipe, "SMALLEST"), "hardening": (Hardening | None, "Hardening() or None")}
        for name, (kind, such) in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise ArgumentError(f"A study's `{name}` is such as {such}; got {getattr(self, name)!r}.")
        least = {"count": 1, "modes": _TOP + 1, "sensitive": _TOP + 1, "examples": self.modes, "times": 2, "points": 3}
        for name, smallest in least.items():
            given = getattr(self, name)
            if not is_whole(given) or given < smallest:
                raise ArgumentError(f"A study's `{name}` is a whole number, here at least {smallest}; got {given!r}.")
        if self.recipe.aim != "loss" and self.recipe.modes > self.modes:
            raise ArgumentError(f"The recipe shifts {self.recipe.modes} modes, and `modes` is {self.modes}.")
        rule(self.quadrature)
        check_tolerance(self.tolerance)


@final
@dataclass(frozen=True, eq=False)
class Study:
    """What a study found.

    Attributes:
        plan: What was asked.
        groups: Clean, random and adversarial inputs, the latter two cured, and the controls of the cure: a random
            change of its length, and the same steps up the loss of the answer, without modes.
        audit: Of clean, random and adversarial inputs, then of the inputs on the path; by layer and epoch.
        influences: `influence_over_time`.
        agreement: `influence_agreement` of adversarial with clean inputs.
        path: `path_profile`.
        regime: `kernel_regime`.
        modes: At the end of the training.
        differences: `mode_differences` of adversarial and of random from clean inputs, dim ``"group"``.
        concentration: `mode_concentration`.
        sensitivity: `whence.adversarial.sensitivity` at the end.
        course: `modes_over_time`.
        losses: `loss_over_time` of all groups.
        outcomes: `outcomes` of all groups.
        undoing: Cosine of each cure with the attack before it.
        hardened: `compare_hardened`, if the plan asks for it.
    """

    plan: Plan
    groups: Groups
    audit: Audit
    influences: xr.Dataset
    agreement: xr.Dataset
    path: xr.Dataset
    regime: xr.Dataset
    modes: Modes
    differences: xr.Dataset
    concentration: dict[str, float]
    sensitivity: xr.Dataset
    course: xr.Dataset
    losses: xr.DataArray
    outcomes: xr.Dataset
    undoing: xr.DataArray
    hardened: xr.Dataset | None = None

    @property
    def targets(self) -> tuple[Tensor, Tensor]:
        """The audited inputs with their labels, in the order of the audit."""
        return _targets(self.groups.only(AUDITED), self.plan)


def study(
    run: Run,
    examples: Any,
    *,
    plan: Plan | None = None,
    path: str | Path | None = None,
    memory_budget: int = 2**29,
) -> Study:
    """Attack a recorded network and explain why training did not teach it the attacked inputs (PLGK, section 6.3).

    Args:
        run: The recorded run.
        examples: What is attacked: anything `as_examples` takes, with classes as labels.
        plan: What to take; ``Plan()`` if left out.
        path: Where to keep the audit, which may be large; an interrupted one goes on from there. A finished audit of
            the same inputs is taken as it is.
        memory_budget: Bytes that gradients and influences may take.

    Raises:
        ArgumentError: If a part of the plan is outside what it may be, or the run has fewer than 2 epochs.
        AttackError: If the attack finds too few adversarial inputs.
        AuditError: If the audit does not fit the budget and there is no ``path``, or another audit stands there.
        MissingExtraError: If foolbox is not installed.
    """
    plan = Plan() if plan is None else plan
    check_run(run, "A study")
    if run.epochs < 2:
        raise ArgumentError(f"A study compares epochs, at least 2; the run at {run.path} has {run.epochs}.")
    three = attack(
        run,
        examples,
        count=plan.count,
        method=plan.method,
        epsilon=plan.epsilon,
        bounds=plan.bounds,
        seed=plan.seed,
    )
    if len(run.examples) < plan.modes:
        raise ArgumentError(
            f"The run has {len(run.examples)} training examples, fewer than the {plan.modes} modes asked."
        )
    some = random_ids(len(run.examples), min(len(run.examples), plan.examples), plan.seed)
    found = modes(run, count=plan.modes, seed=plan.seed, memory_budget=memory_budget)
    groups = with_cure(three, found, run, recipe=plan.recipe, seed=plan.seed)
    unharmed = cure(found, run, three.inputs[RANDOM], recipe=plan.recipe, bounds=three.bounds)
    groups = groups.with_group(CURED_RANDOM, unharmed)
    blind = replace(plan.recipe, aim="loss")
    plainly = cure(found, run, three.inputs[ADVERSARIAL], recipe=blind, bounds=three.bounds)
    groups = groups.with_group(WITHOUT_MODES, plainly)
    leading = first_modes(found, min(plan.sensitive, plan.modes))
    audited = _audited(run, three, plan, path, memory_budget)
    whole = audited.influence.isel(target=slice(0, len(three) * len(AUDITED)))
    line = audited.influence.isel(target=slice(len(three) * len(AUDITED), None))
    values = mode_coefficients(found, run, three)
    apart = [mode_differences(found, values, of=name) for name in (ADVERSARIAL, RANDOM)]
    ends = np.asarray(ends_of_epochs(run))
    followed = ends[np.unique(np.linspace(0, len(ends) - 1, min(plan.times, len(ends))).round().astype(int))]
    return Study(
        plan=plan,
        groups=groups,
        audit=audited,
        influences=influence_over_time(whole, three),
        agreement=influence_agreement(whole, three),
        path=path_profile(line),
        regime=kernel_regime(run, ids=some[:512], seed=plan.seed, memory_budget=memory_budget),
        modes=found,
        differences=xr.concat(apart, xr.Variable("group", [ADVERSARIAL, RANDOM]), data_vars=["difference", "size"]),
        concentration=mode_concentration(leading, run, three, values[..., : len(leading)]),
        sensitivity=sensitivity(leading, run, three),
        course=modes_over_time(
            run,
            three,
            times=[int(one) for one in followed],
            count=plan.modes,
            sensitive=plan.sensitive,
            ids=some,
            seed=plan.seed,
            memory_budget=memory_budget,
        ),
        losses=loss_over_time(run, groups),
        outcomes=outcomes(run, groups),
        undoing=agreement(groups, ADVERSARIAL, CURED),
        hardened=(
            None
            if plan.hardening is None
            else compare_hardened(run, examples, plan.hardening, bounds=three.bounds, memory_budget=memory_budget)
        ),
    )


def _audited(run: Run, three: Groups, plan: Plan, path: str | Path | None, budget: int) -> Audit:
    """Audit the groups and the path in one walk."""
    targets = as_examples(_targets(three, plan))
    if path is not None and Path(path).exists():
        known = load_audit(path)
        wanted = {
            "run_identity": run.identity,
            "targets_fingerprint": targets.fingerprint,
            "quadrature": plan.quadrature,
            "tolerance": plan.tolerance,
        }
        if any(known.data.attrs.get(name) != value for name, value in wanted.items()):
            raise AuditError(
                f"The audit at {path} is of another run, of other inputs than this study's, or by another quadrature "
                "or tolerance. Choose another path, or remove it first."
            )
        return known
    return audit(
        run,
        targets,
        by=("layer", "epoch"),
        quadrature=plan.quadrature,
        tolerance=plan.tolerance,
        path=path,
        memory_budget=budget,
    )


def _targets(three: Groups, plan: Plan) -> tuple[Tensor, Tensor]:
    inputs, labels = zip(three.data, perturbation_path(three, points=plan.points), strict=True)
    return torch.cat(inputs), torch.cat(labels)


def spread(values: xr.DataArray, dims: Sequence[str] = ("example",)) -> xr.Dataset:
    """Return mean and standard deviation over some dims, as the paper's curves show them."""
    return xr.Dataset({"mean": values.mean(dims), "deviation": values.std(dims)})
