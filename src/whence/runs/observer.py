"""Hooks on the model and the optimizer that see each step of a loop which does not know of them."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from whence._errors import RecordingError, UnsupportedOptimizerError
from whence.runs.microbatches import Microbatch, Pending, random_before
from whence.runs.modes import ModesReader
from whence.runs.randomness import RandomState
from whence.runs.settings import SettingsReader, parameter_names
from whence.runs.statistics import GradientTable, gradient_table
from whence.runs.step_record import Place, StepRecord, comes_after
from whence.runs.trees import leaves
from whence.runs.versions import BufferWatch, ParameterWatch


@final
class Observer:
    """See the steps of a training loop.

    Args:
        model: The model that the loop calls.
        optimizer: The optimizer whose steps are seen.
        random: The random state that a replay stands at before the next microbatch.
        step: The number of the next step.
        place: Of the last step.
        emit: Called after each step with its record.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        random: RandomState,
        step: int,
        place: Place,
        emit: Callable[[StepRecord], None],
    ) -> None:
        self.random = random
        self._model = model
        self._optimizer = optimizer
        self._emit = emit
        self._step = step
        self._place = place
        self._names = parameter_names(model)
        self._device = next(iter(self._names)).device if self._names else torch.device("cpu")
        self._settings = SettingsReader(optimizer, self._names)
        self._modes = ModesReader(model, self._device)
        self._parameters = ParameterWatch(self._names)
        self._buffers = BufferWatch(model)
        self._offered: Microbatch | None = None
        self._pending = Pending()
        self._draft: StepRecord | None = None
        self._updated: tuple[str, ...] = ()
        self._clock = 0
        self._checked_inputs = False

    def attach(self, stack: ExitStack) -> None:
        """Register the hooks; closing ``stack`` takes them away."""
        for handle in (
            self._model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            self._model.register_forward_hook(self._after_forward),
            self._optimizer.register_step_pre_hook(self._before_step),
            self._optimizer.register_step_post_hook(self._after_step),
            register_optimizer_step_post_hook(self._after_any_step),
        ):
            stack.callback(handle.remove)

    def offer(self, batch: Microbatch) -> None:
        """Take note of a batch that is handed to the loop next."""
        self._offered = batch

    def disturbed(self) -> bool:
        """Return whether something may have changed parameters or buffers since the last step."""
        called = bool(self._pending) and self._buffers.any
        return called or bool(self._parameters.changed()) or self._buffers.changed() is not None

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _before_forward(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        batch = self._offered
        if batch is None or not torch.is_grad_enabled():
            self._buffers.suspect()
            return
        if batch.called:
            raise RecordingError(
                f"The model was called twice with gradients on the batch for step {self._step}. A step is recorded as "
                "one call of the model per batch: put a call that only measures under torch.no_grad(); a loss that "
                "needs several calls (adversarial, contrastive, SAM) cannot be recorded unless the model makes them."
            )
        if not self._checked_inputs:
            _check_inputs(batch.inputs, args, kwargs)
            self._checked_inputs = True
        batch.inputs = None
        batch.modes = self._modes.read()
        batch.before = RandomState.read(self._device)
        batch.buffers = self._buffers.changed()
        batch.copies = self._buffers.copies() if self._pending else None

    def _after_forward(self, _model: nn.Module, _args: tuple[Any, ...], outputs: Any) -> None:
        batch = self._offered
        if batch is None or batch.before is None or batch.called or not torch.is_grad_enabled():
            return
        batch.called = self._tick()
        after = RandomState.read(self._device)
        batch.after = None if after.same(batch.before) else after
        self._buffers.note()
        reshaped = self._buffers.reshaped()
        if reshaped is not None:
            raise RecordingError(
                f"The forward pass for step {self._step} changed shape or type of the buffer {reshaped}. Those of a "
                "recorded run stay: give the buffer its full size before recording begins, and fill it in place."
            )
        self._pending.add(batch)
        output = next((tensor for tensor in _tensors(outputs) if tensor.requires_grad), None)
        if output is not None:
            output.register_hook(lambda _gradient: self._at_backward(batch))

    def _at_backward(self, batch: Microbatch) -> None:
        """Forget microbatches whose gradients were thrown away: gone through before this one, none left but zeros."""
        batch.backward = batch.backward or self._tick()
        earlier = self._pending.gone_through_before(batch)
        if not earlier:
            return
        trained = (p for group in self._optimizer.param_groups for p in group["params"])
        if all(p.grad is None or not bool(p.grad.any()) for p in trained):
            self._pending.drop(earlier)
        else:
            self._pending.confirm(batch)

    def _before_step(
        self, _optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        changed = _run_closure(args, kwargs)
        batches, called_after = self._pending.take()
        if not batches:
            raise RecordingError(self._no_batch())
        self._go_on(batches[-1])
        settings = self._settings.read()
        trained = [p for group in self._optimizer.param_groups for p in group["params"]]
        gradients = {self._names[p]: p.grad for p in trained if p.grad is not None}
        sparse = [name for name, gradient in gradients.items() if gradient.is_sparse]
        if sparse:
            raise UnsupportedOptimizerError(
                f"Step {self._step} has a sparse gradient for {sparse[0]}. Make its layer with sparse=False."
            )
        table = gradient_table(gradients)
        if self._updated != table.names:
            self._updated = table.names
        random, self.random = random_before(batches, self.random)
        buffers = {number: batch.buffers for number, batch in enumerate(batches) if batch.buffers}
        if called_after and self._buffers.any:
            buffers[len(batches)] = self._buffers.copies()
        self._draft = StepRecord(
            step=self._step,
            epoch=batches[-1].epoch,
            position=batches[-1].position,
            batches=tuple(batch.ids for batch in batches),
            epochs=tuple(batch.epoch for batch in batches),
            settings=settings,
            modes=tuple(batch.modes for batch in batches if batch.modes is not None),
            statistics=GradientTable(self._updated, table.numbers),
            random=tuple(random),
            buffers=buffers,
            touched=self._parameters.changed(),
        )
        return changed

    def _after_step(self, _optimizer: Optimizer, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        draft, self._draft = self._draft, None
        if draft is None:
            return
        self._offered = None
        self._step += 1
        self._parameters.note()
        now = RandomState.read(self._device)
        self._emit(draft if now.same(self.random) else replace(draft, after=now))

    def _after_any_step(self, optimizer: Optimizer, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        """Refuse that another optimizer uses the gradients of a recorded batch."""
        if optimizer is self._optimizer or not self._pending.gone_through:
            return
        held = (p for group in optimizer.param_groups for p in group["params"])
        moved = [self._names[p] for p in held if p in self._names and p.grad is not None]
        if moved:
            raise RecordingError(
                f"Another optimizer ({type(optimizer).__name__}) changed {', '.join(moved[:4])} with the gradients of "
                f"the batch for step {self._step}. Only steps of the {type(self._optimizer).__name__} that was given "
                "to record() are recorded. Give record() the one that trains, with parameter groups where settings "
                "differ; where another one takes over, record a second run with that."
            )

    def _go_on(self, batch: Microbatch) -> None:
        """Go on to the place of the next step.

        Raises:
            RecordingError: If it is before that of the last one.
        """
        place = (batch.epoch, batch.position)
        if not comes_after(place, self._place):
            raise RecordingError(
                f"Step {self._step} was made with batch {place[1] - 1} of epoch {place[0]}, after a step with batch "
                f"{self._place[1] - 1} of epoch {self._place[0]}. Each pass over recorder.batches(...) or a watched "
                "loader is an epoch, and a run goes through them one after the other: finish one before the next. To "
                "mix batches, watch one DataLoader whose batch_sampler gives them in turn."
            )
        self._place = place

    def _no_batch(self) -> str:
        if self._offered is None:
            return (
                f"Step {self._step} was made without a batch from the recorder, so its examples are not known. Take "
                "the batches from recorder.batches(...) or recorder.watch(loader), and make one optimizer step per "
                "batch (or per several)."
            )
        return (
            f"Step {self._step} was made, but the model given to record() was not called with gradients on the batch. "
            "Call that very object, model(inputs), not a part or a wrapped copy of it."
        )


def _run_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Run the closure of ``optimizer.step(closure)`` before the gradient is read; hand its value to the step."""
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if closure is None:
        return None
    with torch.enable_grad():
        value = closure()
    return (*args[:1], lambda: value), {key: kept for key, kept in kwargs.items() if key != "closure"}


def _check_inputs(inputs: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Check that the model is called with the very inputs that were handed out."""
    if inputs is None:
        return
    wanted = list(leaves(inputs))
    given = list(leaves(args)) + list(leaves(kwargs))
    found = [any(_equal(tensor, other) for other in given) for tensor in wanted]
    if not all(found):
        called, handed = (
            "; ".join(f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in group) for group in (given, wanted)
        )
        values = f"of the same shape ({called}), but other values" if called == handed else f"({called}; {handed})"
        raise RecordingError(
            f"The model was called with other inputs than the recorder handed out: {values}. Replay cannot know what "
            "the loop did in between: move it into the dataset (random transforms: datasets.Augmented) or into the "
            "model."
        )


def _equal(tensor: Tensor, other: Tensor) -> bool:
    return tensor.shape == other.shape and tensor.dtype == other.dtype and torch.equal(tensor.cpu(), other.cpu())


def _tensors(outputs: Any) -> list[Tensor]:
    return list(leaves(outputs))
