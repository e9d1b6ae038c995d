"""Per-example gradients of any examples at any state of a model, in blocks that fit a memory budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

import torch

from whence._numbers import even_parts
from whence.audit.chunks import outputs_on_one
from whence.audit.quantities import Numbers, Quantity, as_quantity
from whence.audit.targets import TargetPass
from whence.datasets import Examples
from whence.kernel.answers import Answered
from whence.kernel.moments import Moment
from whence.kernel.products import Gradients, compact
from whence.kernel.projection import projected
from whence.kernel.trained import Trained
from whence.runs import size, to_device

_ROWS = 512  # examples that go through the model at once, at most
_SEED = 0  # of projections
_ACTIVATIONS = 4  # what a pass holds, as a multiple of its gradients' factors


@final
class Features:
    """Gradients of one number per example, for examples of one dataset.

    Args:
        trained: The model.
        examples: Where the examples come from.
        ids: Which of them.
        quantity: What to differentiate, as in `whence.audit`.
        names: The parameters.
        projection: Numbers to project each parameter's gradient to, or None to leave it as it is.
        dtype: In which to compute; None is the model's own.
    """

    def __init__(
        self,
        trained: Trained,
        examples: Examples | Answered,
        ids: Sequence[int],
        quantity: str | Numbers,
        names: tuple[str, ...],
        projection: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._examples, self.ids, self._device = examples, list(ids), trained.device
        self._projection = projection
        rows = torch.tensor(self.ids)
        self.quantity: Quantity = as_quantity(
            quantity, trained.loss, None, outputs_on_one(trained.model, examples, rows)
        )
        first = next(one for one in trained.model.parameters() if one.is_floating_point())
        inputs, labels = to_device(examples.batch(rows[:1]), self._device)
        self.dtype = first.dtype if dtype is None else dtype
        self._pass = TargetPass(trained.model, inputs, labels, self.quantity, names, self.dtype)

    def measure(self, moment: Moment) -> tuple[int, int]:
        """Return how many bytes one example takes: on its way through the model, and when it is kept."""
        raw = self._gradients(moment, range(1))
        return _ACTIVATIONS * size(raw), size(self._kept(raw))

    def blocks(self, moment: Moment, within: range, rows: int) -> Iterator[tuple[range, Gradients]]:
        """Yield the gradients of the examples at some positions of ``ids``, in blocks of at most so many rows."""
        for part in even_parts(within, min(_ROWS, rows)):
            yield part, self._kept(self._gradients(moment, part))

    def exact(self, moment: Moment, rows: int) -> Gradients:
        """Return the gradients of the first examples, not projected."""
        return self._gradients(moment, range(min(rows, len(self.ids))))

    def _kept(self, gradients: Gradients) -> Gradients:
        """Return gradients in the form in which they are kept."""
        if self._projection is not None:
            gradients = projected(gradients, self._projection, _SEED)
        return {name: compact(one) for name, one in gradients.items()}

    def targets(self, part: range) -> TargetPass:
        """Return what evaluates the examples at some positions of ``ids`` at any state; good until the next call."""
        ids = torch.tensor(self.ids[part.start : part.stop])
        self._pass = self._pass.over(*to_device(self._examples.batch(ids), self._device))
        return self._pass

    def _gradients(self, moment: Moment, part: range) -> Gradients:
        return self.targets(part).gradients(moment.parameters, moment.buffers).gradients
