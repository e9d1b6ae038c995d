"""What a provenance network is made of besides its backbone and head (Provenance Networks, 3 and 7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, final

from torch import Tensor, nn

from whence._errors import ArgumentError
from whence._numbers import is_whole


@final
@dataclass(frozen=True, eq=False)
class Branches:
    """What stands between backbone and answers.

    Attributes:
        pool: Applied to what the backbone gives, before class and index branch: it must leave a vector an example.
        classes: Features to class logits; ``"linear"`` for a linear layer; None for none, a single-branch network.
        index: Features, with one-hot classes behind them if the network is conditional, to the embedding. By default a
            linear layer to ``width`` numbers; before a head that is not trained nothing, and no classes.
        width: Of the embedding, where ``index`` is left out.

    Raises:
        ArgumentError: If a branch is no module, or the width no whole number of at least 1.
    """

    pool: nn.Module | None = None
    classes: nn.Module | Literal["linear"] | None = "linear"
    index: nn.Module | None = None
    width: int = 128

    def __post_init__(self) -> None:
        """Check that branches are modules, and the width a whole number of at least 1."""
        for name, others in (("pool", ""), ("classes", "'linear' "), ("index", "")):
            given = getattr(self, name)
            named = name == "classes" and given == "linear"
            if not (named or given is None or isinstance(given, nn.Module)):
                kinds = f"a torch module, {others}or None" if others else "a torch module or None"
                raise ArgumentError(f"`{name}` of Branches is {kinds}; got {given!r}.")
        if not is_whole(self.width) or self.width < 1:
            raise ArgumentError(f"`width` is a whole number, at least 1; got {self.width!r}.")


@final
@dataclass(frozen=True, eq=False)
class Task:
    """A task that is no classification, with the signal that the index is conditioned on (3.2, last paragraph).

    Attributes:
        branch: What the backbone gives, not pooled, to the task's answer.
        loss: Of (answer, labels), a mean over the batch.
        groups: A whole number an example, such as a class of scenes or a bin of the label; the class branch predicts
            it, and it stands for the class everywhere.

    Raises:
        ArgumentError: If the branch is no module, or the loss no function.
    """

    branch: nn.Module
    loss: Callable[[Any, Any], Tensor]
    groups: Any

    def __post_init__(self) -> None:
        """Check that the branch is a module and the loss a function."""
        if not isinstance(self.branch, nn.Module):
            raise ArgumentError(f"`branch` of a Task is a torch module; got {self.branch!r}.")
        if not callable(self.loss):
            raise ArgumentError(f"`loss` of a Task is a function of answer and labels; got {self.loss!r}.")
