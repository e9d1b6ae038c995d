"""The small network of ``beyond.py`` in closed form: many weighted trainings at once, and the walk back through one.

A perceptron 784-128-64-10, SGD with momentum; every example has a weight inside its batch's mean. It computes
what `whence.counterfactual` and `Run.retrain` do (measured: within 1e-6 of them, relative to the largest entry), and
lets the walk be changed in ways that the library does not offer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

CLASSES = 10
Parameters = list[Tensor]
"""Weight and bias of each layer, with a leading axis: of trainings, or of directions."""


Bend = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Task:
    """What is trained, and how.

    Attributes:
        inputs: (examples, 784).
        labels: One a row.
        batches: The ids of every batch.
        first: The parameters to begin with.
        rate: Of learning.
        momentum: 0 for none.
        bend: The activation, with its first two derivatives.
        dtype: In which to compute.
    """

    inputs: Tensor
    labels: Tensor
    batches: Sequence[Tensor]
    first: Parameters
    rate: float
    momentum: float
    bend: Bend
    dtype: torch.dtype = torch.float32


@dataclass
class Trained:
    """Ends of trainings.

    Attributes:
        end: The parameters.
        kept: Those before every step, if asked for.
        held_out: By step, (batch, classes): each example's outputs in the training in which its weight is 0; zero
            where there is none.
    """

    end: Parameters
    kept: list[Parameters] = field(default_factory=list)
    held_out: list[Tensor] = field(default_factory=list)


def gelu(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the activation and its first two derivatives."""
    below = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return z * below, below + z * density, density * (2 - z * z)


def relu(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the activation and its first two derivatives."""
    return z.relu(), (z > 0).to(z.dtype), torch.zeros_like(z)


def wide(x: Tensor, weight: Tensor) -> Tensor:
    """Return x Wᵀ for each of several matrices, (matrices, rows, outputs), in one product."""
    found: Tensor = (x @ weight.reshape(-1, x.shape[1]).T).reshape(len(x), len(weight), -1).transpose(0, 1)
    return found


def wide_transposed(e: Tensor, x: Tensor) -> Tensor:
    """Return eᵀ x for each of several e, in one product."""
    found: Tensor = (e.transpose(0, 1).reshape(len(x), -1).T @ x).reshape(len(e), -1, x.shape[1])
    return found


def forward(p: Parameters, x: Tensor, bend: Bend) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
    """Return both hidden activations with their derivatives, and the outputs."""
    one = bend(wide(x, p[0]) + p[1][:, None])
    two = bend(torch.baddbmm(p[3][:, None], one[0], p[2].transpose(1, 2)))
    return one, two, torch.baddbmm(p[5][:, None], two[0], p[4].transpose(1, 2))


def train(task: Task, weights: Tensor, *, keep: bool = False, hold_out: bool = False) -> Trained:
    """Train once for each row of weights, (trainings, examples)."""
    w = weights.to(task.dtype)
    p = [one.to(task.dtype)[None].repeat(len(w), *[1] * one.dim()) for one in task.first]
    momentum = [torch.zeros_like(one) for one in p]
    found = Trained(p)
    for ids in task.batches:
        if keep:
            found.kept.append([one.clone() for one in p])
        x, labels, share = task.inputs[ids].to(task.dtype), task.labels[ids], w[:, ids]
        one, two, z = forward(p, x, task.bend)
        e = torch.softmax(z, -1) - F.one_hot(labels, CLASSES)
        if hold_out:
            found.held_out.append((z * (share == 0)[:, :, None]).sum(0))
        e3 = e * (share / len(ids))[:, :, None]
        e2 = torch.bmm(e3, p[4]) * two[1]
        e1 = torch.bmm(e2, p[2]) * one[1]
        gradients = [
            wide_transposed(e1, x), e1.sum(1),
            torch.bmm(e2.transpose(1, 2), one[0]), e2.sum(1),
            torch.bmm(e3.transpose(1, 2), two[0]), e3.sum(1),
        ]  # fmt: skip
        for at, buffer, gradient in zip(p, momentum, gradients, strict=True):
            buffer.mul_(task.momentum).add_(gradient)
            at.sub_(buffer, alpha=task.rate)
    return found


def losses(task: Task, p: Parameters, targets: tuple[Tensor, Tensor]) -> Tensor:
    """Return the loss of each target in each training, in float64."""
    z = forward(p, targets[0].to(p[0].dtype), task.bend)[2].double()
    return F.cross_entropy(z.transpose(1, 2), targets[1].expand(len(z), -1), reduction="none")


def sources(task: Task, p: Parameters, targets: tuple[Tensor, Tensor]) -> Parameters:
    """Return the gradient of each target's loss at one training's end, (targets, *shape)."""

    def loss(own: Parameters, x: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(forward([one[None] for one in own], x[None], task.bend)[2][0], label[None])

    own = [one[0] for one in p]
    found: Parameters = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(
        own, targets[0].to(own[0].dtype), targets[1]
    )
    return found


def pull(
    p: Parameters, v: Parameters, x: Tensor, labels: Tensor, share: Tensor, bend: Bend
) -> tuple[Parameters, Tensor, Tensor, Tensor]:
    """Return one batch's Hessian-vector products, its outputs' changes along v, its outputs, and their gradients."""
    one, two, z = forward([each[None] for each in p], x, bend)
    a1, d1, c1 = (each[0] for each in one)
    a2, d2, c2 = (each[0] for each in two)
    count = len(v[0])
    t1 = wide(x, v[0]) + v[1][:, None]
    s1 = d1 * t1
    t2 = s1 @ p[2].T + torch.baddbmm(v[3][:, None], a1.expand(count, -1, -1), v[2].transpose(1, 2))
    s2 = d2 * t2
    t3 = s2 @ p[4].T + torch.baddbmm(v[5][:, None], a2.expand(count, -1, -1), v[4].transpose(1, 2))
    chance = torch.softmax(z[0], -1)
    e = chance - F.one_hot(labels, CLASSES)
    e3 = e * share[:, None]
    r2 = e3 @ p[4]
    r1 = (r2 * d2) @ p[2]
    f3 = (chance * t3 - chance * (chance * t3).sum(-1, keepdim=True)) * share[:, None]
    f2 = (f3 @ p[4] + e3 @ v[4]) * d2 + r2 * c2 * t2
    f1 = (f2 @ p[2] + (r2 * d2) @ v[2]) * d1 + r1 * c1 * t1
    products = [
        wide_transposed(f1, x), f1.sum(1),
        f2.transpose(1, 2) @ a1 + (r2 * d2).T @ s1, f2.sum(1),
        f3.transpose(1, 2) @ a2 + e3.T @ s2, f3.sum(1),
    ]  # fmt: skip
    return products, t3, z[0], e


Force = Callable[[int, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Form:
    """How to walk back; the default is the exact derivative.

    Attributes:
        forces: Of each result, what stands for the gradient of each example's loss with respect to its outputs, as a
            function of the step, the outputs and that gradient at the recorded parameters.
        damping: By what share to shrink the sensitivities at each step.
        late: Sources to be added before a step, by its number.
    """

    forces: Sequence[Force] = (lambda _step, _outputs, e: e,)
    damping: float = 0.0
    late: dict[int, Parameters] = field(default_factory=dict)


def walk(task: Task, trained: Trained, begun: Parameters, weights: Tensor, form: Form) -> list[Tensor]:
    """Return minus the derivative of each target's loss with respect to each weight, (targets, examples) a force."""
    owed, buffers = [one.clone() for one in begun], [torch.zeros_like(one) for one in begun]
    found = [torch.zeros(len(begun[0]), len(task.labels), dtype=task.dtype) for _ in form.forces]
    for number in reversed(range(len(task.batches))):
        ids = task.batches[number]
        for buffer, at in zip(buffers, owed, strict=True):
            buffer.mul_(task.momentum).sub_(at, alpha=task.rate)
        own = [one[0] for one in trained.kept[number]]
        share = weights[ids].to(task.dtype) / len(ids)
        products, along, z, e = pull(own, buffers, task.inputs[ids].to(task.dtype), task.labels[ids], share, task.bend)
        for at, product in zip(owed, products, strict=True):
            at.add_(product).mul_(1 - form.damping)
        for at, late in zip(owed, form.late.get(number, []), strict=False):
            at.add_(late)
        for each, force in zip(found, form.forces, strict=True):
            each.index_add_(1, ids, (along * force(number, z, e)).sum(-1) / len(ids), alpha=-1.0)
    return found
