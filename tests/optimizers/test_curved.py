"""The whole derivative of a step, against autograd through torch's own differentiable optimizers."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from whence._errors import UnsupportedOptimizerError
from whence.optimizers import MOMENTS, CurvedStep, curved_step


@pytest.fixture(autouse=True)
def counts_in_float64() -> Iterator[None]:
    """Have torch count steps in float64: in float32 its differentiable Adam rounds its corrections to that."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


STEPS, TARGETS, SHAPE = 5, 3, (4, 2)
ROUNDING = 1e-12  # of float64, over a few steps

CASES: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "SGD": (SGD, {"weight_decay": 0.3}),
    "momentum, dampened": (SGD, {"momentum": 0.7, "dampening": 0.4, "weight_decay": 0.3, "maximize": True}),
    "Nesterov": (SGD, {"momentum": 0.7, "nesterov": True, "weight_decay": 0.3}),
    "RMSprop": (RMSprop, {"alpha": 0.8, "eps": 0.01, "weight_decay": 0.3}),
    "RMSprop, momentum": (RMSprop, {"alpha": 0.8, "eps": 0.01, "momentum": 0.6, "maximize": True}),
    "RMSprop, centered": (RMSprop, {"alpha": 0.8, "eps": 0.01, "centered": True, "weight_decay": 0.2}),
    "RMSprop, centered, momentum": (RMSprop, {"alpha": 0.8, "eps": 0.01, "centered": True, "momentum": 0.5}),
    "Adagrad": (Adagrad, {"lr_decay": 0.2, "eps": 0.01, "weight_decay": 0.3}),
    "Adam": (Adam, {"betas": (0.8, 0.9), "eps": 0.01, "weight_decay": 0.3}),
    "Adam, maximizing": (Adam, {"betas": (0.8, 0.9), "eps": 0.01, "maximize": True}),
    "amsgrad": (Adam, {"betas": (0.8, 0.5), "eps": 0.01, "amsgrad": True}),
    "AdamW": (AdamW, {"betas": (0.8, 0.9), "eps": 0.01, "weight_decay": 0.4}),
    "AdamW, amsgrad": (AdamW, {"betas": (0.8, 0.5), "eps": 0.01, "weight_decay": 0.4, "amsgrad": True}),
}


def series(seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    """Return a start and gradients that shrink, so that amsgrad's largest second moment is an earlier one too."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    return start, [torch.randn(SHAPE, generator=generator, dtype=torch.float64) / (n + 1) for n in range(STEPS)]


def steps_of(
    kind: type[Optimizer], options: dict[str, Any], start: Tensor, gradients: list[Tensor]
) -> list[CurvedStep]:
    parameter = nn.Parameter(start.clone())
    optimizer = kind([parameter], lr=0.1, **options)  # type: ignore[call-arg]
    found = []
    for number, gradient in enumerate(gradients):
        before, parameter.grad = parameter.detach().clone(), gradient.clone()
        optimizer.step()
        found.append(curved_step(optimizer, parameter, before, first=number == 0))
    return found


def momentum_step(
    parameter: Tensor, gradient: Tensor, state: dict[str, Any], **options: Any
) -> tuple[Tensor, dict[str, Any]]:
    """SGD's step with lr 0.1, as torch's documentation writes it."""
    g = (-gradient if options.get("maximize") else gradient) + options["weight_decay"] * parameter
    momentum, buffer = options.get("momentum", 0.0), g
    if state:
        buffer = momentum * state["buffer"] + (1 - options.get("dampening", 0.0)) * g
    step = g + momentum * buffer if options.get("nesterov") else buffer
    return parameter - 0.1 * (step if momentum else g), {"buffer": buffer}


def by_autograd(
    kind: type[Optimizer], options: dict[str, Any], start: Tensor, gradients: list[Tensor], end: Tensor
) -> list[Tensor]:
    """Return the derivative of ⟨end, θ_T⟩ with respect to the start and to each gradient."""
    leaves = [start.clone().requires_grad_(), *(one.clone().requires_grad_() for one in gradients)]
    parameter, state = leaves[0], dict[str, Any]()
    for gradient in leaves[1:]:
        parameter = parameter.clone()  # with a state of its own: torch changes both in place, autograd needs them kept
        if kind is SGD:  # torch's own detaches the first momentum buffer
            parameter, state = momentum_step(parameter, gradient, state, **options)
            continue
        optimizer: Any = kind([parameter], lr=0.1, differentiable=True, **options)  # type: ignore[call-arg]
        parameter.grad = gradient.clone()
        if state:
            optimizer.state[parameter] = {name: one.clone() for name, one in state.items() if one is not None}
        optimizer.step()
        state = optimizer.state[parameter]
    return list(torch.autograd.grad((parameter * end).sum(), leaves))


def walked_back(steps: list[CurvedStep], end: Tensor) -> list[Tensor]:
    """Return the same by the transposes, from the last step to the first; rows of ``end`` are targets."""
    p, b = end, None
    moments = dict.fromkeys(MOMENTS, torch.zeros_like(end))
    found = []
    for step in reversed(steps):
        p, b, scaled = step.transpose(p, b, moments)
        u = scaled.value()
        found.append(u)
    return [p, *reversed(found)]


@pytest.mark.parametrize("name", CASES)
def test_the_transposes_of_the_steps_give_the_derivative_of_the_whole_walk(name: str) -> None:
    kind, options = CASES[name]
    start, gradients = series()
    end = torch.randn(TARGETS, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = walked_back(steps_of(kind, options, start, gradients), end)
    for target in range(TARGETS):
        theirs = by_autograd(kind, options, start, gradients, end[target])
        for mine, true in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine[target], true, rtol=ROUNDING, atol=ROUNDING * float(true.abs().max()))


@pytest.mark.parametrize("name", ["RMSprop", "RMSprop, centered", "Adagrad", "Adam", "amsgrad"])
def test_an_entry_that_never_had_a_gradient_gives_finite_sensitivities(name: str) -> None:
    kind, options = CASES[name]
    options = {**options, "weight_decay": 0.0}
    start, gradients = series()
    for gradient in gradients:
        gradient[0] = 0.0
    end = torch.ones(1, *SHAPE, dtype=torch.float64)
    for found in walked_back(steps_of(kind, options, start, gradients), end):
        assert torch.isfinite(found).all()


def test_steps_in_another_type_are_the_same_steps() -> None:
    start, gradients = series()
    end = torch.randn(TARGETS, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for name in ("Adam", "RMSprop, centered, momentum", "amsgrad"):
        steps = steps_of(*CASES[name], start, gradients)
        lower = walked_back([step.to(torch.float32) for step in steps], end.float())
        for mine, true in zip(lower, walked_back(steps, end), strict=True):
            torch.testing.assert_close(mine.double(), true, rtol=1e-4, atol=1e-5 * float(true.abs().max()))


@pytest.mark.parametrize("name", ["RMSprop, centered", "Adagrad", "Adam", "amsgrad"])
def test_smoothing_gives_the_derivative_of_the_same_walk_with_a_larger_eps(name: str) -> None:
    """In one step from rest, where the larger eps changes nothing that the step starts from."""
    kind, options = CASES[name]
    start, gradients = series()
    gradient = gradients[:1]
    end = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parameter = nn.Parameter(start.clone())
    optimizer: Any = kind([parameter], lr=0.1, **options)  # type: ignore[call-arg]
    parameter.grad = gradient[0].clone()
    optimizer.step()
    step = curved_step(optimizer, parameter, start, first=True, smoothing=0.5)
    divided = {"Adam": 1.0, "amsgrad": 1.0, "Adagrad": 1.0, "RMSprop, centered": (0.2 * 0.8) ** 0.5}[name]
    used = gradient[0] + options.get("weight_decay", 0.0) * start  # the size of the first gradient is all there is yet
    larger = options["eps"] + 0.5 * divided * float(used.square().mean().sqrt())
    _, true = by_autograd(kind, {**options, "eps": larger}, start, gradient, end[0])
    _, _, ours = step.transpose(end, None, dict.fromkeys(MOMENTS, torch.zeros_like(end)))
    torch.testing.assert_close(ours.value()[0], true, rtol=1e-9, atol=ROUNDING)


def test_a_gradient_that_is_gone_is_missed_by_name() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = Adam([parameter])
    parameter.grad = torch.ones(2)
    optimizer.step()
    optimizer.zero_grad()
    with pytest.raises(UnsupportedOptimizerError, match=r"shape \(2,\) is gone, and Adam's step depends on it"):
        curved_step(optimizer, parameter, torch.ones(2))
