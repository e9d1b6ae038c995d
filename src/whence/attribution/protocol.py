"""What every attributor does: look at the training side once, then score any targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence._files import make_folder
from whence._numbers import check_budget
from whence.attribution.scores import save_scores
from whence.audit.chunks import chosen_ids
from whence.audit.storage import refuse_existing
from whence.datasets import Examples, as_examples
from whence.kernel.trained import Trained, as_trained
from whence.runs import Run


@runtime_checkable
class Fitted(Protocol):
    """An attributor that has looked at a trained model and its data, ready for any targets."""

    def scores(self, targets: Examples, ids: list[int]) -> xr.DataArray:
        """Score every training example for some targets.

        Args:
            targets: The data that the targets are in.
            ids: Which of it.

        Returns:
            Scores with dims ``("target", "train")``, made by `label`: ``attrs`` say ``unit``, ``helps`` (1 if
            positive scores are those of examples that helped, -1 if negative ones) and ``attributor``.
        """
        ...


@runtime_checkable
class SelfScoring(Protocol):
    """A fitted attributor that knows every training example's score on itself without scoring all pairs."""

    def scores(self, targets: Examples, ids: list[int]) -> xr.DataArray:
        """Score every training example for some targets, as `Fitted` does."""
        ...

    def self_scores(self) -> Float[Tensor, " train"]:
        """Return each training example's score on its own loss: the diagonal."""
        ...


@runtime_checkable
class Attributor(Protocol):
    """A way to score training examples for targets; a frozen dataclass that holds its settings."""

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> Fitted:
        """Do what does not depend on the targets, so that new targets cost only their own side.

        Args:
            trained: The trained model and its data.
            memory_budget: Bytes to hold besides model, data and scores.
        """
        ...


def attribute(
    attributor: Attributor,
    source: Run | Trained | nn.Module,
    targets: Any,
    *,
    train_data: Any = None,
    loss: Any = None,
    ids: list[int] | None = None,
    memory_budget: int = 2**29,
    path: str | Path | None = None,
) -> xr.DataArray:
    """Score every training example for some targets, by any method.

    For more targets later, keep ``attributor.fit(as_trained(source))`` and call its ``scores``: the training side is
    then not computed again.

    Args:
        attributor: The method, such as ``GradDot()``.
        source: A recorded run, or a trained model with ``train_data`` and ``loss``.
        targets: The examples to explain: anything `as_examples` takes.
        train_data, loss: With a model, its training data and loss.
        ids: Which of ``targets`` to explain; all by default.
        memory_budget: Bytes to hold besides model, data and scores.
        path: Where to keep the scores, as a Zarr group that `load_scores` opens.

    Returns:
        Scores with dims ``("target", "train")``. ``attrs["unit"]`` says what 1 means, ``attrs["helps"]`` which sign
        belongs to examples that helped.

    Raises:
        ArgumentError: If an argument is outside what is listed, the method needs a run and there is none, or a file
            stands where the folder of ``path`` would be.
        AuditError: If something stands at ``path``.
        DiskError: If the disk is full or refuses to write.

    Examples:
        >>> import torch
        >>> from whence.attribution import GradDot
        >>> data = (torch.eye(2), torch.tensor([[1.0], [2.0]]))
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.zeros_(model.weight)
        >>> attribute(GradDot(), model, data, train_data=data, loss=nn.MSELoss()).values.tolist()
        [[4.0, 0.0], [0.0, 16.0]]
    """
    check_method(attributor)
    check_budget(memory_budget)
    if path is not None:
        refuse_existing(Path(path))
        make_folder(Path(path).parent)
    trained = as_trained(source, train_data, loss=loss)
    examples = as_examples(targets)
    chosen: list[int] = chosen_ids(ids, len(examples)).tolist()
    found = attributor.fit(trained, memory_budget=memory_budget).scores(examples, chosen)
    if path is not None:
        save_scores(found, path)
    return found


def check_method(given: object) -> None:
    """Refuse what is not an attributor.

    Raises:
        ArgumentError: If it is not.
    """
    if isinstance(given, type) or not isinstance(given, Attributor):
        name = given.__name__ if isinstance(given, type) else type(given).__name__
        raise ArgumentError(f"`attributor` is a method with its settings, such as GradDot(); got {name}.")
