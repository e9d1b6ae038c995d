"""Training on adversarial inputs, and what it changes beside the same training on clean ones (PLGK, table 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from whence._errors import ArgumentError
from whence._numbers import check_seed, is_number, is_whole
from whence._progress import progress
from whence.adversarial.groups import check_within
from whence.datasets import as_examples, call_model
from whence.kernel import Trained, modes
from whence.kernel.slopes import LossPerExample
from whence.kernel.trained import at_step
from whence.runs import Run, check_run, to_device

_SHARES = (0.9, 0.95, 0.99)  # of the energy


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
        ArgumentError: If ``epochs`` or ``batch_size`` is less than 1, the seed is none, the optimizer is of another
            model, or inputs are outside the attack's bounds.
        DataError: If the data is of a kind that cannot be read.
    """
    made = Pgd() if attack is None else attack
    _train(model, optimizer, train_data, (epochs, batch_size, seed), loss, made)


@final
@dataclass(frozen=True)
class Hardening:
    """How a run's network is trained anew, on adversarial inputs and in the same way on clean ones.

    Attributes:
        epochs: Passes over the training data.
        learning_rate: Of Adam.
        batch_size: Examples a step.
        attack: How inputs are made; by default `Pgd` by a tenth of the inputs' range.
        against: Steps of the attack by which both are tested.
        tests: Examples on which they are tested, the first ones.
        modes: How many modes of the training gradients are looked for.
        examples: Training examples that the modes are of, the first ones.
        seed: Of order, random starts and modes.
    """

    epochs: int = 10
    learning_rate: float = 1e-3
    batch_size: int = 256
    attack: Pgd | None = None
    against: int = 20
    tests: int = 1000
    modes: int = 125
    examples: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ArgumentError: If one is outside what it may be.
        """
        for name in ("epochs", "batch_size", "against", "tests", "modes", "examples"):
            if not is_whole(getattr(self, name)) or getattr(self, name) < 1:
                raise ArgumentError(f"`{name}` is a whole number, at least 1; got {getattr(self, name)!r}.")
        if not is_number(self.learning_rate) or self.learning_rate <= 0:
            raise ArgumentError(f"`learning_rate` is a number above 0; got {self.learning_rate!r}.")
        check_seed(self.seed)


def compare_hardened(
    run: Run,
    examples: Any,
    plan: Hardening | None = None,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    memory_budget: int = 2**29,
) -> xr.Dataset:
    """Train a run's network anew from its first parameters, on clean and on adversarial inputs, and compare (table 3).

    Args:
        run: The recorded run: of its network, first parameters, data and loss.
        examples: On which both are tested: anything `as_examples` takes, with classes as labels.
        plan: How; ``Hardening()`` if left out.
        bounds: The least and the greatest value an input may have, where the plan names no attack.
        memory_budget: Bytes that gradients may take.

    Returns:
        By ``"network"``, ``"standard"`` and ``"PGD-AT"``: ``accuracy``, ``robust`` (accuracy on attacked inputs),
        ``energy_ratio`` (mean squared length of the loss gradients on attacked inputs over that on clean ones); and by
        ``"share"`` of the training gradients' energy, 0.9, 0.95 and 0.99, how many ``modes`` hold it, nan where
        it is more than were looked for.

    Raises:
        ArgumentError: If there is no run with steps, it has fewer examples than modes, or inputs are outside the
            bounds.
        DataError: If the data is of a kind that cannot be read.
    """
    check_run(run, "A hardened network")
    goal = Hardening() if plan is None else plan
    span = bounds[1] - bounds[0]
    made = Pgd(epsilon=span / 10, bounds=bounds) if goal.attack is None else goal.attack
    tests = as_examples(examples)
    some = tests.batch(range(min(goal.tests, len(tests))))
    ids = range(min(goal.examples, len(run.examples)))
    rows = []
    for way in (None, made):
        network = replace(at_step(run, 0), run=None)
        optimizer = Adam(network.model.parameters(), goal.learning_rate)
        loss = _mean_of(network.loss.per_example)
        _train(network.model, optimizer, run.examples, (goal.epochs, goal.batch_size, goal.seed), loss, way)
        inputs, labels = to_device(some, network.device)
        with torch.random.fork_rng():
            torch.manual_seed(goal.seed)
            harder = replace(made, steps=goal.against).changed(network.model, inputs, labels, loss)
        rows.append(_measured(network, (inputs, harder, labels), ids, goal, memory_budget))
    return xr.concat(rows, xr.Variable("network", ["standard", "PGD-AT"]))


def _measured(
    network: Trained, tested: tuple[Tensor, Tensor, Tensor], ids: range, goal: Hardening, memory_budget: int
) -> xr.Dataset:
    clean, harder, labels = tested
    with torch.no_grad():
        right = [float((call_model(network.model, one).argmax(1) == labels).float().mean()) for one in (clean, harder)]
    found = modes(network, count=goal.modes, ids=ids, seed=goal.seed, memory_budget=memory_budget)
    energies = [
        modes(replace(network, examples=as_examples((one.cpu(), labels.cpu()))), count=1, memory_budget=memory_budget)
        for one in (clean, harder)
    ]
    held = [1 + int((found.captured < share).sum()) for share in _SHARES]
    return xr.Dataset(
        {
            "accuracy": right[0],
            "robust": right[1],
            "energy_ratio": energies[1].energy / energies[0].energy,
            "modes": ("share", [float(one) if one <= goal.modes else float("nan") for one in held]),
        },
        {"share": list(_SHARES)},
    )


def _mean_of(loss: LossPerExample) -> Callable[[Any, Tensor], Tensor]:
    def mean(outputs: Any, labels: Tensor) -> Tensor:
        return loss(outputs, labels).mean()

    return mean


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [one for group in optimizer.param_groups for one in group["params"]]


def _train(
    model: nn.Module,
    optimizer: Optimizer,
    train_data: Any,
    plan: tuple[int, int, int],
    loss: Callable[[Any, Tensor], Tensor],
    made: Pgd | None,
) -> None:
    """Train on what an attack makes of each batch, or on the batch as it is; ``plan``: epochs, batch size, seed."""
    epochs, batch_size, seed = plan
    if not all(is_whole(one) and one >= 1 for one in (epochs, batch_size)):
        raise ArgumentError(
            f"Training takes at least 1 epoch of batches of at least 1; got {epochs!r} and {batch_size!r}."
        )
    check_seed(seed)
    own, given = ({id(one) for one in some} for some in (model.parameters(), _parameters(optimizer)))
    if own.isdisjoint(given):
        raise ArgumentError("The optimizer has none of the model's parameters, so nothing learns. Make it of them.")
    data = as_examples(train_data)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    with progress("adversarial training", epochs * len(data)) as advance, torch.random.fork_rng():
        torch.manual_seed(seed)
        for epoch in range(epochs):
            for rows in torch.randperm(len(data), generator=generator).split(batch_size):
                x, y = to_device(data.batch(rows, epoch=epoch), device)
                model.eval()
                harder = x if made is None else made.changed(model, x, y, loss)
                model.train()
                optimizer.zero_grad()
                loss(call_model(model, harder), y).backward()
                optimizer.step()
                advance(len(rows))
    model.eval()
