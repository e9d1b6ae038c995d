"""How each optimizer of ``torch.optim`` becomes a `LinearStep`.

η is the learning rate, λ the weight decay, v the optimizer's running second moment after the
step (its largest so far with amsgrad), n how often the parameter was updated, and
v̂ = v / (1 - β₂ⁿ):

=========================  =======  ======  =============  ==================  =====  =======
optimizer                  beta     kappa   sigma          gamma               decay  coupled
=========================  =======  ======  =============  ==================  =====  =======
SGD, no momentum           1        0       0              η                   0      λ
SGD, momentum μ            μ        1 - τ   η              0                   0      λ
... its first step         0        1       η              0                   0      λ
SGD, Nesterov              μ        1       η μ            η                   0      λ
RMSprop                    1        0       0              η / d               0      λ
RMSprop, momentum μ        μ        1 / d   η              0                   0      λ
Adagrad                    1        0       0              η' / (√v + ε)       0      λ
Adam                       β₁       1 - β₁  η / D          0                   0      λ
AdamW (decoupled Adam)     β₁       1 - β₁  η / D          0                   η λ    0
=========================  =======  ======  =============  ==================  =====  =======

Here τ is the dampening, d = √v + ε (centered: √(v - mean²) + ε), η' = η / (1 + (n - 1) lr_decay),
and D = (1 - β₁ⁿ)(√v̂ + ε). ``sign`` is -1 with maximize. A step that does not use the buffer
keeps it (beta 1), as torch does when a schedule sets the momentum to 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from whence._errors import ArgumentError, UnsupportedOptimizerError
from whence.optimizers.linear import LinearStep

Scalar: TypeAlias = float | Float[Tensor, ""]


@dataclass(frozen=True)
class _Taken:
    """What torch knows about one parameter just after a step."""

    name: str
    options: Mapping[str, Any]
    state: Mapping[str, Any]
    dtype: torch.dtype
    first: bool | None

    @property
    def sign(self) -> float:
        return -1.0 if self.options["maximize"] else 1.0

    @property
    def fused(self) -> bool:
        return bool(self.options.get("fused"))

    @property
    def count(self) -> Scalar:
        """How often the parameter was updated; a tensor where torch computes with the tensor."""
        step: Tensor = self.state["step"]
        return step if self.options.get("capturable") and not self.fused else float(step)

    def scalar(self, value: Scalar) -> Scalar:
        """Return an option as torch computes with it: the fused kernels take plain numbers."""
        return value.squeeze() if isinstance(value, Tensor) and not self.fused else float(value)

    def positive(self, denominator: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return a denominator, refusing entries that torch divided by although they are not > 0.

        The root of a running second moment is never negative, so adding an eps that the
        parameter's type can hold needs no look at the entries.

        Raises:
            UnsupportedOptimizerError: If an entry is 0, negative or not a number.
        """
        safe = self.options["eps"] >= torch.finfo(self.dtype).tiny
        if safe and not self.options.get("centered"):
            return denominator
        bad = int((~(denominator > 0)).sum())
        if bad:
            raise UnsupportedOptimizerError(
                f"{self.name} divided by a number that is not above 0 in {bad} of "
                f"{denominator.numel()} entries of a parameter (eps={self.options['eps']}, "
                f"{self.dtype}), so its step is not a linear map. Train with a larger eps."
            )
        return denominator


def _sgd(taken: _Taken) -> LinearStep:
    options = taken.options
    lr, momentum = float(options["lr"]), float(options["momentum"])
    coupled = float(options["weight_decay"])
    if momentum == 0:
        return LinearStep(sign=taken.sign, coupled=coupled, beta=1.0, gamma=lr)
    beta, kappa = (0.0, 1.0) if _starts(taken) else (momentum, 1 - float(options["dampening"]))
    sigma, gamma = (lr * momentum, lr) if options["nesterov"] else (lr, 0.0)
    return LinearStep(taken.sign, coupled, beta, kappa, sigma, gamma)


def _starts(taken: _Taken) -> bool:
    """Whether SGD began the momentum buffer at this step, with the whole undampened gradient.

    Raises:
        ArgumentError: If that matters and was not said.
    """
    dampening = taken.options["dampening"]
    if taken.first is None and dampening != 0:
        raise ArgumentError(
            f"The first step of SGD with dampening={dampening} differs from the others and cannot "
            "be told apart afterwards. Pass first=True if the parameter had no momentum_buffer "
            "before this step, else first=False."
        )
    return bool(taken.first)


def _rmsprop(taken: _Taken) -> LinearStep:
    options, state = taken.options, taken.state
    lr, momentum = float(options["lr"]), float(options["momentum"])
    coupled = float(options["weight_decay"])
    second: Tensor = state["square_avg"]
    if options["centered"]:
        second = second.addcmul(state["grad_avg"], state["grad_avg"], value=-1)
    denominator = taken.positive(second.sqrt().add_(options["eps"]))
    if momentum > 0:
        kappa = denominator.reciprocal()
        return LinearStep(taken.sign, coupled, beta=momentum, kappa=kappa, sigma=lr)
    return LinearStep(taken.sign, coupled, beta=1.0, gamma=lr / denominator)


def _adagrad(taken: _Taken) -> LinearStep:
    options = taken.options
    lr = float(taken.scalar(options["lr"]) / (1 + (taken.count - 1) * options["lr_decay"]))
    denominator = taken.positive(taken.state["sum"].sqrt().add_(options["eps"]))
    coupled = float(options["weight_decay"])
    return LinearStep(taken.sign, coupled, beta=1.0, gamma=lr / denominator)


def _adam(taken: _Taken) -> LinearStep:
    options, state = taken.options, taken.state
    lr, beta1, beta2 = (taken.scalar(value) for value in (options["lr"], *options["betas"]))
    step_size = float(lr / (1 - beta1**taken.count))
    correction = float((1 - beta2**taken.count) ** 0.5)
    second: Tensor = state["max_exp_avg_sq"] if options["amsgrad"] else state["exp_avg_sq"]
    denominator = taken.positive((second.sqrt() / correction).add_(options["eps"]))
    kappa = float(1 - (beta1.to(taken.dtype) if isinstance(beta1, Tensor) else beta1))
    decoupled = options["decoupled_weight_decay"]
    return LinearStep(
        sign=taken.sign,
        coupled=0.0 if decoupled else float(options["weight_decay"]),
        beta=1 - kappa,
        kappa=kappa,
        sigma=step_size / denominator,
        decay=1 - float(1 - lr * options["weight_decay"]) if decoupled else 0.0,
    )


@dataclass(frozen=True)
class _Rule:
    """How to read a step, which state entry is linear in the gradients, which must be there."""

    read: Callable[[_Taken], LinearStep]
    buffer: str | None
    needs: str | None


_RULES: dict[type[Optimizer], _Rule] = {
    SGD: _Rule(_sgd, buffer="momentum_buffer", needs=None),
    RMSprop: _Rule(_rmsprop, buffer="momentum_buffer", needs="square_avg"),
    Adagrad: _Rule(_adagrad, buffer=None, needs="sum"),
    Adam: _Rule(_adam, buffer="exp_avg", needs="exp_avg_sq"),
    AdamW: _Rule(_adam, buffer="exp_avg", needs="exp_avg_sq"),
}

SUPPORTED: tuple[type[Optimizer], ...] = tuple(_RULES)
"""The optimizer classes that have a rule. Subclasses are not among them: they may do otherwise."""


def linear_step(optimizer: Optimizer, parameter: Tensor, *, first: bool | None = None) -> LinearStep:
    """Read the step that an optimizer has just done to a parameter (PLGK section 3.2).

    Call it right after ``optimizer.step()``, before a scheduler changes the options, and only for
    parameters that had a gradient: torch skips the others (for them the step is the identity).

    Args:
        optimizer: One of `SUPPORTED`, by exact class.
        parameter: A parameter that the step updated.
        first: Whether the parameter had no momentum buffer before the step. Needed only for SGD
            with momentum and dampening, whose first step takes the gradient undampened.

    Returns:
        The step. Its per-entry coefficients have the parameter's shape and type, and are new.

    Raises:
        UnsupportedOptimizerError: If the class has no rule, the parameter is complex, or the
            optimizer divided by zero.
        ArgumentError: If the optimizer does not hold the parameter or never updated it, or if
            ``first`` is needed and missing.
    """
    return read_step(optimizer, parameter, options_of(optimizer, parameter), first)


def read_step(optimizer: Optimizer, parameter: Tensor, options: Mapping[str, Any], first: bool | None) -> LinearStep:
    """Do as `linear_step`, with options of the parameter's group that may differ from the optimizer's.

    Raises:
        UnsupportedOptimizerError: As `linear_step`.
        ArgumentError: As `linear_step`.
    """
    rule = _rule_of(optimizer)
    name = type(optimizer).__name__
    if parameter.is_complex():
        raise UnsupportedOptimizerError(
            f"A parameter is complex ({parameter.dtype}), and {name}'s step is read for real ones "
            "only. Train its real and imaginary part as two real parameters."
        )
    state = optimizer.state.get(parameter, {})
    if rule.needs is not None and rule.needs not in state:
        raise ArgumentError(
            f"{name} has not updated this parameter of shape {tuple(parameter.shape)} yet: its "
            f"state has no {rule.needs!r}. Read a step after optimizer.step(), and only for "
            "parameters that had a gradient."
        )
    return rule.read(_Taken(name, options, state, parameter.dtype, first))


def initial_buffer(optimizer: Optimizer, parameter: Tensor) -> Float[Tensor, "*shape"] | None:
    """Return the buffer that is linear in the gradients, as the optimizer's state holds it now.

    It is SGD's and RMSprop's ``momentum_buffer`` and Adam's and AdamW's ``exp_avg``, on the scale
    of ``buffer`` in `LinearStep.forward`. A run that begins with a warmed-up optimizer
    has a share that no recorded example made: this one.

    Args:
        optimizer: One of `SUPPORTED`, by exact class.
        parameter: A parameter of the optimizer.

    Returns:
        A copy of the parameter's shape, or None where the optimizer holds none (it stands for 0).

    Raises:
        UnsupportedOptimizerError: If the class has no rule.
        ArgumentError: If the optimizer does not hold the parameter.
    """
    rule = _rule_of(optimizer)
    options_of(optimizer, parameter)
    buffer = optimizer.state.get(parameter, {}).get(rule.buffer)
    return None if buffer is None else buffer.detach().to_dense().clone()


def buffer_name(kind: type[Optimizer]) -> str | None:
    """Return which entry of an optimizer's state is the buffer of `initial_buffer`, None if it has none.

    Args:
        kind: One of `SUPPORTED`.

    Raises:
        UnsupportedOptimizerError: If the class has no rule.
    """
    return _rule(kind).buffer


def _rule_of(optimizer: Optimizer) -> _Rule:
    return _rule(type(optimizer))


def _rule(kind: type[Optimizer]) -> _Rule:
    found = _RULES.get(kind)
    if found is None:
        known = ", ".join(supported.__name__ for supported in SUPPORTED)
        raise UnsupportedOptimizerError(
            f"There is no rule for the optimizer {kind.__module__}.{kind.__qualname__} (subclasses "
            f"do not count, as they may step differently). Train with one of torch.optim's {known}."
        )
    return found


def count_of(optimizer: Optimizer, parameter: Tensor) -> float:
    """Return how often an optimizer that counts has updated a parameter."""
    return float(optimizer.state[parameter]["step"])


def options_of(optimizer: Optimizer, parameter: Tensor) -> Mapping[str, Any]:
    """Return the options of the group that holds a parameter.

    Raises:
        ArgumentError: If none does.
    """
    for group in optimizer.param_groups:
        if any(held is parameter for held in group["params"]):
            return group
    raise ArgumentError(
        f"{type(optimizer).__name__} does not hold this parameter of shape "
        f"{tuple(parameter.shape)}. Pass one of its own parameters, not a copy."
    )
