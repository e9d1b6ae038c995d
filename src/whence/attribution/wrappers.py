"""Attributors around attributors: other scales, several models; and what an example does to itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import xarray as xr
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence._numbers import check_budget
from whence._progress import progress
from whence.attribution.baselines import class_numbers
from whence.attribution.protocol import Attributor, Fitted, SelfScoring, check_method
from whence.datasets import Examples
from whence.kernel.trained import Trained, as_trained, on_same_data
from whence.runs import Run

_BLOCK = 64  # examples scored against all to read off the diagonal, where a method has no shorter way


@final
@dataclass(frozen=True)
class Relative:
    """Scores divided by the root of each training example's score on itself.

    For gradients that is the example's own norm, so that examples with a large loss, which lead the lists of every
    target, no longer do (RelatIF: Barshan et al., 2020, section 4; TFA, appendix B).

    Args:
        inner: The attributor; its scores must have products with themselves (`SelfScoring`).
    """

    inner: Attributor

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedRelative:
        """Fit the inner attributor; see `Attributor.fit`.

        Raises:
            ArgumentError: If it is none, or has no scores of examples on themselves.
        """
        check_method(self.inner)
        fitted = self.inner.fit(trained, memory_budget=memory_budget)
        if not isinstance(fitted, SelfScoring):
            raise ArgumentError(
                f"{type(self.inner).__name__} does not score examples on themselves, so its scores cannot be made "
                "relative. Wrap GradDot, TracIn, Influence or EKFAC."
            )
        return FittedRelative(fitted, fitted.self_scores())


@final
@dataclass(frozen=True)
class FittedRelative:
    """The inner attributor, and what it divides by."""

    inner: Any
    own: Tensor

    def scores(self, targets: Examples, ids: list[int]) -> xr.DataArray:
        """Score and divide; see `Fitted.scores`. An example without any score on itself has 0."""
        found: xr.DataArray = self.inner.scores(targets, ids)
        root = self.own.clamp_min(0).sqrt().cpu().numpy()
        values = np.divide(found.values, root, out=np.zeros_like(found.values), where=root != 0)
        unit = f"{found.attrs['unit']} per root of the example's own score"
        return found.copy(data=values).assign_attrs(attributor=f"relative {found.attrs['attributor']}", unit=unit)


@final
@dataclass(frozen=True)
class ClassBalanced:
    """Scores minus the target's mean score over all training examples of the same label.

    What is left ranks an example among its own class: a top list is then not filled with one class merely because all
    of it scores high.

    Args:
        inner: The attributor.
    """

    inner: Attributor

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedBalanced:
        """Fit the inner attributor and read the labels; see `Attributor.fit`.

        Raises:
            ArgumentError: If it is none, or labels are not one whole number each.
        """
        check_method(self.inner)
        labels = class_numbers(trained.examples, "training")
        return FittedBalanced(self.inner.fit(trained, memory_budget=memory_budget), labels)


@final
@dataclass(frozen=True)
class FittedBalanced:
    """The inner attributor, and the training labels."""

    inner: Fitted
    labels: Tensor

    def scores(self, targets: Examples, ids: list[int]) -> xr.DataArray:
        """Score and centre; see `Fitted.scores`."""
        found = self.inner.scores(targets, ids)
        classes, members = np.unique(self.labels.numpy(), return_inverse=True)
        mean = np.zeros((len(ids), len(classes)))
        np.add.at(mean.T, members, found.values.T.astype(np.float64))
        mean /= np.bincount(members)
        values = (found.values - mean[:, members]).astype(found.dtype)
        return found.copy(data=values).assign_attrs(attributor=f"class-balanced {found.attrs['attributor']}")


@final
@dataclass(frozen=True)
class Ensemble:
    """The mean of an attributor's scores over several trained models: that asked for, and others like it.

    Args:
        inner: The attributor.
        others: Runs (or `as_trained` models) on the same training data, with other seeds.
    """

    inner: Attributor
    others: Sequence[Run | Trained]

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedEnsemble:
        """Fit the attributor to every model, within one budget; see `Attributor.fit`.

        Raises:
            ArgumentError: If the attributor is none, or a model was trained on other data.
        """
        check_method(self.inner)
        models = on_same_data(trained, self.others)
        share = max(1, memory_budget // len(models))
        return FittedEnsemble(tuple(self.inner.fit(one, memory_budget=share) for one in models))


@final
@dataclass(frozen=True)
class FittedEnsemble:
    """The attributor, fitted to every model."""

    models: tuple[Fitted, ...]

    def scores(self, targets: Examples, ids: list[int]) -> xr.DataArray:
        """Score with every model and take the mean; see `Fitted.scores`."""
        first, *rest = (one.scores(targets, ids) for one in self.models)
        values = np.mean([first.values, *(one.values for one in rest)], 0, dtype=np.float64).astype(first.dtype)
        name = f"{first.attrs['attributor']}, mean of {len(self.models)}"
        return first.copy(data=values).assign_attrs(attributor=name)


def self_influence(
    attributor: Attributor,
    source: Run | Trained | nn.Module,
    *,
    train_data: Any = None,
    loss: Any = None,
    memory_budget: int = 2**29,
) -> xr.DataArray:
    """Return each training example's score on itself: large for examples that the model knows only by heart.

    Args:
        attributor: The method; those that compare gradients never form the matrix whose diagonal this is.
        source: A recorded run, or a trained model with ``train_data`` and ``loss``.
        train_data, loss: With a model, its training data and loss.
        memory_budget: Bytes to hold besides model and data.

    Returns:
        Scores with dims ``("train",)`` and the attributor's attributes.

    Raises:
        ArgumentError: If an argument is not what `attribute` takes.

    Examples:
        >>> import torch
        >>> from whence.attribution import GradDot
        >>> data, model = (torch.eye(2), torch.tensor([[1.0], [2.0]])), nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.zeros_(model.weight)
        >>> self_influence(GradDot(), model, train_data=data, loss=nn.MSELoss()).values.tolist()
        [4.0, 16.0]
    """
    check_method(attributor)
    check_budget(memory_budget)
    trained = as_trained(source, train_data, loss=loss)
    fitted, count = attributor.fit(trained, memory_budget=memory_budget), len(trained.examples)
    first = fitted.scores(trained.examples, [0])
    attrs = {**first.attrs, "attributor": f"self-influence by {first.attrs['attributor']}"}
    if isinstance(fitted, SelfScoring):
        values = fitted.self_scores().cpu().numpy()
    else:
        parts = []
        with progress("self-influence", count) as advance:
            for start in range(0, count, _BLOCK):
                ids = list(range(start, min(start + _BLOCK, count)))
                parts.append(np.diagonal(fitted.scores(trained.examples, ids).values[:, ids]))
                advance(len(ids))
        values = np.concatenate(parts)
    return xr.DataArray(values, {"train": np.arange(count)}, ("train",), "self_influence", attrs)
