"""What one call of one layer leaves behind: its inputs, and the gradients of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from whence._errors import GradientError
from whence.gradients.per_example import PerExample

Rule = Callable[["Call", frozenset[str]], dict[str, PerExample]]
"""From one call and the wanted parameters (named within the module) to their gradients."""


REPEATS = {torch.float64: 1e-8, torch.float32: 1e-2, torch.bfloat16: 1e-1}
"""By how much outputs computed again may differ, relative to the largest (products may be TF32 on a GPU)."""


@dataclass(eq=False)
class Call:
    """One call of one layer during the captured forward pass.

    Args:
        name: Path of the module in the model.
        module: The layer.
        arguments: Positional and keyword arguments, all tensors detached.
        axis: Where the examples stand in the layer's tensors.
        training: Whether the layer was in training mode.
        buffers: The layer's own buffers as they were.
        autocast: The lower precision that autocast computed in, if it was on.
        random_state: State of the random generator before the call, where a rule needs it.
        outputs: The outputs' tensors, copied for rules that compute them again.
        gradients: Gradients of the loss by position among the outputs' tensors.
        versions, parameter_versions: How often inputs and parameters had been written to.
    """

    name: str
    module: nn.Module
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    axis: int
    training: bool
    buffers: dict[str, Tensor]
    autocast: torch.dtype | None = None
    random_state: Tensor | None = None
    outputs: list[Tensor] = field(default_factory=list)
    gradients: dict[int, Tensor] = field(default_factory=dict)
    versions: list[tuple[Tensor, int]] = field(default_factory=list)
    parameter_versions: list[tuple[Tensor, int]] = field(default_factory=list)

    @property
    def input(self) -> Tensor:
        """The first argument, for layers that have one."""
        args, kwargs = self.arguments
        return cast("Tensor", args[0] if args else next(iter(kwargs.values())))

    @property
    def gradient(self) -> Tensor:
        """The gradient of the loss with respect to the first output."""
        return self.gradients[0]

    @property
    def device(self) -> torch.device:
        """Where the layer computed."""
        return next(iter(self.gradients.values())).device

    def output_axis(self, index: int) -> int:
        """Return where the examples stand in an output: recurrent states and attention weights have their own way."""
        if index and isinstance(self.module, nn.RNNBase):
            return 1
        return 0 if index and isinstance(self.module, nn.MultiheadAttention) else self.axis

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the input and the output's gradient, examples first, in the parameter's type."""
        return (
            self.input.movedim(self.axis, 0).to(dtype),
            self.gradient.movedim(self.axis, 0).to(dtype),
        )

    def same_autocast(self) -> torch.autocast:
        """Return a context that computes in the precision of the call."""
        return torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None)

    def check_repeats(self, outputs: Sequence[Tensor | None]) -> None:
        """Refuse a call that, computed again, gave something else.

        Raises:
            GradientError: If an output differs by more than rounding.
        """
        for seen, again in zip(self.outputs, outputs, strict=False):
            if again is None or not seen.is_floating_point() or not seen.numel():
                continue
            allowed = REPEATS[torch.float64 if seen.dtype == again.dtype == torch.float64 else torch.float32]
            allowed = REPEATS[torch.bfloat16] if self.autocast is not None else allowed
            if (seen - again).abs().amax() > allowed * seen.abs().amax():
                raise GradientError(
                    f"Layer {self.name!r} ({type(self.module).__name__}) gives other outputs when it is computed "
                    "again example by example, so it draws random numbers or mixes the examples of a batch. Let its "
                    "parameters belong to a module of their own that does neither."
                )

    def check_unchanged(self) -> None:
        """Refuse inputs and parameters that were written to since the call.

        Raises:
            GradientError: If one was.
        """
        if any(version(tensor) != before for tensor, before in self.versions):
            raise GradientError(
                f"An input of layer {self.name!r} ({type(self.module).__name__}) was modified in "
                "place after the layer had read it, so the layer's gradients cannot be formed. Make "
                "the operation that follows out of place (inplace=False, x = x + y for x += y)."
            )
        if any(version(p) != before for p, before in self.parameter_versions):
            raise GradientError(
                f"A parameter of layer {self.name!r} ({type(self.module).__name__}) changed before "
                "its per-example gradients were formed. Leave the capture block before "
                "optimizer.step()."
            )


def version(tensor: Tensor) -> int:
    """Return how often the tensor was written to (0 if torch does not count)."""
    return 0 if tensor.is_inference() else tensor._version


def tensors(tree: object) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dicts."""
    if isinstance(tree, Tensor):
        return [tree]
    if type(tree) in (tuple, list, dict):  # itself, since torch's way takes five times as long
        inside = tree.values() if isinstance(tree, dict) else cast("Sequence[object]", tree)
        return [tensor for one in inside for tensor in tensors(one)]
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def mapped(change: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Return the nest with every tensor changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if type(tree) in (tuple, list):  # see `tensors`
        return type(tree)(mapped(change, one) for one in tree)
    if type(tree) is dict:
        return {key: mapped(change, one) for key, one in tree.items()}
    return pytree.tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def detached(tree: Any) -> Any:
    """Return the nest with every tensor detached (sharing memory)."""
    return mapped(Tensor.detach, tree)


def aliased(tree: Any) -> Any:
    """Return the nest with every tensor behind a view: its gradient is what arrives from outside the module only."""
    return mapped(lambda tensor: tensor.view_as(tensor), tree)
