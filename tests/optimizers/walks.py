"""A short training with random gradients, by torch itself, and the recursions over it written out.

Tolerances follow from a running error bound: every number of a recursion is a sum of products, so its
rounding error is at most (operations on the way) * eps * (the same sum with all signs made positive). That
sum is computed by running the recursion on absolute values with absolute coefficients ("gross").
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from whence.optimizers import LinearStep, initial_buffer, linear_step

EPS = torch.finfo(torch.float64).eps
OPERATIONS = 16  # roundings per step and number: at most 9 in a LinearStep, the rest in torch's own step and the sums
EXAMPLES = 4
STEPS = 8
SHAPES = {"weight": (3, 2), "bias": (3,), "scale": ()}

OPTIMIZERS: dict[str, Callable[[list[dict[str, object]]], Optimizer]] = {
    "SGD": lambda groups: SGD(groups, lr=0.1),
    "SGD decay maximize": lambda groups: SGD(groups, lr=0.1, weight_decay=0.3, maximize=True),
    "SGD momentum": lambda groups: SGD(groups, lr=0.1, momentum=0.9),
    "SGD dampening": lambda groups: SGD(groups, lr=0.1, momentum=0.8, dampening=0.4, weight_decay=0.2),
    "SGD Nesterov": lambda groups: SGD(groups, lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.2, maximize=True),
    "SGD foreach": lambda groups: SGD(groups, lr=0.1, momentum=0.8, dampening=0.4, weight_decay=0.2, foreach=True),
    "SGD tensors": lambda groups: SGD(
        groups, lr=torch.tensor(0.1), momentum=0.8, weight_decay=torch.tensor(0.2), foreach=False
    ),
    "SGD fused": lambda groups: SGD(groups, lr=0.1, momentum=0.8, weight_decay=0.2, nesterov=True, fused=True),
    "RMSprop": lambda groups: RMSprop(groups, lr=0.1),
    "RMSprop decay maximize": lambda groups: RMSprop(groups, lr=0.1, alpha=0.9, weight_decay=0.3, maximize=True),
    "RMSprop momentum": lambda groups: RMSprop(groups, lr=0.1, momentum=0.8, eps=0.3, weight_decay=0.2),
    "RMSprop centered": lambda groups: RMSprop(groups, lr=0.1, centered=True, eps=0.1),
    "RMSprop all foreach": lambda groups: RMSprop(
        groups, lr=0.1, centered=True, momentum=0.7, weight_decay=0.2, maximize=True, foreach=True
    ),
    "Adagrad": lambda groups: Adagrad(groups, lr=0.1),
    "Adagrad options": lambda groups: Adagrad(
        groups, lr=0.1, lr_decay=0.2, weight_decay=0.3, initial_accumulator_value=0.5, eps=0.1, maximize=True
    ),
    "Adagrad foreach": lambda groups: Adagrad(groups, lr=0.1, lr_decay=0.2, weight_decay=0.3, foreach=True),
    "Adagrad fused": lambda groups: Adagrad(groups, lr=0.1, lr_decay=0.2, weight_decay=0.3, fused=True),
    "Adagrad tensor": lambda groups: Adagrad(groups, lr=torch.tensor(0.1), lr_decay=0.2),
    "Adam": lambda groups: Adam(groups, lr=0.1),
    "Adam coupled decay": lambda groups: Adam(groups, lr=0.1, betas=(0.7, 0.8), weight_decay=0.3, eps=0.2),
    "Adam amsgrad maximize": lambda groups: Adam(groups, lr=0.1, betas=(0.8, 0.5), amsgrad=True, maximize=True),
    "Adam decoupled": lambda groups: Adam(groups, lr=0.1, weight_decay=0.3, decoupled_weight_decay=True),
    "Adam tensors": lambda groups: Adam(
        groups, lr=torch.tensor(0.1), betas=(torch.tensor(0.2), torch.tensor(0.9)), weight_decay=0.3
    ),
    "Adam fused": lambda groups: Adam(groups, lr=0.1, weight_decay=0.3, amsgrad=True, fused=True),
    "Adam fused tensor": lambda groups: Adam(groups, lr=torch.tensor(0.1), weight_decay=0.3, fused=True),
    "AdamW": lambda groups: AdamW(groups, lr=0.1),
    "AdamW all": lambda groups: AdamW(groups, lr=0.1, weight_decay=0.4, amsgrad=True, maximize=True, eps=0.1),
    "AdamW tensor": lambda groups: AdamW(groups, lr=torch.tensor(0.1), weight_decay=0.4, foreach=False),
    "AdamW foreach": lambda groups: AdamW(groups, lr=0.1, weight_decay=0.4, foreach=True),
    "AdamW fused": lambda groups: AdamW(groups, lr=0.1, weight_decay=0.4, maximize=True, fused=True),
}


@dataclass(frozen=True)
class Walk:
    """What happened: parameters by step (one more than steps), linear steps, shares of the gradients."""

    parameters: list[dict[str, Tensor]]
    buffers: list[dict[str, Tensor]]  # those linear in the gradient, zeros where torch has none
    steps: list[dict[str, LinearStep]]  # only of the parameters that were updated
    gradients: list[dict[str, Tensor]]  # (EXAMPLES, *shape), as the optimizer saw them


def fresh_parameters(seed: int) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.nn.Parameter(_normal(generator, *shape)) for name, shape in SHAPES.items()}


def groups_of(parameters: dict[str, torch.nn.Parameter]) -> list[dict[str, object]]:
    """Two parameter groups with different learning rates and weight decays."""
    weight, *others = parameters.values()
    return [{"params": [weight]}, {"params": others, "weight_decay": 0.15}]


def random_gradients(seed: int, *, skip: bool = True) -> list[dict[str, Tensor]]:
    """Per-example gradients of each step, clipped by a scalar or a diagonal, with parameters missing at some steps."""
    generator = torch.Generator().manual_seed(seed + 1)
    steps = []
    for t in range(STEPS):
        step = {}
        for index, (name, shape) in enumerate(SHAPES.items()):
            if skip and (t + 2 * index) % 4 == 2:  # "bias" misses the first step, "weight" does not
                continue
            member = (torch.rand(EXAMPLES, generator=generator) < 0.7).double()  # the others are not in the batch
            raw = _normal(generator, EXAMPLES, *shape) * member.reshape(-1, *(1 for _ in shape))
            clip = torch.rand(shape if t % 2 else (), generator=generator, dtype=torch.float64)
            step[name] = raw * clip
        steps.append(step)
    return steps


def train(
    optimizer: Optimizer,
    parameters: dict[str, torch.nn.Parameter],
    gradients: Sequence[dict[str, Tensor]],
    between: Callable[[int], None] = lambda step: None,
) -> Walk:
    """Step the real optimizer with the summed gradients; read every step; call ``between`` after each."""
    walk = Walk([_now(parameters)], [_buffers(optimizer, parameters)], [], list(gradients))
    for t, step in enumerate(gradients):
        for name, parameter in parameters.items():
            parameter.grad = step[name].sum(0) if name in step else None
        first = {name: initial_buffer(optimizer, parameters[name]) is None for name in step}
        optimizer.step()
        walk.steps.append({name: linear_step(optimizer, parameters[name], first=first[name]) for name in step})
        walk.parameters.append(_now(parameters))
        walk.buffers.append(_buffers(optimizer, parameters))
        between(t)
    return walk


def one_cycle(optimizer: Optimizer) -> Callable[[int], None]:
    """A schedule of the learning rate and, where there is one, of the momentum."""
    momentum = "momentum" in optimizer.defaults or "betas" in optimizer.defaults
    dampened = optimizer.defaults.get("momentum", 1) == 0
    schedule: LRScheduler = OneCycleLR(
        optimizer, max_lr=[0.3, 0.2], total_steps=STEPS + 2, cycle_momentum=momentum and not dampened
    )
    return lambda step: schedule.step()


def shares(walk: Walk) -> list[tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]]:
    """Shares after 0..T steps: of the parameters, of the buffers, and the gross of both. Row 0 is the start's own."""
    start, warm = walk.parameters[0], walk.buffers[0]
    share = {name: _in_row_0(value) for name, value in start.items()}
    buffer = {name: _in_row_0(value) for name, value in warm.items()}
    states = [(share, buffer, _magnitudes(share), _magnitudes(buffer))]
    for step, gradients in zip(walk.steps, walk.gradients, strict=True):
        share, buffer, gross, gross_buffer = (dict(state) for state in states[-1])
        for name, linear in step.items():
            g = torch.cat([torch.zeros_like(start[name])[None], gradients[name]])
            share[name], buffer[name] = linear.forward(share[name], buffer[name], g)
            gross[name], gross_buffer[name] = positive(linear).forward(gross[name], gross_buffer[name], g.abs())
        states.append((share, buffer, gross, gross_buffer))
    return states


def positive(step: LinearStep) -> LinearStep:
    """The same step with every coefficient's sign such that positive arguments only add up."""
    kappa, sigma, gamma = (
        abs(value) if isinstance(value, float) else value.abs() for value in (step.kappa, step.sigma, step.gamma)
    )
    decay = 1 - abs(1 - step.decay)
    return LinearStep(1.0, abs(step.coupled), abs(step.beta), kappa, -sigma, -gamma, decay)


def rounding(gross: Tensor, steps: int) -> Tensor:
    """The bound on the rounding error of a number whose gross is given."""
    return OPERATIONS * (steps + 1) * EPS * gross


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _now(parameters: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def _buffers(optimizer: Optimizer, parameters: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    found = {name: initial_buffer(optimizer, parameter) for name, parameter in parameters.items()}
    return {name: torch.zeros(SHAPES[name]).double() if value is None else value for name, value in found.items()}


def _in_row_0(value: Tensor) -> Tensor:
    return torch.cat([value[None], torch.zeros(EXAMPLES, *value.shape, dtype=value.dtype)])


def _magnitudes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.abs() for name, value in state.items()}
