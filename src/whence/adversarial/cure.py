"""The cure: changes of inputs that break the balance of modes, without labels and without the clean inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from whence._errors import ArgumentError, ShapeError
from whence._numbers import check_seed, even_parts, is_number, is_whole
from whence._progress import progress
from whence.adversarial.cancelling import first_modes
from whence.adversarial.groups import Groups, check_within, lengths, random_like
from whence.audit.chunks import outputs_on_one
from whence.datasets import as_examples, call_model
from whence.kernel import Modes, Trained, as_trained, coefficients_of
from whence.kernel.slopes import LossPerExample
from whence.runs import Run

Aim = Literal["drive", "grow", "loss"]
Norm = Literal["l2", "linf"]


@final
@dataclass(frozen=True)
class Recipe:
    """How inputs are cured (PLGK, algorithm 2).

    Attributes:
        aim: ``"drive"``: every coefficient c_k is to become c_k - τ sign(Λ_k), as in the algorithm. ``"grow"``: it is
            to become (1 + τ/‖c‖) c_k, so the modes keep their balance among each other. ``"loss"``: no modes, the loss
            of the pseudo-label is to grow; the control that tells whether modes are needed at all.
        modes: How many of the modes are shifted.
        shift: τ.
        norm: Of the largest change, ``"l2"`` or ``"linf"``.
        epsilon: The largest change.
        steps: Steps of projected gradient descent.
        step_size: Length of a step, in the norm; None is 2.5 ε over the number of steps.
        align: Weight of cos² between the change and a reference change, which discourages undoing it.
        until_left: Whether an input is left as it is once the network no longer gives the pseudo-label. It needs no
            label, and keeps the change as small as it can be; it is no part of the algorithm.
    """

    aim: Aim = "drive"
    modes: int = 10
    shift: float = 100.0
    norm: Norm = "l2"
    epsilon: float = 4.0
    steps: int = 100
    step_size: float | None = None
    align: float = 1.0
    until_left: bool = False

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ArgumentError: If one is outside what it may be.
        """
        if self.aim not in get_args(Aim) or self.norm not in get_args(Norm):
            raise ArgumentError(
                f"`aim` is 'drive', 'grow' or 'loss' and `norm` 'l2' or 'linf'; got {self.aim!r} and {self.norm!r}."
            )
        whole = all(is_whole(one) and one >= 1 for one in (self.modes, self.steps))
        above = [self.epsilon, *([] if self.step_size is None else [self.step_size])]
        finite = is_number(self.shift) and is_number(self.align) and self.align >= 0
        if not whole or not finite or not all(is_number(one) and one > 0 for one in above):
            raise ArgumentError(
                "A cure shifts at least 1 mode in at least 1 step, by a change and steps above 0, with no negative "
                f"weight; got {self.modes!r} modes, shift {self.shift!r}, {self.steps!r} steps of {self.step_size!r}, "
                f"epsilon {self.epsilon!r}, align {self.align!r}."
            )

    @property
    def length(self) -> float:
        """Length of a step."""
        return 2.5 * self.epsilon / self.steps if self.step_size is None else self.step_size


PAPER = Recipe()
"""Algorithm 2 of the paper, its branch without labels; the paper names no settings, these are the best of a search."""

SMALLEST = Recipe(aim="grow", shift=100.0, epsilon=2.0, steps=200, step_size=0.02, until_left=True)
"""The smallest change along the modes' own balance that makes the network give up its answer."""


def cure(
    found: Modes,
    source: Run | Trained,
    inputs: Float[Tensor, "examples ..."],
    *,
    recipe: Recipe = PAPER,
    bounds: tuple[float, float] = (0.0, 1.0),
    reference: Float[Tensor, "examples ..."] | None = None,
    memory_budget: int = 2**29,
) -> Float[Tensor, "examples ..."]:
    """Change inputs so that their coefficients in the modes shift, in place of their loss (PLGK, algorithm 2).

    Labels are not used: the coefficients are those of the loss of the network's own answer, the pseudo-label.

    Args:
        found: The modes, of the end of the training.
        source: The run whose modes they are, or the trained model.
        inputs: What to cure.
        recipe: How.
        bounds: The least and the greatest value an input may have.
        reference: Changes that the cure is not to undo or repeat, one an input: those of the attack, where they are
            known. None leaves the weight ``align`` without effect.
        memory_budget: Bytes that the inputs' gradients may take; inputs are cured in chunks that fit.

    Returns:
        The changed inputs.

    Raises:
        ArgumentError: If there are fewer modes than the recipe shifts, the model is not that of the modes or cannot
            be called with the inputs, or these are outside the bounds.
        ShapeError: If there is not one reference change an input.
        GradientError: If the model cannot be differentiated example by example, or not twice.
    """
    check_within(inputs, bounds)
    if reference is not None and reference.shape != inputs.shape:
        raise ShapeError(
            f"`reference` needs one change an input, of shape {tuple(inputs.shape)}; got {tuple(reference.shape)}."
        )
    if recipe.aim != "loss" and recipe.modes > len(found):
        raise ArgumentError(
            f"The recipe shifts {recipe.modes} modes, and {len(found)} were found. Ask modes() for more."
        )
    trained = as_trained(source)
    outputs_on_one(trained.model, as_examples((inputs, torch.zeros(len(inputs)))), torch.arange(1))
    at_once = max(1, memory_budget // 8 // (found.layout.parameters * inputs.element_size()))
    cured = torch.empty_like(inputs)
    with progress("cure", len(inputs) * recipe.steps) as advance:
        for part in even_parts(range(len(inputs)), at_once):
            rows = slice(part.start, part.stop)
            aside = None if reference is None else reference[rows]
            one = _Cure(found, trained.model, trained.loss.per_example, recipe, inputs[rows], aside)
            cured[rows] = one.walk(bounds)
            advance(len(part) * recipe.steps)
    return cured


@final
class _Cure:
    """Projected gradient descent on the distance of coefficients from where they are to be."""

    def __init__(
        self,
        found: Modes,
        model: nn.Module,
        loss: LossPerExample,
        recipe: Recipe,
        inputs: Tensor,
        reference: Tensor | None,
    ) -> None:
        self._leading = first_modes(found, min(recipe.modes, len(found)))
        self._model, self._loss, self._recipe = model, loss, recipe
        self._start, self._reference = inputs, reference
        with torch.no_grad():
            self._answers: Int[Tensor, " examples"] = call_model(model, inputs).argmax(1)
            self._aim = None if recipe.aim == "loss" else self._aimed(self._coefficients(inputs))

    def walk(self, bounds: tuple[float, float]) -> Tensor:
        """Return the cured inputs."""
        inputs = self._start.clone()
        for _ in range(self._recipe.steps):
            stepped = self._projected(inputs - self._recipe.length * self._direction(inputs)).clamp(*bounds)
            if self._recipe.until_left:
                with torch.no_grad():
                    left = call_model(self._model, inputs).argmax(1) != self._answers
                if left.all():
                    break
                stepped = torch.where(left.reshape(-1, *[1] * (inputs.ndim - 1)), inputs, stepped)
            inputs = stepped
        return inputs

    def _coefficients(self, inputs: Tensor) -> Float[Tensor, "examples modes"]:
        return coefficients_of(self._leading, self._model, self._loss, inputs, self._answers)

    def _aimed(self, values: Float[Tensor, "examples modes"]) -> Float[Tensor, "examples modes"]:
        if self._recipe.aim == "drive":
            signs = self._leading.drive.to(values).sign()
            return values - self._recipe.shift * signs
        sizes: Tensor = torch.linalg.vector_norm(values, dim=1, keepdim=True)
        return values * (1 + self._recipe.shift / sizes.clamp_min(_LEAST))

    def _direction(self, inputs: Tensor) -> Tensor:
        """Return the steepest ascent of what is to be small, of length 1 for each input."""
        x = inputs.detach().requires_grad_(True)
        if self._aim is None:
            lacking = -self._loss(call_model(self._model, x), self._answers).sum()
        else:
            lacking = 0.5 * (self._coefficients(x) - self._aim).square().sum()
        if self._reference is not None and self._recipe.align:
            lacking = lacking + self._recipe.align * _squared_cosines(x - self._start, self._reference).sum()
        (slope,) = torch.autograd.grad(lacking, x)
        if self._recipe.norm == "linf":
            return slope.sign()
        size = lengths(slope).clamp_min(torch.finfo(slope.dtype).tiny)
        return slope / size.reshape(-1, *[1] * (inputs.ndim - 1))

    def _projected(self, inputs: Tensor) -> Tensor:
        change, most = inputs - self._start, self._recipe.epsilon
        if self._recipe.norm == "linf":
            return self._start + change.clamp(-most, most)
        share = (most / lengths(change).clamp_min(_LEAST)).clamp(max=1)
        return self._start + change * share.reshape(-1, *[1] * (inputs.ndim - 1))


_LEAST = 1e-12


def _squared_cosines(changes: Tensor, reference: Tensor) -> Float[Tensor, " examples"]:
    inner = (changes * reference).flatten(1).sum(1).square()
    sizes = changes.flatten(1).square().sum(1) * reference.flatten(1).square().sum(1)
    return inner / sizes.clamp_min(_LEAST)


def with_cure(
    groups: Groups,
    found: Modes,
    source: Run | Trained,
    *,
    of: str = "adversarial",
    recipe: Recipe = PAPER,
    known_attack: bool = False,
    seed: int = 0,
) -> Groups:
    """Return groups with one more, ``"cured"`` and the group's name, and its control (PLGK, table 2).

    The control is a random change of the same inputs, each as long as the cure's: ``"<of> + random"``.

    Args:
        groups: The groups.
        found: The modes, of the end of the training.
        source: The run whose modes they are, or the trained model.
        of: The group to cure.
        recipe: How.
        known_attack: Whether the cure is told the attack's changes, so as not to undo them (the algorithm's weight
            on cos²); the cure is then not blind to the clean inputs.
        seed: Of the random changes.

    Raises:
        ArgumentError: If there is no such group, or there are fewer modes than the recipe shifts.
        GradientError: If the model cannot be differentiated example by example, or not twice.
    """
    check_seed(seed)
    groups.only([of])
    inputs = groups.inputs[of]
    aside = groups.change(of) if known_attack else None
    cured = cure(found, source, inputs, recipe=recipe, bounds=groups.bounds, reference=aside)
    control = random_like(inputs, cured - inputs, groups.bounds, seed)
    return groups.with_group(f"cured {of}", cured).with_group(f"{of} + random", control)
