"""Linear layers in a second backward pass: products with their weights for all targets at once, added in place.

A layer z = W x + b gets the gradient e = ∂L/∂z at each position, hands g = Wᵀe on to its inputs, and has the gradients
∂L/∂W = Σ e ⊗ x and ∂L/∂b = Σ e. For sensitivities U and u to these, ⟨U, ∂L/∂W⟩ + ⟨u, ∂L/∂b⟩ = Σ e · (U x + u): what
reaches e is U x + u, and what reaches x is Uᵀe. When the second pass has brought the sensitivities to all activations,
ż to z and ġ to g, those to the weights are Σ ż ⊗ x + e ⊗ ġ, and Σ ż to the bias (Pearlmutter 1994). Autograd is thus
left with the activations. Nothing of the size of the weights is formed for a target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeGuard, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from whence.gradients import can_be_noticed, in_transform, noticing_gradients
from whence.optimizers import Scaled

_PIECE = 4 * 2**20  # bytes; small beside a processor's shared cache


class DifferentiatesError(Exception):
    """A model forms gradients in its forward pass."""


@final
@dataclass
class _Call:
    """One call of a layer.

    Attributes:
        weight, bias: Names of its parameters; the bias None if it has none that is trained.
        inputs: x.
        version: Of the inputs when they were used.
        tap: Zeros that were added to z: what has a gradient with respect to them has it with respect to z.
        gradient: e, None before the first backward pass, or if the loss does not depend on z (a statistic may).
        handed: The gradient of the inputs, None if they need none: g and what their other uses hand on, which has the
            same sensitivity as g.
        hook: What keeps g in the first backward pass, and would keep something else in the second.
    """

    weight: str
    bias: str | None
    inputs: Tensor
    version: int
    tap: Tensor
    gradient: Tensor | None = None
    handed: Tensor | None = None
    hook: RemovableHandle | None = None

    def hand(self, gradient: Tensor) -> None:
        """Keep what is handed on to the inputs."""
        self.handed = gradient

    def unhook(self) -> None:
        """Keep nothing more."""
        if self.hook is not None:
            self.hook.remove()

    def read(self) -> Float[Tensor, "positions width"]:
        """Return the inputs.

        Raises:
            RuntimeError: If they were written over since.
        """
        if self.inputs._version != self.version:
            raise RuntimeError(f"the inputs of the layer with {self.weight!r} were changed in place after its use.")
        return _flat(self.inputs.detach())


@final
class LinearLayers:
    """Takes the weights of a model's linear layers out of autograd's graph, and does their part of a second pass.

    A layer is left to autograd if it is of another class than ``nn.Linear``, if its weight is not trained or is made
    from others (parametrised, exchanged by ``functional_call``), and where it is called without gradients, without
    examples, or inside of a ``torch.func`` transform or forward-mode differentiation. So is every other use of a
    weight. All layers are left to autograd once the model was seen to differentiate on its way.

    Args:
        model: The model; the forward functions of its linear layers are replaced for good.
        names: The parameters that matter.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        known = dict(model.named_parameters())
        self._names = {id(known[name]): name for name in names}
        self._calls: list[_Call] = []
        self._watching = False
        self._active = can_be_noticed()
        for module in model.modules():
            if type(module) is nn.Linear and "forward" not in vars(module):
                module.forward = self._in_place_of(module)  # type: ignore[method-assign]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Enter around the forward pass.

        Raises:
            DifferentiatesError: If gradients were formed inside, of which the weights may be a part: the pass is to be
                made again, for which the layers are left to autograd.
        """
        self.forget()
        if not self._active:
            yield
            return
        self._watching = True
        try:
            with noticing_gradients(self.give_up):
                yield
        except Exception as error:
            if self._active:
                raise
            raise DifferentiatesError from error  # it may have failed for want of the weights
        finally:
            self._watching = False
        if not self._active:
            raise DifferentiatesError

    def give_up(self) -> None:
        """Leave all layers to autograd from now on."""
        self._active = False

    def forget(self) -> None:
        """Let go of the graph of the last forward pass."""
        for call in self._calls:
            call.unhook()
        self._calls.clear()

    @property
    def taps(self) -> list[Tensor]:
        """What the loss is to be differentiated by, in place of the weights; see `gradients`."""
        return [call.tap for call in self._calls]

    @property
    def held(self) -> int:
        """Bytes of the inputs and outputs, which autograd does not count."""
        return sum(one.numel() * one.itemsize for call in self._calls for one in (call.inputs, call.tap))

    def gradients(self, found: Sequence[Tensor | None]) -> list[Tensor]:
        """Take the gradients with respect to `taps`, and return those by which a second pass may go wrong.

        One without a graph that is 0 everywhere, behind a sign for instance, is none of them.
        """
        for call, gradient in zip(self._calls, found, strict=True):
            call.gradient = gradient
            call.unhook()
        return [one for one in found if one is not None and (one.requires_grad or bool(one.any()))]

    def written(self) -> dict[str, Tensor]:
        """Return the layers' part of the gradients, by parameter."""
        found: dict[str, Tensor] = {}
        for call in self._calls:
            if call.gradient is not None:
                e = _flat(call.gradient.detach())
                found[call.weight] = found.get(call.weight, 0.0) + e.T @ call.read()
                if call.bias is not None:
                    found[call.bias] = found.get(call.bias, 0.0) + e.sum(0)
        return found

    def outputs(self, directions: Mapping[str, Scaled]) -> list[Tensor]:
        """Return where the second pass begins: e and x of the layers with directions, where they have a graph."""
        found = []
        for call in self._directed(directions):
            if _has_graph(call.gradient):
                found.append(call.gradient)
            if _reaches_inputs(call, directions):
                found.append(call.inputs)
        return found

    def sensitivities(self, directions: Mapping[str, Scaled]) -> list[Float[Tensor, "targets ..."]]:
        """Return the sensitivities to `outputs`: U x + u to e, and Uᵀe to x."""
        found = []
        for call in self._directed(directions):
            if _has_graph(call.gradient):
                found.append(_onto_gradient(call, directions))
            if _reaches_inputs(call, directions):
                found.append(_onto_inputs(call, directions))
        return found

    def sources(self) -> list[Tensor]:
        """Return where the second pass ends: z of each call, and g where it has a graph."""
        return [one for call in self._calls for one in (call.tap, call.handed) if _has_graph(one)]

    def add(
        self,
        found: Sequence[Float[Tensor, "targets ..."] | None],
        onto: Mapping[str, Float[Tensor, "targets ..."]],
    ) -> None:
        """Add Σ ż ⊗ x + e ⊗ ġ to what is owed to the weights, and Σ ż to the biases, in place.

        Args:
            found: Sensitivities to `sources`; None stands for zero.
            onto: By parameter; contiguous.

        Raises:
            RuntimeError: If the inputs of a layer were written over since.
        """
        ahead = iter(found)
        for call in self._calls:
            weight = onto[call.weight]
            to_outputs = next(ahead)
            if to_outputs is not None:
                inputs = call.read()
                each = to_outputs.reshape(len(to_outputs), len(inputs), -1)
                rows = each.transpose(0, 1).reshape(len(inputs), -1)  # (positions, targets x outputs)
                weight.view(-1, weight.shape[2]).addmm_(rows.T, inputs)
                if call.bias is not None:
                    onto[call.bias].add_(each.sum(1))
            to_handed = next(ahead) if _has_graph(call.handed) else None
            if to_handed is not None and call.gradient is not None:
                e = _flat(call.gradient.detach())
                weight.baddbmm_(e.T.expand(len(to_handed), -1, -1), to_handed.reshape(len(to_handed), len(e), -1))

    def _directed(self, directions: Mapping[str, Scaled]) -> list[_Call]:
        formed = [call for call in self._calls if call.gradient is not None]
        return [call for call in formed if call.weight in directions or call.bias in directions]

    def _hidden(self, inputs: Tensor) -> bool:
        """Say whether a transform that must see the weights is going on, or was when checkpointing computes again."""
        return in_transform() if self._watching else bool(torch._C._functorch.is_functorch_wrapped_tensor(inputs))

    def _in_place_of(self, module: nn.Linear) -> Callable[..., Tensor]:
        def forward(input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
            return self._apply(module, input)

        return forward

    def _apply(self, module: nn.Linear, inputs: Tensor) -> Tensor:
        weight = module.weight
        bias: Tensor | None = module.bias
        name, bias_name = self._names.get(id(weight)), self._names.get(id(bias))
        made = bias is not None and bias_name is None and bias.requires_grad
        plain = weight.ndim == 2 and (bias is None or bias.shape == weight.shape[:1]) and inputs.numel() > 0
        if not self._active or name is None or made or not plain or not torch.is_grad_enabled() or self._hidden(inputs):
            return F.linear(inputs, weight, bias)
        outputs = F.linear(inputs, weight.detach(), None if bias is None else bias.detach())
        tap = torch.zeros_like(outputs, requires_grad=True)
        if self._watching:  # and not computing once more, as checkpointing does
            call = _Call(name, bias_name, inputs, inputs._version, tap)
            call.hook = inputs.register_hook(call.hand) if inputs.requires_grad else None
            self._calls.append(call)
        return outputs + tap


def _onto_gradient(call: _Call, directions: Mapping[str, Scaled]) -> Tensor:
    """Return U x + u, (targets, *output)."""
    inputs = call.read()
    found: Tensor | None = None
    if call.weight in directions:
        found = _seen_through(directions[call.weight], inputs)
    if call.bias is not None and call.bias in directions:
        shift = directions[call.bias].value()[:, None]
        found = shift.expand(-1, len(inputs), -1) if found is None else found + shift
    assert found is not None  # of a call with directions
    return found.reshape(len(found), *call.tap.shape)


def _seen_through(weights: Scaled, inputs: Float[Tensor, "positions width"]) -> Float[Tensor, "targets positions rows"]:
    """Return U x for each target's U, contiguous, by products of pieces that stay in the processor's cache."""
    u, inputs = weights.rows, inputs * weights.factor
    if len(u) == 1:
        return F.linear(inputs, u[0])[None]
    flat, columns = u.reshape(-1, u.shape[2]), inputs.T.contiguous()
    found = flat.new_empty(len(flat), len(inputs))
    step = max(1, _PIECE // max(1, u.shape[2] * u.itemsize))
    for rows, out in zip(flat.split(step), found.split(step), strict=True):
        torch.mm(rows, columns, out=out)
    return found.view(len(u), -1, len(inputs)).transpose(1, 2).contiguous()  # for what follows, entry by entry


def _onto_inputs(call: _Call, directions: Mapping[str, Scaled]) -> Tensor:
    """Return Uᵀe, (targets, *input)."""
    u = directions[call.weight]
    assert call.gradient is not None  # of a call with directions
    e = _flat(call.gradient.detach()) * u.factor
    return (e @ u.rows).reshape(len(u.rows), *call.inputs.shape)


def _reaches_inputs(call: _Call, directions: Mapping[str, Scaled]) -> bool:
    return call.weight in directions and call.inputs.requires_grad


def _has_graph(tensor: Tensor | None) -> TypeGuard[Tensor]:
    return tensor is not None and tensor.requires_grad


def _flat(activation: Tensor) -> Float[Tensor, "positions width"]:
    return activation.reshape(-1, activation.shape[-1])
