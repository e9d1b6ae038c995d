"""Second-order passes: what a change of the parameters does to a batch's gradient, for many directions at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import GradientError
from whence._numbers import even_parts
from whence.counterfactual.averages import Averages
from whence.counterfactual.formed import Formed
from whence.counterfactual.held_out import HeldOut
from whence.counterfactual.linear_layers import DifferentiatesError, LinearLayers
from whence.counterfactual.steps import Frozen
from whence.datasets import call_model
from whence.gradients import differentiable_once_only, pulled_back, twice_differentiable
from whence.optimizers import Scaled
from whence.runs import (
    Modes,
    Run,
    cast_floating,
    cast_model,
    check_shared,
    kept_randomness,
    model_copy,
    share_of,
    to_device,
)

_NO_HOOKS = "saved tensor hooks"  # in what torch.func says of them


@final
class Curvature:
    """Differentiates the gradients of recorded batches on a private copy of the model.

    Args:
        run: The run.
        dtype: In which to compute.
        room: Bytes that the directions taken at once may need for activations.
        held_out: Outputs from trainings without each example, if removals are meant; see `HeldOut`.

    Raises:
        GradientError: If a layer gives back what is not a gradient.
    """

    def __init__(self, run: Run, dtype: torch.dtype, room: int, held_out: HeldOut | None = None) -> None:
        self._run, self._dtype, self._room, self._held_out = run, dtype, room, held_out
        self._model = cast_model(model_copy(run.model), dtype)
        self._parameters = dict(self._model.named_parameters())
        self._buffers = dict(self._model.named_buffers())
        self._averages = Averages(self._model)
        self._linear = LinearLayers(self._model, run.parameter_names)
        self._device = next(iter(self._parameters.values())).device
        for name, module in self._model.named_modules():
            if isinstance(module, nn.Embedding) and module.scale_grad_by_freq:
                raise GradientError(
                    f"The layer {name!r} is an Embedding with scale_grad_by_freq: what it gives back is not the "
                    "gradient of a loss, and has no derivative here. Train it without."
                )
        self._trainable: set[str] = set()
        self._formed = Formed(dtype)
        self._looked_through = False
        self._kept: int | None = None
        self._modes: Modes | None = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Enter around `pull`: sets the kernels that can be differentiated twice, keeps torch's random state."""
        with kept_randomness(self._device), twice_differentiable(self._model):
            yield

    def pull(
        self,
        step: Frozen,
        number: int,
        directions: Mapping[str, Scaled],
        onto: Mapping[str, Float[Tensor, "targets ..."]],
        averages: dict[str, Float[Tensor, "targets _"]],
    ) -> Float[Tensor, "targets examples"]:
        """Pull sensitivities to one microbatch's gradient back to the parameters and to the weights of its examples.

        With the batch's loss L(θ, w) = Σ_m w_m c ℓ_m(θ) at w = 1 and direction u: ∇_θ⟨u, ∇_θ L⟩, the Hessian-vector
        product, is added to ``onto`` in place, and ∇_w⟨u, ∇_θ L⟩, every example's c u·∇ℓ_m, is returned; both from one
        second backward pass. So is what the parameters did to running averages in the forward pass.

        Args:
            step: The step.
            number: Which of its microbatches; they come from the last to the first.
            directions: Sensitivities u to the microbatch's gradient, by parameter, (targets, *shape).
            onto: Sensitivities to the parameters, by parameter, contiguous. They may be what the directions are
                multiples of, if there is one microbatch.
            averages: Sensitivities to running averages after the forward pass, by buffer; replaced by those before it.

        Raises:
            GradientError: If an operation of the model has no second derivative.
            ReplayError: If the gradient formed here, of all microbatches, is not the one of the step.
            UnsupportedLossError: If the loss of the batch is no multiple of the sum of its examples' losses.
        """
        try:
            return self._pull(step, number, directions, onto, averages)
        finally:
            self._linear.forget()

    def _pull(
        self,
        step: Frozen,
        number: int,
        directions: Mapping[str, Scaled],
        onto: Mapping[str, Tensor],
        averages: dict[str, Tensor],
    ) -> Tensor:
        self._place(step, number)
        try:
            loss, weights = self._forward(step, number)
        except DifferentiatesError:  # once, and from then on all is autograd's
            self._place(step, number)
            loss, weights = self._forward(step, number)
        directions = {name: one for name, one in directions.items() if name in self._trainable}
        used = self._first(loss, list(directions))
        if step.raw:
            by_layer = self._linear.written()
            terms = {name: (used.get(name), by_layer.get(name)) for name in directions}
            self._formed.add(
                step, number, {name: [one for one in two if one is not None] for name, two in terms.items()}
            )
        pairs = [(gradient, directions[name]) for name, gradient in used.items()]
        pairs += [(statistic, Scaled(one)) for statistic, one in self._averages.pull(averages)]
        return self._second(pairs, directions, weights, onto)

    def _first(self, loss: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the loss's gradients, as functions, but for the linear layers' part of them."""
        wanted, taps = [self._parameters[name] for name in names], self._linear.taps
        try:
            found: Sequence[Tensor | None] = torch.autograd.grad(
                loss, [*wanted, *taps], create_graph=True, allow_unused=True
            )
            by_layer = self._linear.gradients(found[len(names) :])
        except RuntimeError as error:
            raise self._explained(error) from error
        used = {name: gradient for name, gradient in zip(names, found, strict=False) if gradient is not None}
        if used or by_layer:
            self._refuse_once_only([*used.values(), *by_layer])
        return used

    def _second(
        self,
        pairs: Sequence[tuple[Tensor, Scaled]],
        directions: Mapping[str, Scaled],
        weights: Tensor,
        onto: Mapping[str, Tensor],
    ) -> Tensor:
        """Do the second backward pass from outputs with sensitivities, as many targets at once as there is room for.

        Args:
            pairs: Outputs, and the sensitivities to them.
            directions: Sensitivities to the gradients of parameters; what linear layers make of these comes on top.
            weights: Of the examples.
            onto: Sensitivities to the parameters.
        """
        targets = len(next(iter(onto.values())))
        outputs = [one for one, _ in pairs] + self._linear.outputs(directions)
        if not outputs:
            return weights.new_zeros(targets, len(weights))
        names = self._run.parameter_names
        sources = [weights, *(self._parameters[name] for name in names), *self._linear.sources()]
        by_weight = []
        for part in even_parts(range(targets), self._at_once()):
            rows = slice(part.start, part.stop)
            here = {name: Scaled(one.rows[rows], one.factor) for name, one in directions.items()}
            along = [Scaled(one.rows[rows], one.factor).value() for _, one in pairs]
            changed = {name: one[rows] for name, one in onto.items()}
            try:
                found = pulled_back(outputs, sources, along + self._linear.sensitivities(here))
                self._linear.add(found[1 + len(names) :], changed)
            except RuntimeError as error:
                raise self._explained(error) from error
            for name, change in zip(names, found[1:], strict=False):
                if change is not None:
                    changed[name] += change
            by_weight.append(weights.new_zeros(len(part), len(weights)) if found[0] is None else found[0])
        return torch.cat(by_weight)

    def _forward(self, step: Frozen, number: int) -> tuple[Tensor, Tensor]:
        """Return the loss as a function of the examples' weights, and those."""
        record = step.record
        batch = self._run.examples.batch(record.batches[number], epoch=record.epochs[number])
        inputs, labels = to_device(batch, self._device)
        before = {name: one.clone() for name, one in self._buffers.items() if one.is_floating_point()}
        with torch.enable_grad(), self._counted(), self._averages.watching():
            with self._linear.watching():
                outputs = call_model(self._model, cast_floating(inputs, self._dtype))
                labels = cast_floating(labels, self._dtype)
                whole = step.loss(outputs, labels)
                each = self._run.loss.per_example(outputs, labels)
            weights = torch.ones(len(each), dtype=each.dtype, device=each.device, requires_grad=True)
            check_shared(self._run.loss, whole, each, outputs)
            share = share_of(whole, each, outputs, len(record.batches))
            weighted = whole + (share * (weights - 1) * each).sum()  # the share alone may be a guess
            if self._held_out is not None:
                try:
                    held = self._held_out.linear(step.index, number, self._run.loss, outputs, labels)
                except RuntimeError as error:
                    raise self._explained(error) from error
                # of the loss itself no more than its graph is left, in which what cannot be differentiated twice shows
                weighted = weighted + (share * (weights - 1) * (held - each)).sum()
        explained = self._averages.explain(before, self._buffers)
        moved = [
            name for name, one in before.items() if name not in explained and not torch.equal(one, self._buffers[name])
        ]
        if moved:
            raise GradientError(
                f"The forward pass of step {step.index} changed the buffers {', '.join(moved[:4])}. What the "
                "parameters do to these, and these to the end, is only walked back for the running averages of "
                "torch's BatchNorm layers and of subclasses that leave forward() as it is. Use such a layer, or one "
                "without a state."
            )
        return weighted, weights

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count, in the first pass, the bytes that autograd keeps: about what a direction needs.

        Raises:
            DifferentiatesError: If the model takes gradients by ``torch.func``, which forbids this: the pass is to be
                made again, and directions are taken one at a time.
            RuntimeError: As it came from the model, if it is another.
        """
        if self._kept is not None:
            yield
            return
        kept = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel() * tensor.itemsize
            return tensor

        try:
            with torch.autograd.graph.saved_tensors_hooks(count, lambda one: one):
                yield
        except RuntimeError as error:
            if _NO_HOOKS not in str(error):
                raise
            self._linear.give_up()
            self._kept = self._room
            raise DifferentiatesError from error
        self._kept = kept + self._linear.held

    def _at_once(self) -> int:
        """Return how many directions fit into the room at once."""
        return max(1, self._room // max(1, self._kept or 1))

    def _place(self, step: Frozen, number: int) -> None:
        """Bring the private model to where the training stood before a microbatch."""
        record, seen = step.record, step.passes[number]
        with torch.no_grad():
            torch._foreach_copy_([self._parameters[name] for name in step.parameters], list(step.parameters.values()))
            for name, value in seen.buffers.items():
                self._buffers[name].copy_(value)
        if record.modes[number] is not self._modes:  # most steps share one
            self._modes = record.modes[number]
            self._modes.apply(list(self._model.modules()), list(self._model.parameters()))
            self._trainable = {name for name, one in self._parameters.items() if one.requires_grad}
            for name in self._run.parameter_names:  # one that was frozen then shapes the others' gradients all the same
                self._parameters[name].requires_grad_(True)
        seen.random.restore(self._device)

    def _refuse_once_only(self, gradients: Sequence[Tensor]) -> None:
        """Look through the graph of the first gradients for what torch would pass over in silence.

        Raises:
            GradientError: If there is such a thing.
        """
        if not self._looked_through:
            self._looked_through = True
            wrong = differentiable_once_only(gradients)
            if wrong is not None:
                raise self._explained(RuntimeError(wrong))

    def _explained(self, error: RuntimeError) -> GradientError:
        text = str(error).splitlines()[0]
        return GradientError(
            f"Second derivatives of {type(self._model).__name__} cannot be formed: {text} A counterfactual needs them "
            "of every operation between parameters and loss; put one that has them in its place."
        )
