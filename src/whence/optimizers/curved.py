"""One optimizer step of one parameter with all that depends on the gradient, and the transpose of its derivative.

`LinearStep` holds the preconditioner fixed, as the shares of a step must. What a small change of a gradient does
to the end of a training also goes through the running second moment, by whose root the adaptive optimizers divide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from whence._errors import UnsupportedOptimizerError
from whence.optimizers.linear import Coefficient, LinearStep
from whence.optimizers.rules import count_of, options_of, read_step

MOMENTS = ("second", "other")  # adjoints kept besides those of the parameter and the momentum-like buffer


@final
@dataclass(frozen=True)
class Denominator:
    """What an adaptive step divided by, and how that depends on the gradients.

    The second moment is v' = keep * v + gather * g'². The step divides by a function of v' (centered: of v' and the
    running mean ḡ' = keep * ḡ + gather * g'; amsgrad: of max(v_max, v')).

    Attributes:
        keep: How much of the second moment stays.
        gather: How much of the squared gradient enters it.
        by_parameter, by_buffer: ∂(θ', through the division)/∂v' = by_parameter; by_buffer is the same for the buffer.
        mean_by_parameter, mean_by_buffer: The same for the running mean, where there is one (centered).
        newest: 1 where v' is the largest so far, 0 elsewhere (amsgrad); None where v' itself counts.
    """

    keep: float
    gather: float
    by_parameter: Tensor | None
    by_buffer: Tensor | None
    mean_by_parameter: Tensor | None = None
    mean_by_buffer: Tensor | None = None
    newest: Tensor | None = None


@final
@dataclass(frozen=True)
class Scaled:
    """A tensor times a number, not multiplied out: that can wait until there is less to multiply.

    Attributes:
        rows: The tensor, which may be another's; do not write to it.
        factor: The number.
    """

    rows: Float[Tensor, "*axes"]
    factor: float = 1.0

    def times(self, factor: float) -> Scaled:
        """Return it times another number."""
        return Scaled(self.rows, self.factor * factor)

    def value(self) -> Float[Tensor, "*axes"]:
        """Return the product; the tensor itself if the number is 1."""
        return self.rows if self.factor == 1.0 else self.rows * self.factor


@final
@dataclass(frozen=True)
class CurvedStep:
    """One step of an optimizer for one parameter, as it depends on parameter, buffers and gradient.

    Attributes:
        linear: The step with its division held fixed.
        gradient: The gradient that entered the buffers (sign and coupled decay included).
        denominator: What the division depends on; None for SGD.
    """

    linear: LinearStep
    gradient: Tensor | None = None
    denominator: Denominator | None = None

    @property
    def moments(self) -> tuple[str, ...]:
        """Which of `MOMENTS` the step has adjoints of."""
        if self.denominator is None:
            return ()
        two = self.denominator.newest is not None or self.denominator.mean_by_parameter is not None
        return MOMENTS if two or self.denominator.mean_by_buffer is not None else MOMENTS[:1]

    def transpose(
        self,
        p: Float[Tensor, "*axes"],
        b: Float[Tensor, "*axes"] | None,
        moments: dict[str, Float[Tensor, "*axes"]],
    ) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes"] | None, Scaled]:
        """Walk sensitivities back over the step: the transpose of its derivative.

        Args:
            p: Sensitivity to the parameter after the step, ``(*leading, *parameter.shape)``.
            b: Sensitivity to the momentum-like buffer after the step; None stands for zero.
            moments: Sensitivities to the entries of ``self.moments`` after the step; replaced by those before it.

        Returns:
            ``(p_before, b_before, u)``: the sensitivities before the step to the parameter, to the buffer (None where
            there is none) and to the gradient that the optimizer was given. They may be the arguments themselves.
        """
        linear = self.linear
        if not linear.buffered:
            to_buffer, to_g = None, _times(p, linear.gamma).times(-1.0)
        else:
            zero = torch.zeros_like(p) if b is None else b
            to_buffer = _plus(zero, linear.sigma, p, -1.0)
            to_g = _times(to_buffer, linear.kappa)
            if not (isinstance(linear.gamma, float) and linear.gamma == 0.0):
                to_g = Scaled(_plus(to_g.value(), linear.gamma, p, -1.0))
        if self.denominator is not None:
            to_g = Scaled(to_g.value() + self._through_division(self.denominator, p, to_buffer, moments))
        p_before = p if linear.decay == 0 else p * (1 - linear.decay)
        if linear.coupled:
            p_before = torch.add(p_before, to_g.rows, alpha=linear.coupled * to_g.factor)
        b_before = b if to_buffer is None else to_buffer * linear.beta
        return p_before, b_before, to_g.times(linear.sign)

    def _through_division(
        self, part: Denominator, p: Tensor, to_buffer: Tensor | None, moments: dict[str, Tensor]
    ) -> Tensor:
        """Return what reaches the gradient through the second moment, and bring the moments' sensitivities back."""
        assert self.gradient is not None  # a denominator comes with the gradient it gathered
        second = moments["second"]
        divided = _both(part.by_parameter, part.by_buffer, p, to_buffer)
        extra: Tensor | None = None
        if part.newest is not None:
            largest = moments["other"] + divided
            second = second + largest * part.newest
            moments["other"] = largest * (1 - part.newest)
        else:
            second = second + divided
        if part.mean_by_parameter is not None or part.mean_by_buffer is not None:
            mean = moments["other"] + _both(part.mean_by_parameter, part.mean_by_buffer, p, to_buffer)
            extra = mean * part.gather
            moments["other"] = mean * part.keep
        found = second * (self.gradient * (2 * part.gather))
        moments["second"] = second * part.keep
        return found if extra is None else found + extra

    def to(self, dtype: torch.dtype) -> CurvedStep:
        """Return the step with its tensors in another floating-point type."""
        part = self.denominator
        if part is not None:
            part = replace(
                part,
                by_parameter=_cast(part.by_parameter, dtype),
                by_buffer=_cast(part.by_buffer, dtype),
                mean_by_parameter=_cast(part.mean_by_parameter, dtype),
                mean_by_buffer=_cast(part.mean_by_buffer, dtype),
                newest=_cast(part.newest, dtype),
            )
        return CurvedStep(self.linear.to(dtype), _cast(self.gradient, dtype), part)


def curved_step(
    optimizer: Optimizer,
    parameter: Tensor,
    before: Float[Tensor, "*shape"],
    *,
    first: bool | None = None,
    smoothing: float = 0.0,
) -> CurvedStep:
    """Read the step that an optimizer has just done to a parameter, with what its division depends on.

    Call it right after ``optimizer.step()``, as `linear_step`, while ``parameter.grad`` is still what the step used.

    Args:
        optimizer: One of `SUPPORTED`, by exact class.
        parameter: A parameter that the step updated.
        before: Its value before the step.
        first: Whether the parameter had no momentum buffer before the step; see `linear_step`.
        smoothing: How much is added to the eps of an optimizer that divides, as a share of the root mean square of what
            this parameter's entries are divided by. An entry whose gradients have been near 0 so far is divided by
            hardly more than eps: the derivative of its step is huge, and holds for changes of the gradient below eps
            only. With smoothing it is that of a step which divides by more.

    Raises:
        UnsupportedOptimizerError: As `linear_step`; also if the parameter has no gradient any more.
        ArgumentError: As `linear_step`.
    """
    state, options = optimizer.state.get(parameter, {}), options_of(optimizer, parameter)
    if not any(name in state for name in ("exp_avg_sq", "square_avg", "sum")):
        return CurvedStep(read_step(optimizer, parameter, options, first))
    divided = _divided(optimizer, parameter)
    if smoothing:
        options = {**options, "eps": options["eps"] + smoothing * float(divided.root.square().mean().sqrt())}
    linear = read_step(optimizer, parameter, options, first)
    if parameter.grad is None:
        raise UnsupportedOptimizerError(
            f"The gradient of a parameter of shape {tuple(parameter.shape)} is gone, and {type(optimizer).__name__}'s "
            "step depends on it beyond its sum. Read the step before zero_grad()."
        )
    gradient = torch.add(linear.sign * parameter.grad, before, alpha=linear.coupled)
    return CurvedStep(linear, gradient, _denominator(linear, gradient, state, options["eps"], divided))


def root_of_second_moment(optimizer: Optimizer, parameter: Tensor) -> Float[Tensor, "*shape"] | None:
    """Return the size of the gradients so far by which the optimizer divides its steps, None if it does not divide.

    It is the root of the running mean of squares in RMSprop, Adam and AdamW (not corrected for the running mean's
    beginning), and of the mean of all squares in Adagrad.

    Args:
        optimizer: One of `SUPPORTED`, by exact class.
        parameter: A parameter that the optimizer has updated.
    """
    state = optimizer.state.get(parameter, {})
    total: Tensor | None = state.get("sum")
    if total is not None:
        mean: Tensor = total / state["step"]
        return mean.sqrt()
    second: Tensor | None = state.get("exp_avg_sq", state.get("square_avg"))
    return None if second is None else second.sqrt()


@dataclass(frozen=True)
class _Divided:
    """What a step divided by but for eps, √v / c, and how v came about."""

    keep: float
    gather: float
    root: Tensor
    correction: float = 1.0
    mean: Tensor | None = None
    newest: Tensor | None = None


def _divided(optimizer: Optimizer, parameter: Tensor) -> _Divided:
    state, options = optimizer.state[parameter], options_of(optimizer, parameter)
    if "exp_avg_sq" in state:
        beta2, second = float(options["betas"][1]), state["exp_avg_sq"]
        correction = float((1 - beta2 ** count_of(optimizer, parameter)) ** 0.5)
        if not options["amsgrad"]:
            return _Divided(beta2, 1 - beta2, second.sqrt() / correction, correction)
        largest = state["max_exp_avg_sq"]
        newest = (largest == second).to(second.dtype)
        return _Divided(beta2, 1 - beta2, largest.sqrt() / correction, correction, newest=newest)
    if "square_avg" in state:
        alpha, second = options["alpha"], state["square_avg"]
        mean = state["grad_avg"] if options["centered"] else None
        centered = second if mean is None else second.addcmul(mean, mean, value=-1)
        return _Divided(alpha, 1 - alpha, centered.sqrt(), mean=mean)
    return _Divided(1.0, 1.0, state["sum"].sqrt())


def _denominator(linear: LinearStep, gradient: Tensor, state: Any, eps: float, divided: _Divided) -> Denominator:
    """Return how a division depends on the gradients: by d = r + ε with r = √v / c, so -(∂d/∂v)/d = -1/(2 c² r d)."""
    root = divided.root
    slope = -0.5 / (divided.correction**2 * root * (root + eps))
    slope = torch.where(root > 0, slope, torch.zeros_like(slope))  # no gradient so far: nothing to be divided either
    buffer = state.get("momentum_buffer", state.get("exp_avg"))
    parts = [_product(part, slope) for part in _divisions(linear, gradient, buffer)]
    # centered: r = √(v - ḡ²), so the mean's slope is -2 ḡ times that of v
    means = [None if divided.mean is None else _product(part, -2 * divided.mean) for part in parts]
    return Denominator(divided.keep, divided.gather, parts[0], parts[1], means[0], means[1], divided.newest)


def _divisions(linear: LinearStep, gradient: Tensor, buffer: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Return what of the parameter's and of the buffer's change was divided: the terms with one number an entry."""
    to_parameter = None
    if isinstance(linear.sigma, Tensor) and buffer is not None:
        to_parameter = -linear.sigma * buffer
    if isinstance(linear.gamma, Tensor):
        to_parameter = -linear.gamma * gradient
    return to_parameter, linear.kappa * gradient if isinstance(linear.kappa, Tensor) else None


def _product(one: Tensor | None, other: Tensor) -> Tensor | None:
    return None if one is None else one * other


def _both(by_parameter: Tensor | None, by_buffer: Tensor | None, p: Tensor, to_buffer: Tensor | None) -> Tensor:
    found = torch.zeros_like(p) if by_parameter is None else p * by_parameter
    return found if by_buffer is None or to_buffer is None else torch.addcmul(found, to_buffer, by_buffer)


def _times(one: Tensor, factor: Coefficient) -> Scaled:
    return Scaled(one * factor) if isinstance(factor, Tensor) else Scaled(one, factor)


def _plus(one: Tensor, factor: Coefficient, other: Tensor, sign: float) -> Tensor:
    if isinstance(factor, Tensor):
        return torch.addcmul(one, factor, other, value=sign)
    return one if factor == 0.0 else torch.add(one, other, alpha=sign * factor)


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)
