"""The gradient that second derivatives are taken of, beside the one that the replay formed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from whence._errors import ReplayError
from whence.counterfactual.steps import Frozen

_AGREES = {torch.float32: 1e-3, torch.float64: 1e-6}
"""By how much the gradient formed again may miss the replayed one, relative to its largest entry."""
_NOISE = 100  # roundings by which it may miss one whose examples cancel


@final
class Formed:
    """Adds up the gradients of a step's microbatches, and compares their sum with the step's.

    Args:
        dtype: In which they are formed.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._sums: dict[str, Tensor] = {}

    def add(self, step: Frozen, number: int, terms: Mapping[str, Sequence[Tensor]]) -> None:
        """Take a microbatch's gradient; the first microbatch is the last to come, and has their sum compared.

        Args:
            step: The step, with the gradients that were kept of it.
            number: Which of its microbatches.
            terms: What adds up to the gradient of each parameter that this one trains.

        Raises:
            ReplayError: If the sum is not the gradient that the replay formed.
        """
        if number == len(step.record.batches) - 1:
            self._sums = {}
        for name in terms.keys() & step.raw.keys():
            parts = [one.detach() for one in terms[name]]
            before = self._sums.get(name, torch.zeros_like(step.raw[name], dtype=self._dtype))
            self._sums[name] = torch.stack([before, *parts]).sum(0)
        if number == 0:
            for name, ours in self._sums.items():
                self._compare(step, name, ours)
            self._sums = {}

    def _compare(self, step: Frozen, name: str, ours: Tensor) -> None:
        """Compare the gradient of one parameter.

        Raises:
            ReplayError: If it differs.
        """
        theirs = step.raw[name]
        far, largest = float((ours - theirs).abs().max()), float(theirs.abs().max())
        coarser = max(theirs.dtype, self._dtype, key=lambda one: torch.finfo(one).eps)
        if far <= _AGREES[coarser] * largest + _NOISE * torch.finfo(coarser).eps:
            return
        other = (
            ""
            if theirs.dtype == self._dtype
            else f" Here that is likely `precision`: random numbers drawn in {self._dtype} are not those drawn in "
            f"{theirs.dtype} by the run; leave it out."
        )
        raise ReplayError(
            f"At step {step.index} the gradient of {name!r} formed for second derivatives differs from the "
            f"replayed one by {far:.3g} (largest entry {largest:.3g}): the model does not compute the same "
            "when it is called again. Is there randomness that torch's generators do not govern, or a state "
            f"outside of its buffers?{other}"
        )
