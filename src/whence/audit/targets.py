"""Gradients of the audited quantity at any parameters, one row a target."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from whence._errors import ArgumentError, GradientError
from whence.audit.quantities import Quantity, evaluate
from whence.datasets import call_model
from whence.gradients import Dense, PerExample, capture, interleave
from whence.runs import cast_floating, cast_model, leaves, model_copy, transform

State = Mapping[str, Tensor]


@final
@dataclass(frozen=True)
class TargetGradients:
    """The quantity and its gradient at one state of the model.

    Attributes:
        values: The quantity in float64, one entry a target.
        gradients: One entry a trained parameter that the quantity depends on.
    """

    values: Float[Tensor, " targets"]
    gradients: dict[str, PerExample]

    def along(self, change: State) -> Float[Tensor, " targets"]:
        """Return the directional derivative ⟨∇q, change⟩ of each target, in float64."""
        total = torch.zeros_like(self.values)
        for name, gradient in self.gradients.items():
            if name in change:
                total += gradient.dot(change[name]).double()
        return total


@final
class TargetPass:
    """Evaluates targets with a private copy of the model, in evaluation mode, at given parameters and buffers.

    Args:
        model: The trained model; copied.
        inputs: Inputs of the targets, first axis = target example.
        labels: Their labels.
        quantity: What is audited. With classes, the rows run over the classes of the first target, then of the second.
        names: Trained parameters.
        dtype: In which to compute.

    Raises:
        GradientError: If a layer mixes the examples of a batch in evaluation mode.
    """

    def __init__(
        self, model: nn.Module, inputs: Any, labels: Any, quantity: Quantity, names: tuple[str, ...], dtype: torch.dtype
    ) -> None:
        self._model = cast_model(model_copy(model), dtype).eval()
        self._inputs, self._labels = _cut_off(cast_floating(inputs, dtype)), _cut_off(labels)
        self._writes: bool | None = None  # whether the model writes to its inputs; not known yet
        self._quantity, self._names = quantity, names
        self._examples = len(pytree.tree_leaves(labels)[0])
        self.dtype = dtype
        self._state = {
            **dict(self._model.named_parameters(remove_duplicate=False)),
            **dict(self._model.named_buffers()),
        }
        self._checked = False
        for name, module in self._model.named_modules():
            _refuse_mixing(name, module)
            if isinstance(module, nn.Embedding):
                module.scale_grad_by_freq = False  # what a training step makes of a gradient, not a target's own
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_(name in names)

    def over(self, inputs: Any, labels: Any) -> TargetPass:
        """Return a pass over other targets with the same copy of the model."""
        found = copy.copy(self)
        found._inputs, found._labels = _cut_off(cast_floating(inputs, self.dtype)), _cut_off(labels)
        found._examples = len(pytree.tree_leaves(labels)[0])
        return found

    def gradients(self, parameters: State, buffers: State) -> TargetGradients:
        """Return the quantity and its per-target gradients at the given state."""
        self.place(parameters, buffers)
        found = [self._one(numbers) for numbers in self._quantity.numbers]
        if not self._checked:  # the first pass forms the weights' gradients too, against which the shares are checked
            self._model.requires_grad_(False)
            self._checked = True
        if len(found) == 1:
            return found[0]
        return _interleave(found)

    def one_by_one(self, parameters: State, buffers: State) -> TargetGradients:
        """Do as `gradients` by one backward pass a target: for any model, and without rules of layers, but slowly.

        A target's number must come from its own row alone, which is not checked.
        """
        self.place(parameters, buffers)
        live = {name: one for name, one in self._model.named_parameters() if name in self._names}
        for parameter in live.values():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            outputs = self._outputs()
            rows = [evaluate(one, outputs, self._labels, self._examples) for one in self._quantity.numbers]
            values = torch.stack(rows, 1).reshape(-1)
        found = [
            torch.autograd.grad(value, list(live.values()), retain_graph=True, materialize_grads=True)
            for value in values
        ]
        gradients = {name: Dense(torch.stack(one)) for name, one in zip(live, zip(*found, strict=True), strict=True)}
        return TargetGradients(values.detach().double(), dict(gradients))

    def values(self, parameters: State, buffers: State) -> Float[Tensor, " targets"]:
        """Return the quantity alone, in float64."""
        self.place(parameters, buffers)
        with torch.no_grad():
            outputs = self._outputs()
            rows = [evaluate(one, outputs, self._labels, self._examples) for one in self._quantity.numbers]
        return torch.stack(rows, 1).reshape(-1).double()

    def predictions(self, parameters: State, buffers: State) -> Tensor | None:
        """Return the predicted class of each target example, or None if the outputs are not (examples, classes)."""
        self.place(parameters, buffers)
        with torch.no_grad():
            outputs = self._outputs()
        logits = getattr(outputs, "logits", outputs)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
            return None
        return logits.argmax(1)

    def _outputs(self) -> Any:
        """Call the model; on copies of the inputs, if it writes to them.

        Raises:
            ArgumentError: If it cannot be called with all of its parameters in one type.
            RuntimeError: As it came from the model, if it is another.
        """
        if self._writes is False:
            return call_model(self._model, self._inputs)
        given = transform(self._inputs, torch.clone)
        before = [one._version for one in leaves(given)]
        try:
            outputs = call_model(self._model, given)
        except RuntimeError as error:
            if "type" not in str(error):
                raise
            raise ArgumentError(
                f"The model cannot be called with everything in {self.dtype}: {error}. Keep its parameters, and what "
                "it makes in its forward pass, in one type: x.to(self.weight.dtype) for x.float(), a buffer for a "
                "plain tensor."
            ) from error
        self._writes = [one._version for one in leaves(given)] != before
        return outputs

    def _one(self, numbers: Any) -> TargetGradients:
        with torch.enable_grad(), capture(self._model, self._names, frozen=self._checked) as captured:
            values = evaluate(numbers, self._outputs(), self._labels, self._examples)
            if not values.requires_grad:
                raise ArgumentError(
                    f"The audited quantity {self._quantity.name!r} does not depend on trained parameters in a way "
                    "that can be differentiated, so nothing can be attributed. Audit a differentiable number, not an "
                    "argmax or a comparison."
                )
            values.sum().backward()
        for parameter in self._model.parameters():
            parameter.grad = None
        return TargetGradients(values.detach().double(), captured.gradients())

    def place(self, parameters: State, buffers: State) -> None:
        """Bring the model to a state; parameters and buffers that are not named stay as they are."""
        values = {**parameters, **buffers}
        if values:
            with torch.no_grad():
                torch._foreach_copy_([self._state[name] for name in values], list(values.values()))


def _cut_off(tree: Any) -> Any:
    """Return tensors that no gradient flows back from."""
    return transform(tree, lambda tensor: tensor.detach())


def _refuse_mixing(name: str, module: nn.Module) -> None:
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
        raise GradientError(
            f"Layer {name!r} ({type(module).__name__}) has no running averages (track_running_stats=False): in "
            "evaluation mode, too, it computes with those of the batch, so a target would depend on which others are "
            "asked about. Build it with track_running_stats=True, or take a GroupNorm."
        )


def refuse_infinite(quantity: str, values: Float[Tensor, " targets"]) -> None:
    """Refuse targets whose quantity is no number: nothing of it could be shared out.

    Raises:
        ArgumentError: If there are such.
    """
    lost = int((~values.isfinite()).sum())
    if lost:
        raise ArgumentError(
            f"The {quantity} of {lost} of {len(values)} targets is nan or infinite. Look for nan in their inputs and "
            "labels, leave them out, or see whether the training diverged."
        )


def _interleave(found: list[TargetGradients]) -> TargetGradients:
    """Put one row a (target, class) in place of one result a class: example-major, as the ids are."""
    values = torch.stack([one.values for one in found], 1).reshape(-1)
    names = {name for one in found for name in one.gradients}
    return TargetGradients(values, {name: interleave([one.gradients[name] for one in found]) for name in names})
