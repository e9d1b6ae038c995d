"""Training on adversarial inputs, for comparison with the network trained on clean ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from whence._errors import ArgumentError
from whence._numbers import check_seed, is_number, is_whole
from whence._progress import progress
from whence.adversarial.groups import check_within
from whence.datasets import as_examples, call_model
from whence.runs import to_device


@final
@dataclass(frozen=True)
class Pgd:
    """Projected gradient ascent of the loss within the largest-change ball (Madry et al., 2017, section 2.1).

    Attributes:
        epsilon: The largest change of an entry.
        steps: How many steps.
        step_size: Of each; None is 2.5 ε over the number of steps.
        bounds: The least and the greatest value an input may have.
    """

    epsilon: float = 0.1
    steps: int = 7
    step_size: float | None = None
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ArgumentError: If one is outside what it may be.
        """
        sizes = [self.epsilon, *([] if self.step_size is None else [self.step_size])]
        bounds: Any = self.bounds
        pair = isinstance(bounds, Sequence) and len(bounds) == 2 and all(map(is_number, bounds))
        right = is_whole(self.steps) and self.steps >= 1 and all(is_number(one) and one > 0 for one in sizes)
        if not right or not pair or bounds[0] >= bounds[1]:
            raise ArgumentError(
                "Projected gradient ascent makes at least 1 step within a change above 0, between two bounds; got "
                f"{self.steps!r} steps of {self.step_size!r}, epsilon {self.epsilon!r}, bounds {self.bounds!r}."
            )

    def changed(
        self,
        model: nn.Module,
        inputs: Float[Tensor, "examples ..."],
        labels: Int[Tensor, " examples"],
        loss: Callable[[Any, Tensor], Tensor] = F.cross_entropy,
    ) -> Float[Tensor, "examples ..."]:
        """Return inputs on which the loss is high, from a random start within the ball; torch's generator draws it.

        Raises:
            ArgumentError: If inputs are outside the bounds, to which changed ones are cut.
        """
        check_within(inputs, self.bounds)
        length = 2.5 * self.epsilon / self.steps if self.step_size is None else self.step_size
        start = torch.empty_like(inputs).uniform_(-self.epsilon, self.epsilon)
        found = (inputs + start).clamp(*self.bounds)
        for _ in range(self.steps):
            x = found.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(loss(call_model(model, x), labels), x)
            stepped = found + length * slope.sign()
            found = (inputs + (stepped - inputs).clamp(-self.epsilon, self.epsilon)).clamp(*self.bounds)
        return found.detach()


def train_against(
    model: nn.Module,
    optimizer: Optimizer,
    train_data: Any,
    *,
    epochs: int,
    batch_size: int = 256,
    attack: Pgd | None = None,
    loss: Callable[[Any, Tensor], Tensor] = F.cross_entropy,
    seed: int = 0,
) -> None:
    """Train a model on adversarial inputs made anew for every batch (PGD-AT; PLGK, table 3).

    Inputs are made against the model in evaluation mode, so that its averages in batch normalisation are of what it is
    trained on alone; it is left in that mode. It is not recorded: each batch's inputs depend on the parameters. Give
    the model to `whence.kernel.as_trained` for its modes.

    Args:
        model: The model; trained in place, on its own device.
        optimizer: Its optimizer.
        train_data: Anything `as_examples` takes, inputs one floating-point tensor.
        epochs: Passes over the data.
        batch_size: Examples a step.
        attack: How the inputs are made; ``Pgd()`` if left out.
        loss: The loss, its mean over the batch.
        seed: Of order and random starts.

    Raises:
        ArgumentError: If ``epochs`` or ``batch_size`` is less than 1, the seed is none, or inputs are outside the
            attack's bounds.
        DataError: If the data is of a kind that cannot be read.
    """
    if not all(is_whole(one) and one >= 1 for one in (epochs, batch_size)):
        raise ArgumentError(
            f"Training takes at least 1 epoch of batches of at least 1; got {epochs!r} and {batch_size!r}."
        )
    check_seed(seed)
    data, made = as_examples(train_data), Pgd() if attack is None else attack
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    with progress("adversarial training", epochs * len(data)) as advance, torch.random.fork_rng():
        torch.manual_seed(seed)
        for epoch in range(epochs):
            for rows in torch.randperm(len(data), generator=generator).split(batch_size):
                x, y = to_device(data.batch(rows, epoch=epoch), device)
                model.eval()
                harder = made.changed(model, x, y, loss)
                model.train()
                optimizer.zero_grad()
                loss(call_model(model, harder), y).backward()
                optimizer.step()
                advance(len(rows))
    model.eval()
