"""The audit and the counterfactual of a recorded run, as attributors beside the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import xarray as xr

from whence._errors import ArgumentError
from whence.attribution.scores import label
from whence.audit.api import audit
from whence.audit.quantities import Numbers
from whence.audit.result import Audit
from whence.counterfactual.api import counterfactual
from whence.datasets import Examples
from whence.kernel.trained import Trained


@final
@dataclass(frozen=True)
class FittedRun:
    """A question that is put to the run itself, for any targets."""

    ask: Callable[[Examples, list[int]], xr.DataArray]

    def scores(self, targets: Examples, ids: list[int]) -> xr.DataArray:
        """Walk the run and return the scores; see `Fitted.scores`."""
        return self.ask(targets, ids)


def audit_scores(found: Audit) -> xr.DataArray:
    """Return an audit that was made already as scores of an attributor, summed over steps and layers.

    Raises:
        ArgumentError: If the audit has no shares of single examples.
    """
    if "train" not in found.influence.dims:
        raise ArgumentError(
            "This audit summed its training examples by label, so single ones have no score. Audit again without "
            "'label' in `by`."
        )
    rest = [dim for dim in found.influence.dims if dim not in {"target", "train"}]
    values = found.influence.sum(rest).transpose("target", "train")
    ids = (values.coords[dim].values for dim in values.dims)
    error = {"completeness": str(found.completeness)}
    return label(values.values, *ids, attributor="audit", unit=found.unit, helps=found.helps, extra=error)


@final
@dataclass(frozen=True)
class PathAudit:
    """What each example did to the target over the whole run: `whence.audit`, summed over steps and layers.

    A negative score on a loss helped, as in the audit itself.

    Args:
        quantity: Of the target, as in `whence.audit`.
        quadrature: As in `whence.audit`.
        precision: As in `whence.audit`.
    """

    quantity: str | Numbers = "loss"
    quadrature: str = "trapezoid"
    precision: str | None = None

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedRun:
        """Take the run; see `Attributor.fit`."""
        run = trained.recorded("PathAudit")

        def ask(targets: Examples, ids: list[int]) -> xr.DataArray:
            found = audit(
                run,
                targets,
                quantity=self.quantity,
                quadrature=self.quadrature,
                precision=self.precision,
                ids=ids,
                memory_budget=memory_budget,
            )
            return audit_scores(found)

        return FittedRun(ask)


@final
@dataclass(frozen=True)
class Counterfactual:
    """What the target's quantity would change by without the example: `whence.counterfactual`.

    A positive score on a loss helped: without the example the loss would be higher. On a logit, a margin or a
    probability, a negative one did.

    Args:
        quantity: Of the target, as in `whence.counterfactual`.
        held_out: As in `whence.counterfactual`; 0 is the derivative.
        processes: As in `whence.counterfactual`.
    """

    quantity: str | Numbers = "loss"
    held_out: int = 0
    processes: int | None = None

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedRun:
        """Take the run; see `Attributor.fit`."""
        run = trained.recorded("Counterfactual")

        def ask(targets: Examples, ids: list[int]) -> xr.DataArray:
            found = counterfactual(
                run,
                targets,
                quantity=self.quantity,
                held_out=self.held_out,
                processes=self.processes,
                smoothness=0,
                ids=ids,
                memory_budget=memory_budget,
            )
            unit, train = str(found.attrs["unit"]), found.coords["train"].values
            helps = 1 if self.quantity == "loss" else -1
            return label(found.values, ids, train, attributor="counterfactual", unit=unit, helps=helps)

        return FittedRun(ask)
