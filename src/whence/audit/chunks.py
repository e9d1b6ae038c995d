"""What an audit has to do, worked out from its arguments: the plan of the walk and the chunks of targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from whence._errors import ArgumentError, AuditError
from whence._numbers import even_parts, is_whole
from whence.audit.groups import Grouping, as_by
from whence.audit.quadrature import rule
from whence.audit.quantities import Numbers, Quantity, as_quantity
from whence.audit.steps import Form
from whence.audit.targets import State, TargetPass
from whence.audit.walk import Plan, Tally
from whence.datasets import Examples, as_examples, call_model
from whence.optimizers import buffer_name
from whence.runs import Run
from whence.runs.settings import decode_settings, optimizer_class
from whence.runs.trees import to_device

_DTYPES = {"float32": torch.float32, "mixed": torch.float32, "float64": torch.float64}
_FACTORS = {"mixed": torch.bfloat16}
ROOT = "(model)"  # the layer of parameters that the model owns itself; no module can be called so
_PASS_ROWS = 1024  # targets that go through the model at once, at most


@runtime_checkable
class Batched(Protocol):
    """What batches of examples are read from: `Examples`, or something in its place."""

    def batch(self, ids: Sequence[int] | Tensor) -> tuple[Any, Any]:
        """Return inputs and labels of some examples."""
        ...


@final
@dataclass(frozen=True)
class Chunk:
    """What the walk of one chunk of targets gave besides its influences.

    Attributes:
        tally: Its sums.
        residuals: What no example did, (targets, sources).
        predictions: Predicted class of each target example at the end of the run, or None.
    """

    tally: Tally
    residuals: Tensor
    predictions: Tensor | None


@final
@dataclass(frozen=True)
class Question:
    """What a caller asks of an audit, as `whence.audit` describes it."""

    quantity: str | Numbers
    classes: Sequence[int] | Literal["all"] | None
    by: str | Sequence[str]
    quadrature: str
    tolerance: float | None
    subsample: int
    precision: str | None
    ids: Sequence[int] | None


@final
@dataclass(frozen=True)
class Work:
    """An audit's arguments, read and checked.

    Attributes:
        run: The recorded run.
        examples: Where the targets come from.
        ids: Which of them are audited.
        quantity: What is audited of each.
        grouping: Axes of the influences.
        plan: How to walk.
        chunks: Which of ``ids`` each chunk walks.
        layers: Names of the layers, in order.
        tolerance: As asked for, for the record.
        precision: The one used.
    """

    run: Run
    examples: Examples
    ids: Tensor
    quantity: Quantity
    grouping: Grouping
    plan: Plan
    chunks: tuple[range, ...]
    layers: tuple[str, ...]
    tolerance: float | None
    precision: str

    @property
    def per_example(self) -> int:
        """Rows a target example: one a class, or one."""
        return len(self.quantity.numbers)

    @property
    def rows(self) -> int:
        """Length of the axis of targets."""
        return len(self.ids) * self.per_example

    @property
    def dtype_name(self) -> str:
        """Of the influences, as NumPy names it."""
        return "float64" if self.plan.form.dtype == torch.float64 else "float32"

    def rows_of(self, number: int) -> slice:
        """Return where a chunk's targets stand along the axis of targets."""
        chunk = self.chunks[number]
        return slice(chunk.start * self.per_example, chunk.stop * self.per_example)

    def targets_of(self, number: int) -> TargetPass:
        """Return what evaluates a chunk's targets."""
        chunk = self.chunks[number]
        inputs, labels = self.examples.batch(self.ids[chunk.start : chunk.stop])
        device = next(self.run.model.parameters()).device
        return TargetPass(
            self.run.model,
            to_device(inputs, device),
            to_device(labels, device),
            self.quantity,
            self.run.parameter_names,
            self.plan.form.dtype,
        )

    def initial_buffers(self) -> State:
        """Return the optimizer buffers with which the run began, by parameter."""
        entry = buffer_name(optimizer_class(self.run.manifest.optimizer))
        state = self.run.training_state_at(0).optimizer
        return {name: one[entry] for name, one in state.items() if entry is not None and entry in one}

    def final_state(self) -> tuple[State, State]:
        """Return parameters and buffers at the end of the run."""
        last = self.run.state_at(self.run.steps)
        return last.parameters, last.buffers

    def final_values(self) -> Float[Tensor, " targets"]:
        """Return every target's quantity at the end of the run, in float64."""
        state = self.final_state()
        return torch.cat([self.targets_of(number).values(*state).cpu() for number in range(len(self.chunks))])


def prepare(run: Run, targets: Any, question: Question, memory_budget: int) -> Work:
    """Read and check what is asked.

    Raises:
        ArgumentError: If the question is outside what `whence.audit` lists.
        AuditError: If the run has no step.
    """
    if run.steps == 0:
        raise AuditError(
            f"The run at {run.path} has no step, so there is nothing to audit. Record some training first."
        )
    examples = as_examples(targets)
    ids = chosen_ids(question.ids, len(examples))
    precision = question.precision or ("float64" if _dtype(run.model) == torch.float64 else "float32")
    quantity = as_quantity(question.quantity, run.loss, question.classes, outputs_on_one(run.model, examples, ids))
    layers = layer_names(run)
    grouping = _grouping(run, as_by(question.by), len(layers))
    plan = Plan(
        rule=rule(question.quadrature),
        tolerance=question.tolerance,
        subsample=question.subsample,
        form=Form(_DTYPES[precision], _FACTORS.get(precision, _DTYPES[precision]), memory_budget // 2),
        layers={name: layers.index(layer_of(name)) for name in run.parameter_names},
    )
    chunks = _chunks(run, grouping, plan, len(ids), len(quantity.numbers), memory_budget)
    return Work(run, examples, ids, quantity, grouping, plan, chunks, layers, question.tolerance, precision)


def layer_of(parameter: str) -> str:
    """Return the name of the layer that owns a parameter (of the model itself, ``ROOT``)."""
    return parameter.rpartition(".")[0] or ROOT


def layer_names(run: Run) -> tuple[str, ...]:
    """Return the layers with trained parameters, in the order of `Run.parameter_names`."""
    return tuple(dict.fromkeys(layer_of(name) for name in run.parameter_names))


def labels_of(examples: Examples) -> Tensor | None:
    """Return the labels of all examples, or None if they are not one number each."""
    _, first = examples.batch([0])
    return examples.labels if isinstance(first, Tensor) and first.ndim == 1 else None


def chosen_ids(ids: Any, count: int, what: str = "target") -> Tensor:
    """Return the ids that a caller chose, all of ``count`` by default.

    Args:
        ids: What was given.
        count: How many there are.
        what: What they are ids of, for the message.

    Raises:
        ArgumentError: If they are not some of those, each once.
    """
    if ids is None:
        return torch.arange(count)
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise ArgumentError(f"`ids` is a sequence of {what} numbers; got {ids!r}. For one {what} give a list of one.")
    ids = list(ids)
    if not all(is_whole(one) for one in ids):
        raise ArgumentError(f"`ids` are whole numbers; got {ids[:10]}.")
    ids = [int(one) for one in ids]
    outside = [one for one in ids if not 0 <= one < count]
    if outside or len(ids) == 0 or len(set(ids)) != len(ids):
        raise ArgumentError(
            f"`ids` must name some of the {count} {what}s (0..{count - 1}), each once; got {list(ids)[:10]}"
            f"{' ...' if len(ids) > 10 else ''}."
        )
    return torch.tensor(ids)


def _dtype(model: nn.Module) -> torch.dtype:
    return next(one.dtype for one in model.parameters() if one.is_floating_point())


def outputs_on_one(model: nn.Module, examples: Batched, ids: Tensor) -> Any:
    """Return the model's outputs on one target, to see their shape."""
    inputs, _ = examples.batch(ids[:1])
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            own = next(model.parameters(), None)
            return call_model(model, inputs if own is None else to_device(inputs, own.device))
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ArgumentError(
            f"The model cannot be called with these inputs ({_shapes(inputs)}): {error}. Give inputs of the "
            "shape and type of the training data."
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training


def _shapes(inputs: Any) -> str:
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    return ", ".join(f"{leaf.dtype} of shape {tuple(leaf.shape)}" for leaf in tensors)


def _grouping(run: Run, by: tuple[str, ...], layers: int) -> Grouping:
    train, labels, count = len(run.examples), None, 0
    if "label" in by:
        known = labels_of(run.examples)
        if known is None or known.is_floating_point():
            raise ArgumentError(
                "`by` holds 'label', but the training labels are not one whole number per example. Leave 'label' out, "
                "and group the result yourself."
            )
        kinds, labels = torch.unique(known, return_inverse=True)
        count = len(kinds)
    return Grouping(by, train, labels, count, layers, run.epochs, run.steps)


def _chunks(
    run: Run, grouping: Grouping, plan: Plan, examples: int, per_example: int, memory_budget: int
) -> tuple[range, ...]:
    """Cut the targets so that adjoints and one slab of influences take half the budget; the rest is for the replay."""
    live = dict(run.model.named_parameters())
    decays = any(group.options.get("weight_decay") for group in decode_settings(run.manifest.groups))
    entries = sum(live[name].numel() for name in run.parameter_names) * (2 if decays else 1)
    row = (entries + grouping.slab_entries) * torch.empty((), dtype=plan.form.dtype).itemsize
    return tuple(even_parts(range(examples), min(_PASS_ROWS, memory_budget // 2 // (row * per_example))))
