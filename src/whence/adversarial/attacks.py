"""Adversarial inputs, found by foolbox, beside random changes of the same size."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from whence._errors import ArgumentError, AttackError
from whence._extras import require
from whence._numbers import check_seed, is_number, is_whole
from whence.adversarial.groups import ADVERSARIAL, CLEAN, RANDOM, Groups, check_bounds, check_within, random_like
from whence.audit.chunks import chosen_ids, outputs_on_one
from whence.datasets import Examples, as_examples, call_model
from whence.kernel import Trained, as_trained
from whence.kernel.answers import only_inputs
from whence.runs import Run, to_device

ATTACKS: dict[str, str] = {
    "linf-pgd": "LinfPGD",
    "l2-pgd": "L2PGD",
    "linf-fgsm": "LinfFastGradientAttack",
    "deepfool": "L2DeepFoolAttack",
    "carlini-wagner": "L2CarliniWagnerAttack",
}
"""The attacks that have a name here, and what foolbox calls them."""

MINIMAL = ("deepfool", "carlini-wagner")  # look for the smallest change; a size only bounds it
_AT_ONCE = 512


def attack(
    source: Run | Trained | nn.Module,
    examples: Any,
    *,
    count: int = 32,
    method: str | Callable[[], Any] = "linf-pgd",
    epsilon: float | None = None,
    bounds: tuple[float, float] | None = None,
    ids: Sequence[int] | None = None,
    seed: int = 0,
) -> Groups:
    """Attack examples that the network answers rightly; return clean, adversarial and random inputs in groups.

    The random ones are changed by as much as the adversarial ones (PLGK, section 6.3). Examples on which the attack
    fails are passed over, until there are ``count``.

    Args:
        source: A recorded run, taken at its end; a trained model.
        examples: Anything `as_examples` takes, with labels; inputs are one floating-point tensor.
        count: How many adversarial inputs to find.
        method: ``"linf-pgd"``, ``"l2-pgd"``, ``"linf-fgsm"``, ``"deepfool"``, ``"carlini-wagner"``, or a function that
            makes an attack of foolbox.
        epsilon: Largest change that the attack may make, in the norm of its name. None is a tenth of the range of
            the inputs for a largest change, and of the length of its diagonal for a Euclidean one; attacks that look
            for the smallest change are not bounded then, and others that go by no name here need it.
        bounds: The least and the greatest value an input may have; None takes those found in the examples that may be
            attacked, all of which are read for it.
        ids: Which examples may be attacked; all when left out. They are tried in a random order.
        seed: Of that order and of the random changes. Attacks that draw numbers follow it too.

    Returns:
        Groups ``clean``, ``random`` and ``adversarial``.

    Raises:
        ArgumentError: If an argument is outside what it may be, there are no labels or they are no classes, inputs are
            no single tensor or outside the bounds, or the model gives no classes for them.
        AttackError: If fewer than ``count`` adversarial inputs are found.
        MissingExtraError: If foolbox is not installed.
        DataError: If the data is of a kind that cannot be read.
    """
    model = copy.deepcopy(source).eval() if isinstance(source, nn.Module) else as_trained(source).model
    data = _labelled(examples)
    if not is_whole(count) or count < 1:
        raise ArgumentError(f"`count` is how many adversarial inputs to find, at least 1; got {count!r}.")
    check_seed(seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(chosen_ids(ids, len(data), "example").numpy()))
    _check(*data.batch(order[:1]))
    _check_answers(model, data, order)
    limits = _bounds(data, order, bounds)
    size = epsilon if epsilon is not None else _default_size(data, method, limits)
    if size is not None and (not is_number(size) or size <= 0):
        raise ArgumentError(f"`epsilon` is the largest change an attack may make, above 0; got {size!r}.")
    made = _made(method)
    if size is None and isinstance(made, _imported("foolbox.attacks.base").FixedEpsilonAttack):
        raise ArgumentError(
            f"{type(made).__name__} makes changes of a given size, which has a default for the attacks that go by a "
            "name here. Give `epsilon`."
        )
    found = _search(model, data, order, int(count), _Tried(made, size, limits, seed))
    clean, adversarial, labels, kept = found
    if len(kept) < count:
        raise AttackError(
            f"The attack {_called(method)} found {len(kept)} adversarial inputs"
            f"{'' if size is None else f' with changes of at most {size}'}, fewer than {count}, in the {len(order)} "
            f"examples that it was given. Give {'' if size is None else 'a larger `epsilon`, '}another `method`, more "
            "examples, or a smaller `count`."
        )
    groups = {CLEAN: clean, RANDOM: random_like(clean, adversarial - clean, limits, seed), ADVERSARIAL: adversarial}
    said = _called(method) if size is None else f"{_called(method)}, at most {size:g}"
    return Groups(groups, labels, tuple(kept), limits, said)


class _Tried:
    """An attack with its size."""

    def __init__(self, made: Any, size: float | None, bounds: tuple[float, float], seed: int) -> None:
        self._made, self._size, self.bounds, self._seed = made, size, bounds, seed

    def __call__(
        self, model: nn.Module, inputs: Float[Tensor, "examples ..."], labels: Int[Tensor, " examples"]
    ) -> tuple[Float[Tensor, "examples ..."], Bool[Tensor, " examples"]]:
        """Return the changed inputs, and which of them are answered wrongly and within the size."""
        foolbox = _imported("foolbox")
        seen = foolbox.PyTorchModel(model, bounds=self.bounds, device=inputs.device)
        with torch.random.fork_rng():
            torch.manual_seed(self._seed)
            _, changed, success = self._made(seen, inputs, labels, epsilons=self._size)
        return changed.detach(), success


def _search(model: nn.Module, data: Examples, order: Tensor, count: int, tried: _Tried) -> Any:
    device = next(model.parameters()).device
    clean, adversarial, labels, kept = [], [], [], []
    for rows in order.split(min(_AT_ONCE, max(32, 2 * count))):
        x, y = to_device(data.batch(rows), device)
        check_within(x, tried.bounds)
        y = y.long()
        with torch.no_grad():
            right = call_model(model, x).argmax(1) == y
        if right.any():
            changed, success = tried(model, x[right], y[right])
            clean.append(x[right][success])
            adversarial.append(changed[success])
            labels.append(y[right][success])
            kept += rows[right.cpu()][success.cpu()].tolist()
        if len(kept) >= count:
            break
    if not kept:
        return torch.empty(0), torch.empty(0), torch.empty(0), []
    return (*(torch.cat(one)[:count] for one in (clean, adversarial, labels)), kept[:count])


def _check(inputs: Any, labels: Any) -> None:
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise ArgumentError("An attack changes inputs that are one floating-point tensor; these are not.")
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point():
        raise ArgumentError(
            "An attack looks for inputs that are not answered with their label: it needs one class an example, as a "
            "whole number. Give examples with such labels."
        )


def _labelled(examples: Any) -> Examples:
    if only_inputs(examples):
        raise ArgumentError(
            f"These examples ({type(examples).__name__}) have inputs and no labels. An attack changes inputs until "
            "they are not answered with their label, so each needs one. Give (inputs, labels); to attack what the "
            "network itself answers, give its answers as labels: (inputs, model(inputs).argmax(1))."
        )
    return as_examples(examples)


def _check_answers(model: nn.Module, data: Examples, order: Tensor) -> None:
    """Refuse a model that cannot be called with the inputs, or gives no scores of classes."""
    if next(model.parameters(), None) is None:
        raise ArgumentError(f"The {type(model).__name__} to be attacked has no parameters. Give the network itself.")
    outputs = outputs_on_one(model, data, order)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2:
        given = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ArgumentError(
            "An attack needs a model whose output is a tensor of shape (examples, classes), at least two of them; this "
            f"one gives {given}. Wrap it in a module that returns its logits."
        )


def _bounds(data: Examples, order: Tensor, bounds: Any) -> tuple[float, float]:
    if bounds is None:
        ends = torch.stack([torch.stack(data.batch(rows)[0].aminmax()) for rows in order.split(_AT_ONCE)])
        low, high = float(ends[:, 0].amin()), float(ends[:, 1].amax())
        if not is_number(low) or not is_number(high) or low >= high:
            raise ArgumentError(
                f"Inputs go from {low:g} to {high:g}: some are no numbers, or all the same. Give inputs that are "
                "numbers, and `bounds`, the least and the greatest value that one may have."
            )
        bounds = low, high
    check_bounds(bounds)
    return float(bounds[0]), float(bounds[1])


def _default_size(data: Examples, method: Any, bounds: tuple[float, float]) -> float | None:
    if method in MINIMAL or not isinstance(method, str):
        return None
    span = 0.1 * (bounds[1] - bounds[0])
    if method.startswith("linf"):
        return span
    return float(span * np.sqrt(data.batch([0])[0][0].numel()))


def _made(method: str | Callable[[], Any]) -> Any:
    if not isinstance(method, str) and callable(method):
        try:
            made = method()
        except TypeError as error:
            raise ArgumentError(
                f"`method` is called without arguments to make an attack of foolbox; {_called(method)} cannot be: "
                f"{error}. Give the attack's class, or a function that returns one."
            ) from error
        if not callable(made):
            raise ArgumentError(
                f"`method` makes an attack of foolbox when it is called; {_called(method)} made {made!r}. Give the "
                "attack's class, or a function that returns one."
            )
        return made
    if method not in ATTACKS:
        raise ArgumentError(f"`method` is {', '.join(map(repr, ATTACKS))}, or makes an attack; got {method!r}.")
    return getattr(_imported("foolbox.attacks"), ATTACKS[method])()


def _called(method: str | Callable[[], Any]) -> str:
    return method if isinstance(method, str) else getattr(method, "__name__", type(method).__name__)


def _imported(module: str) -> Any:
    """Import a module of foolbox, whose last release asks scipy for a function by its former place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return require(module, "adversarial")
