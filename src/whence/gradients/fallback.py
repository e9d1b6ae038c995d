"""The rule of any other module: torch.func on that module alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils import _pytree as pytree

from whence._errors import GradientError
from whence.gradients.calls import Call, tensors
from whence.gradients.per_example import Dense, PerExample

Pull = Callable[..., tuple[dict[str, Tensor], list[Tensor]]]


def fallback(call: Call, wanted: frozenset[str]) -> dict[str, PerExample]:
    """Run the module again on every example and pull the output's gradient back to its parameters.

    All examples at once by ``vmap`` where the module allows it. Modules whose operations have no
    batching rule (``nn.LSTM`` and ``nn.GRU`` on some devices) or that branch on values of their input
    are run example by example, which is slow but exact. Either way the outputs must repeat those seen
    in training: a module with random numbers, or one that mixes examples, is refused.
    """
    refuse_coupled(call)
    again = Again(call)
    parameters = {name: call.module.get_parameter(name).detach() for name in sorted(wanted)}
    if again.examples == 0:
        return {name: Dense(p.new_zeros(0, *(p.shape or (1,)))) for name, p in parameters.items()}
    with call.same_autocast(), kernels_for(call.module), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a slow batching rule is no concern of the user's
        gradients, outputs = again.run(parameters)
    call.check_repeats(outputs)
    return {
        name: Dense(gradient.detach().reshape(again.examples, *(parameters[name].shape or (1,))))
        for name, gradient in gradients.items()
    }


@contextmanager
def kernels_for(module: nn.Module) -> Iterator[None]:
    """Keep oneDNN out where an LSTM is run again: torch.func cannot go through the workspace of its kernel."""
    backend: Any = torch.backends.mkldnn
    before = backend.enabled
    backend.enabled = before and not any(isinstance(part, nn.LSTM) for part in module.modules())
    try:
        yield
    finally:
        backend.enabled = before


def refuse_coupled(call: Call) -> None:
    """Refuse modules whose forward pass cannot be repeated one example at a time.

    Raises:
        GradientError: If there is dropout or batch normalisation in training mode inside.
    """
    for name, part in call.module.named_modules(prefix=call.name):
        if not part.training:
            continue
        random = isinstance(part, _DropoutNd) and part.p > 0
        random |= isinstance(part, nn.RNNBase | nn.MultiheadAttention) and part.dropout > 0
        coupled = isinstance(part, _BatchNorm)
        if random or coupled:
            why = "draws random numbers" if random else "mixes the examples of the batch"
            raise GradientError(
                f"Layer {call.name!r} ({type(call.module).__name__}) owns parameters and has no rule, so it is run "
                f"again by example; but {name!r} ({type(part).__name__}) inside it {why} in training mode. Move "
                "the parameters into a module of their own that is called within it, or switch that part to eval()."
            )


@final
class Again:
    """The module's call, taken apart by example."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._leaves, self._tree = pytree.tree_flatten(call.arguments)
        index, gradient = next(iter(call.gradients.items()))
        self.examples = gradient.shape[call.output_axis(index)]
        self._input_axes = [self._axis(leaf, at) for at, leaf in enumerate(self._leaves)]
        self._gradients = dict(sorted(call.gradients.items()))
        self._output_axes = [call.output_axis(index) for index in range(len(call.outputs))]

    def run(self, parameters: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return the gradients of every parameter, examples first, and the outputs.

        Raises:
            GradientError: If the module cannot be run on one example.
        """
        mapped = [leaf for leaf, axis in zip(self._leaves, self._input_axes, strict=True) if axis is not None]
        axes = [axis for axis in self._input_axes if axis is not None]
        gradients = list(self._gradients.values())
        gradient_axes = [self._output_axes[index] for index in self._gradients]

        def pull(mapped: list[Tensor], gradients: list[Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
            return self._pull(parameters, mapped, gradients)

        try:
            batched = vmap(pull, in_dims=(axes, gradient_axes), out_dims=(0, 0))
            found, outputs = batched(mapped, gradients)
        except (RuntimeError, ValueError, TypeError):
            found, outputs = self._one_by_one(pull, mapped, axes, gradients, gradient_axes)
        return found, [out.movedim(0, axis) for out, axis in zip(outputs, self._output_axes, strict=True)]

    def _one_by_one(
        self, pull: Pull, mapped: list[Tensor], axes: list[int], gradients: list[Tensor], gradient_axes: list[int]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        try:
            each = [
                pull(
                    [leaf.select(axis, i) for leaf, axis in zip(mapped, axes, strict=True)],
                    [leaf.select(axis, i) for leaf, axis in zip(gradients, gradient_axes, strict=True)],
                )
                for i in range(self.examples)
            ]
        except (RuntimeError, ValueError, TypeError) as error:
            raise GradientError(
                f"Layer {self._call.name!r} ({type(self._call.module).__name__}) has no rule and cannot be run on one "
                f"example at a time: {error}. Let its tensors have the examples on axis 0."
            ) from error
        found = {name: torch.stack([one[name] for one, _ in each]) for name in each[0][0]}
        return found, [torch.stack(outs) for outs in zip(*(outs for _, outs in each), strict=True)]

    def _pull(
        self, parameters: dict[str, Tensor], mapped: list[Tensor], gradients: list[Tensor]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return one example's gradients and outputs."""

        def outputs(parameters: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            args, kwargs = self._one(mapped)
            state = {**self._call.buffers, **parameters}
            state = {name: tensor.clone() if name in self._call.buffers else tensor for name, tensor in state.items()}
            found = tensors(functional_call(self._call.module, state, args, kwargs, tie_weights=False))
            alone = [self._alone(out, axis) for out, axis in zip(found, self._output_axes, strict=True)]
            return [alone[index] for index in self._gradients], alone

        pulled: tuple[Any, ...] = vjp(outputs, parameters, has_aux=True)
        _, back, alone = pulled
        (found,) = back(gradients)
        return found, alone

    def _one(self, mapped: list[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments for one example, as a batch of one."""
        rest = iter(mapped)
        leaves = [
            leaf if axis is None else next(rest).unsqueeze(axis)
            for leaf, axis in zip(self._leaves, self._input_axes, strict=True)
        ]
        args, kwargs = pytree.tree_unflatten(leaves, self._tree)
        return args, kwargs

    def _alone(self, out: Tensor, axis: int) -> Tensor:
        if out.dim() <= axis or out.shape[axis] != 1:
            raise ValueError(f"an output has shape {tuple(out.shape)} for a batch of one")
        return out.squeeze(axis)

    def _axis(self, leaf: object, at: int) -> int | None:
        """Return where an argument has its examples, or None if all examples share it."""
        axis = 1 if at and isinstance(self._call.module, nn.RNNBase) else self._call.axis
        if not isinstance(leaf, Tensor) or leaf.dim() <= axis:
            return None
        return axis if leaf.shape[axis] == self.examples else None
