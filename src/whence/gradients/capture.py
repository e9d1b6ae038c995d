"""Capture what an ordinary forward and backward pass shows of every layer, for per-example gradients."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from whence._errors import GradientError
from whence.gradients.calls import Call, aliased, detached, mapped, tensors, version
from whence.gradients.check import Totals, check_batch
from whence.gradients.factored import summed
from whence.gradients.fallback import fallback
from whence.gradients.layers import Layer, layers_of, sequence_first
from whence.gradients.per_example import PerExample
from whence.gradients.registry import RECOMPUTING, SHARED_LOOKUP, needs_random_state


@final
class Captured:
    """What was seen of one forward and backward pass; made by `capture`."""

    def __init__(self) -> None:
        self._found: dict[str, PerExample] | None = None
        self._idle = False

    def gradients(self) -> dict[str, PerExample]:
        """Return the per-example gradients, by parameter name; once the block has been left.

        A parameter that got no gradient is absent. The gradients are those of the loss as it was
        written: with a mean over the batch, each example's is divided by the batch size.

        Raises:
            GradientError: If the block is still open, was left by an error, or saw no backward pass.
        """
        if self._found is None:
            raise GradientError(
                "There are no per-example gradients yet: the capture block is open, or was left by an "
                "error. Call gradients() after the `with capture(...)` block."
            )
        if self._idle:
            raise GradientError(
                "The model was called inside the capture block, but no gradient reached any of its layers. "
                "Call loss.backward() inside the block too."
            )
        return self._found


@contextmanager
def capture(
    model: nn.Module, names: Collection[str], *, frozen: bool = False, check: bool = True
) -> Iterator[Captured]:
    """Capture every layer's input and output gradient in one forward and backward pass.

    The hooks live only inside the block. Gradients are formed when it is left, before any
    ``optimizer.step()``; outer products and lookups stay factors until a part is asked for.

    The examples stand along axis 0 of the model's first tensor and of every layer's tensors (axis 1
    in torch's sequence-first modules). A layer that sees another number of rows is refused; one that
    by coincidence sees as many rows that are not the examples cannot be told apart. Every parameter's
    shares are checked to add up to its batch gradient in the row where that is largest.

    Args:
        model: The model. Any call inside the block counts; calls of the same layer add up.
        names: Names of the parameters, as in ``model.named_parameters()``. Of a shared parameter
            any of its names will do. Frozen ones are left out of the result, unless ``frozen``.
        frozen: Give the gradients of parameters that do not require any, too. With all of them frozen, autograd
            carries gradients from layer to layer only and forms none of a weight, which saves a fifth to a quarter
            of a convolutional network's pass; but then there is no batch gradient for the shares to be checked against.
        check: Compare the sum of each parameter's shares with its batch gradient. A caller that captures the same
            model many times may check once.

    Yields:
        Holds the gradients once the block has been left (math.md, section 2).

    Raises:
        GradientError: If a name is unknown or a layer's gradients cannot be told apart by example.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> with capture(model, ["weight"]) as captured:
    ...     model(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    >>> captured.gradients()["weight"].part(0, 1)
    tensor([[1., 2.],
            [3., 4.]])
    """
    captured = Captured()
    with _Watch(model, layers_of(model, names, frozen=frozen), frozen=frozen, check=check) as watch:
        yield captured
    captured._found = watch.form()
    captured._idle = watch.idle


class _Watch:
    """The hooks of one capture, and what they saw."""

    def __init__(self, model: nn.Module, layers: list[Layer], *, frozen: bool, check: bool) -> None:
        self._model = model
        self._frozen, self._check = frozen, check
        self._layers = layers
        self._hooks = ExitStack()
        self._calls: list[tuple[Layer, Call]] = []
        self._states: dict[int, Tensor] = {}
        self._totals = Totals()
        self._batch: int | None = None
        self.idle = False

    def __enter__(self) -> _Watch:
        with ExitStack() as hooks:
            enter = self._model.register_forward_pre_hook(self._see_batch, with_kwargs=True)
            hooks.callback(enter.remove)
            parameters: dict[str, nn.Parameter] = {}
            for layer in self._layers:
                after = layer.module.register_forward_hook(
                    partial(self._see_call, layer), with_kwargs=True, prepend=True
                )
                hooks.callback(after.remove)
                if needs_random_state(layer.module):
                    before = layer.module.register_forward_pre_hook(self._see_random_state)
                    hooks.callback(before.remove)
                for inner, name in layer.parameters.items():
                    parameters[name] = layer.module.get_parameter(inner)
            for name, parameter in parameters.items():
                if self._check and parameter.requires_grad:
                    hooks.callback(on_gradient(parameter, partial(self._totals.see, name)))
            self._hooks = hooks.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._hooks.close()

    def _see_batch(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        axis = int(sequence_first(model))
        sizes = [t.shape[axis] for t in tensors((args, kwargs)) if t.dim() > axis]
        if not sizes:
            return
        if self._batch not in {None, sizes[0]}:
            raise GradientError(
                f"The model was called with {self._batch} and then with {sizes[0]} examples in one capture "
                "block. Open one block per batch."
            )
        self._batch = sizes[0]

    def _see_random_state(self, module: nn.Module, _args: Any) -> None:
        device = next(module.parameters()).device
        state = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
        self._states[id(module)] = state

    def _see_call(self, layer: Layer, _module: nn.Module, args: Any, kwargs: Any, out: Any) -> Any:
        begun = self._frozen and torch.is_grad_enabled() and not any(one.requires_grad for one in tensors(out))
        if begun:
            out = beginning(out)
        found = tensors(out)
        if not any(tensor.requires_grad for tensor in found):
            return None
        arguments = detached((args, kwargs))
        shared = self._shared_lookup(layer, arguments)
        if shared:
            arguments, out = widened(arguments, out, layer.axis, shared)
        if layer.rule in RECOMPUTING:
            out = aliased(out)
        found = tensors(out)
        call = self._call(layer, arguments, found)
        for index, tensor in enumerate(found):
            if tensor.requires_grad:
                self._hooks.callback(on_gradient(tensor, partial(keep, call, index)))
        self._calls.append((layer, call))
        return out

    def _call(self, layer: Layer, arguments: Any, outputs: list[Tensor]) -> Call:
        again = layer.rule in RECOMPUTING
        module = layer.module
        return Call(
            name=layer.name or "(the model)",
            module=module,
            arguments=arguments,
            axis=layer.axis,
            training=module.training,
            buffers={name: buffer.clone() for name, buffer in module.named_buffers(recurse=False)},
            autocast=autocast_type(outputs[0].device.type),
            random_state=self._states.pop(id(module), None),
            outputs=[tensor.detach().clone() for tensor in outputs] if again else [],
            versions=[(tensor, version(tensor)) for tensor in tensors(arguments)],
            parameter_versions=[(p, version(p)) for p in module.parameters()] if again else [],
        )

    def _shared_lookup(self, layer: Layer, arguments: Any) -> int | None:
        """Return the batch size if one lookup serves the whole batch (position embeddings)."""
        if not isinstance(layer.module, SHARED_LOOKUP) or self._batch is None or self._batch < 2:
            return None
        looked_up = tensors(arguments)[0]
        alone = looked_up.dim() > layer.axis and looked_up.shape[layer.axis] == 1
        return self._batch if alone else None

    def form(self) -> dict[str, PerExample]:
        """Form the gradients of every parameter that took part."""
        calls, self._calls = self._calls, []
        active = [(layer, call) for layer, call in calls if call.gradients]
        self.idle = bool(calls) and not active
        terms: dict[str, list[PerExample]] = {}
        with torch.no_grad():
            for layer, call in active:
                call.check_unchanged()
                check_batch(call, self._batch, inputs=layer.rule is not fallback)
                with torch.autocast(call.device.type, enabled=False):
                    for inner, gradient in layer.rule(call, frozenset(layer.parameters)).items():
                        terms.setdefault(layer.parameters[inner], []).append(gradient)
            found = {name: summed(parts) for name, parts in terms.items()}
            self._totals.check(found)
        return found


def autocast_type(device: str) -> torch.dtype | None:
    """Return the precision that autocast computes in at this moment, or None if it is off."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def on_gradient(tensor: Tensor, see: Callable[[Tensor], None]) -> Callable[[], None]:
    """Have ``see`` called with the tensor's gradient; return what ends that."""
    remove: Callable[[], None] = tensor.register_hook(see).remove
    return remove


def keep(call: Call, index: int, gradient: Tensor) -> None:
    """Add a gradient that arrived at an output of a call.

    Raises:
        GradientError: If the gradient is itself being differentiated.
    """
    if torch.is_grad_enabled():
        raise GradientError(
            f"The backward pass through layer {call.name!r} was asked to build a graph (create_graph=True). "
            "Per-example gradients of a loss that contains gradients are not supported."
        )
    before = call.gradients.get(index)
    call.gradients[index] = gradient if before is None else before + gradient


def beginning(out: Any) -> Any:
    """Return a layer's output as one that gradients flow back to; a copy, so that it may be modified in place."""

    def begin(tensor: Tensor) -> Tensor:
        return tensor.detach().requires_grad_().clone() if tensor.is_floating_point() else tensor

    return mapped(begin, out)


def widened(arguments: Any, out: Any, axis: int, batch: int) -> tuple[Any, Any]:
    """Repeat a lookup's indices and result along the example axis, without copying."""

    def widen(tensor: Tensor) -> Tensor:
        return tensor.expand(*tensor.shape[:axis], batch, *tensor.shape[axis + 1 :])

    args, kwargs = arguments
    indices = args[0] if args else next(iter(kwargs.values()))
    return ((widen(indices),), {}), widen(out)
