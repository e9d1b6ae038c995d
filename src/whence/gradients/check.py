"""Checks that what was captured is the examples' own, and all of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from whence._errors import GradientError
from whence.gradients.calls import Call
from whence.gradients.per_example import PerExample

LEAST_AXES: dict[type[nn.Module], int] = {
    nn.Linear: 2,
    nn.Embedding: 1,
    nn.Conv1d: 3,
    nn.Conv2d: 4,
    nn.Conv3d: 5,
    nn.InstanceNorm1d: 3,
    nn.InstanceNorm2d: 4,
    nn.InstanceNorm3d: 5,
    nn.MultiheadAttention: 3,
}
"""How many axes an input with an example axis has at least."""


@final
@dataclass(eq=False)
class Totals:
    """Each parameter's batch gradient, where it is largest: what the examples' shares must add up to.

    That finds every use of a parameter that no layer showed: in a functional call, in a module whose
    ``forward`` was called directly, or in a hook that changes the gradient.
    """

    rows: dict[str, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    def see(self, name: str, gradient: Tensor) -> None:
        """Remember the row of a parameter's gradient that holds its largest entry."""
        dense = gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()
        if not dense.numel():
            return
        table = dense.reshape(1 if dense.dim() == 0 else dense.shape[0], -1)
        sizes = table.abs()
        if name in self.rows:  # a second backward pass: the same row, for the sum
            index, row, size = self.rows[name]
            self.rows[name] = (index, row + table.index_select(0, index)[0], size + sizes.amax())
            return
        largest = sizes.argmax()
        index = (largest // table.shape[1]).reshape(1)
        self.rows[name] = (index, table.index_select(0, index)[0], sizes.reshape(-1)[largest])

    def check(self, found: dict[str, PerExample]) -> None:
        """Compare with the sum over examples.

        Raises:
            GradientError: If a parameter's shares do not add up to its gradient.
        """
        if not self.rows:
            return
        scale = torch.stack([size.double() for _, _, size in self.rows.values()]).amax()
        for name, (index, row, size) in self.rows.items():
            gradient = found.get(name)
            if gradient is None:
                if size > 0:
                    raise GradientError(missed(name, "no layer that uses it was called as a module"))
                continue
            at = int(index)
            share = gradient.part(at, at + 1)
            own, noise = tolerance(row.dtype)
            allowed = own * share.abs().sum(0).amax() + noise * scale
            if (share.sum(0) - row).abs().amax() > allowed:
                raise GradientError(missed(name, "its layers account for only a part of it"))


def tolerance(dtype: torch.dtype) -> tuple[float, float]:
    """Return the difference allowed, relative to the shares' sizes and to the largest gradient.

    A use that was missed changes the largest row by about as much as the row itself, so single
    precision, which may hide TF32 or bfloat16 products, is given much room.
    """
    return (1e-6, 1e-9) if dtype == torch.float64 else (0.05, 1e-4)


def missed(name: str, what: str) -> str:
    """Return the text of the error about a parameter used outside its layers."""
    return (
        f"Parameter {name!r} got a gradient, but {what}. Call the module that owns it (not its forward(), "
        "nor a function with its weight), and let no hook on the parameter change its gradient."
    )


def check_batch(call: Call, batch: int | None, *, inputs: bool) -> None:
    """Refuse a layer whose rows are not the examples.

    Args:
        call: One call of the layer.
        batch: Examples that the model was given, if it was called.
        inputs: Whether the first argument must have the example axis too.

    Raises:
        GradientError: If the layer's example axis has not the batch's size.
    """
    kind = type(call.module).__name__
    seen = [(tuple(e.shape), call.output_axis(index)) for index, e in call.gradients.items()]
    if inputs:
        seen.insert(0, (tuple(call.input.shape), call.axis))
        least = next((n for base, n in LEAST_AXES.items() if isinstance(call.module, base)), 1 + call.axis)
        if len(seen[0][0]) < least:
            raise GradientError(
                f"Layer {call.name!r} ({kind}) was called on a tensor of shape {seen[0][0]}, which has no axis for "
                "the examples. Give it a batch, with the examples first."
            )
    for shape, axis in seen:
        size = shape[axis] if axis < len(shape) else 1
        expected = size if batch is None else batch
        if size != expected:
            raise GradientError(
                f"Layer {call.name!r} ({kind}) saw a tensor of shape {shape} with {size} rows along axis {axis}, but "
                f"the batch has {expected} examples. {reason(size, expected)} Keep the examples on axis 0 and put "
                "other axes after it (a Linear takes any number)."
            )


def reason(size: int, expected: int) -> str:
    """Say why a layer may see another number of rows than there are examples."""
    if size == 1:
        return "The layer works once for all examples, so its gradient cannot be shared out."
    if expected and size % expected == 0:
        return f"That is {size // expected} times as many: the examples were folded into a longer axis (windows, time)."
    return "The examples were moved to another axis, or the layer works once for all examples."
