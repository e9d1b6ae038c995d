"""The attributors that compare gradients: at the end of a training, over its checkpoints, along its path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from whence.attribution.gradients import Comparison, FittedGradients
from whence.audit.quantities import Numbers
from whence.kernel.moments import end_of, with_learning_rates, with_preconditioners
from whence.kernel.parameters import Layers, parameters_of
from whence.kernel.projection import as_projection
from whence.kernel.trained import Trained


@final
@dataclass(frozen=True)
class GradDot:
    """Inner product of gradients: how much a gradient step on an example, at learning rate 1, helps the target.

    Charpiat et al. (2019), section 2; positive = helps, whatever the quantity.

    Args:
        quantity: Of the target: ``"loss"``, ``"logit"``, ``"margin"``, ``"probability"`` or a callable, as in
            `whence.audit`. Of the training example it is always the loss.
        layers: Which parameters count: ``"all"``, ``"last"``, or names of layers.
        projection: About how many numbers to keep of each parameter's gradient, by random projection: less memory and
            time where layers are large. None is exact. ``attrs["projection_error"]`` says what it costs: the error
            relative to exact scores, measured on up to 64 × 64 pairs.
    """

    quantity: str | Numbers = "loss"
    layers: Layers = "all"
    projection: int | None = None

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedGradients:
        """Compute the training examples' gradients; see `Attributor.fit`."""
        unit = "{quantity} per unit of learning rate"
        names = parameters_of(trained, self.layers)
        what = Comparison("grad-dot", names, self.quantity, False, unit, as_projection(self.projection))
        return FittedGradients(trained, what, [end_of(trained)], memory_budget)


@final
@dataclass(frozen=True)
class GradCos:
    """Cosine of gradients (Charpiat et al., 2019, section 2): as `GradDot`, but blind to how large gradients are.

    Args:
        quantity: Of the target, as in `GradDot`.
        layers: Which parameters count, as in `GradDot`.
        projection: Numbers to keep of each parameter's gradient, as in `GradDot`.
    """

    quantity: str | Numbers = "loss"
    layers: Layers = "all"
    projection: int | None = None

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedGradients:
        """Compute the training examples' gradients; see `Attributor.fit`."""
        what = Comparison(
            "grad-cos", parameters_of(trained, self.layers), self.quantity, True, "", as_projection(self.projection)
        )
        return FittedGradients(trained, what, [end_of(trained)], memory_budget)


@final
@dataclass(frozen=True)
class TracIn:
    """Inner products of gradients over checkpoints of a run, each times its learning rate (Pruthi et al., 2020).

    That is TracInCP, section 3.2 there: what one step on each example alone, at each checkpoint, would have done. It
    knows neither momentum nor preconditioner; `whence.audit` does.

    Args:
        checkpoints: How many states of the run, evenly spaced and the end among them; or after which steps.
        quantity: Of the target, as in `GradDot`.
        layers: Which parameters count, as in `GradDot`.
        projection: Numbers to keep of each parameter's gradient, as in `GradDot`.
    """

    checkpoints: int | Sequence[int] = 10
    quantity: str | Numbers = "loss"
    layers: Layers = "all"
    projection: int | None = None

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedGradients:
        """Walk the run to the checkpoints and compute gradients there; see `Attributor.fit`."""
        run = trained.recorded("TracIn")
        what = Comparison(
            "TracIn",
            parameters_of(trained, self.layers),
            self.quantity,
            False,
            "{quantity}",
            as_projection(self.projection),
        )
        return FittedGradients(trained, what, with_learning_rates(run, self.checkpoints), memory_budget)


@final
@dataclass(frozen=True)
class PathSimilarity:
    """Intrinsic perceptual similarity: the path kernel of a run as a cosine (PLGK, section 3.6; math.md section 3).

    K_mn = Σ_t ⟨g_m, A_t g_n⟩ over states of the run, with A_t what the optimizer's step makes of a gradient, and the
    score K_mn / √(K_mm K_nn), between -1 and 1.

    Args:
        checkpoints: How many states of the run, evenly spaced and the end among them; or after which steps.
        quantity: Of the target, as in `GradDot`; with another than the loss it is no kernel, but a cosine still.
        layers: Which parameters count, as in `GradDot`.
    """

    checkpoints: int | Sequence[int] = 10
    quantity: str | Numbers = "loss"
    layers: Layers = "all"

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedGradients:
        """Walk the run to the checkpoints and compute gradients there; see `Attributor.fit`."""
        run = trained.recorded("PathSimilarity")
        what = Comparison("path similarity", parameters_of(trained, self.layers), self.quantity, True, "")
        return FittedGradients(trained, what, with_preconditioners(run, self.checkpoints), memory_budget)
