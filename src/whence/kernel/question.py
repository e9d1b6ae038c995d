"""What a path kernel is asked for, worked out from its arguments: examples, states, axes and blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

import torch

from whence._errors import ArgumentError
from whence._numbers import check_budget, even_parts
from whence.audit.chunks import chosen_ids, layer_of
from whence.datasets import Examples
from whence.kernel.answers import Answered, answered, read_examples
from whence.kernel.features import Features
from whence.kernel.moments import Moment, Weigh, ends_of_epochs, nothing, responses, states, steps_of
from whence.kernel.parameters import Layers, parameters_of
from whence.kernel.trained import Trained, as_trained
from whence.runs import Run

Times = str | int | Sequence[int]
"""``"epoch"``: the end of every epoch; a number of states, evenly spaced, the end among them; or after which steps."""

PRECISIONS = {"float32": torch.float32, "mixed": torch.float32, "float64": torch.float64}
AXES = ("time", "layer")
_LEAST = 2**20  # bytes that a slab of written-out gradients may always take


@final
@dataclass(frozen=True)
class Subject:
    """A run whose states are looked at: which of them, with what weights, over which parameters.

    Attributes:
        trained: The model at the end of the run.
        run: The run.
        steps: After which steps the states stand.
        weigh: How products are weighed there.
        names: The parameters.
        dtype: In which to compute.
    """

    trained: Trained
    run: Run
    steps: tuple[int, ...]
    weigh: Weigh
    names: tuple[str, ...]
    dtype: torch.dtype

    def moments(self, first: int = 0) -> Iterator[Moment]:
        """Yield the states from one on, weights in the type and on the device of the computation."""
        device = self.trained.device
        for one in states(self.run, self.steps[first:], self.weigh):
            scales = {
                name: scale.to(device, self.dtype) if isinstance(scale, torch.Tensor) else scale
                for name, scale in one.scales.items()
            }
            yield Moment(one.parameters, one.buffers, scales)

    def features(self, examples: Examples | Answered, ids: Sequence[int]) -> Features:
        """Return the gradients of the loss of some examples."""
        return Features(self.trained, examples, ids, self.run.loss.per_example, self.names, dtype=self.dtype)

    @cached_property
    def parameters(self) -> int:
        """Number of entries of the parameters."""
        live = dict(self.trained.model.named_parameters())
        return sum(live[name].numel() for name in self.names)


@final
@dataclass(frozen=True)
class Work:
    """A path kernel's arguments, read and checked.

    Attributes:
        subject: The states.
        targets, others: The examples; the same object where they are compared among themselves.
        ids, other_ids: Which of them.
        by: Axes that are kept apart, in order.
        layers: By name of the layer, its parameters; one group without a name, where layers are summed.
        factors: A lower type for the factors of the products, or None.
        memory_budget: Bytes.
        facts: What the result says of itself.
    """

    subject: Subject
    targets: Examples | Answered
    others: Examples | Answered
    ids: list[int]
    other_ids: list[int]
    by: tuple[str, ...]
    layers: dict[str, tuple[str, ...]]
    factors: torch.dtype | None
    memory_budget: int
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def symmetric(self) -> bool:
        """Whether targets are compared among themselves."""
        return bool(self.facts["symmetric"])

    @property
    def slab_bytes(self) -> int:
        """Bytes that gradients written out for a product may take."""
        return max(_LEAST, self.memory_budget // 8)

    @property
    def apart(self) -> tuple[int, ...]:
        """Lengths of the axes of ``by``."""
        lengths = {"time": len(self.subject.steps), "layer": len(self.layers)}
        return tuple(lengths[one] for one in self.by)

    @property
    def row_bytes(self) -> int:
        """Bytes of one target's row of the result."""
        return len(self.other_ids) * torch.Size(self.apart).numel() * self.subject.dtype.itemsize

    @cached_property
    def chunks(self) -> tuple[range, ...]:
        """Positions of the targets that are walked together: their gradients and sums take half the budget."""
        entries = 2 * self.subject.parameters + len(self.layers) * len(self.other_ids)
        row = entries * self.subject.dtype.itemsize
        return tuple(even_parts(range(len(self.ids)), self.memory_budget // 2 // row))

    def partners(self, chunk: range) -> range:
        """Return the positions of the others that a chunk is compared with; symmetry gives the rest."""
        return range(chunk.start if self.symmetric else 0, len(self.other_ids))


@final
@dataclass(frozen=True)
class Asked:
    """What a caller asks, as `path_kernel` describes it."""

    times: Times
    by: str | Sequence[str]
    preconditioner: bool
    layers: Layers
    ids: Sequence[int] | None
    other_ids: Sequence[int] | None
    labels: str
    precision: str | None
    memory_budget: int


def prepare(run: Run, targets: Any, others: Any, asked: Asked) -> Work:
    """Read and check what is asked.

    Raises:
        ArgumentError: If it is outside what `path_kernel` lists.
        LabelError: If there is no layer of a name.
        DataError: If the data is of a kind that cannot be read.
    """
    what = (asked.times, asked.preconditioner, asked.layers, asked.precision, asked.memory_budget)
    looked_at = subject(run, *what, precisions=tuple(PRECISIONS))
    precision = asked.precision or str(looked_at.dtype).removeprefix("torch.")
    ids, ours = chosen(looked_at.trained, targets, asked.ids, asked.labels)
    if others is None and asked.other_ids is not None:
        raise ArgumentError("`other_ids` chooses among `others`, and there are none: give `others`, or leave it out.")
    if others is None:
        other_ids, theirs = ids, ours
    else:
        theirs = read_examples(others, "given", of_targets=False)
        other_ids = chosen_ids(asked.other_ids, len(theirs)).tolist()
    by = _as_by(asked.by)
    facts = {"precision": precision, "preconditioner": int(asked.preconditioner), "labels": asked.labels}
    facts["symmetric"] = int(others is None)
    factors = torch.bfloat16 if precision == "mixed" else None
    layers = _by_layer(looked_at.names) if "layer" in by else {"": looked_at.names}
    return Work(looked_at, ours, theirs, ids, other_ids, by, layers, factors, asked.memory_budget, facts)


def subject(
    run: Run,
    times: Times,
    preconditioner: bool,
    layers: Layers,
    precision: str | None,
    memory_budget: int,
    *,
    precisions: tuple[str, ...] = ("float32", "float64"),
) -> Subject:
    """Read and check which states of a run are looked at.

    Raises:
        ArgumentError: If the run has no such states, or an argument is outside what `path_kernel` lists.
        LabelError: If there is no layer of a name.
    """
    if precision not in {None, *precisions}:
        raise ArgumentError(
            f"No precision {precision!r}. Choose {' or '.join(map(repr, precisions))}, or leave it out."
        )
    check_budget(memory_budget)
    if not isinstance(preconditioner, bool):
        raise ArgumentError(
            f"`preconditioner` is True, for the optimizer's, or False, for the identity; got {preconditioner!r}."
        )
    trained = as_trained(run)
    trained.recorded("The path kernel")
    own = next(one.dtype for one in trained.model.parameters() if one.is_floating_point())
    dtype = own if precision is None else PRECISIONS[precision]
    weigh = responses if preconditioner else nothing
    return Subject(trained, run, times_of(run, times), weigh, parameters_of(trained, layers), dtype)


def times_of(run: Run, times: Times) -> tuple[int, ...]:
    """Return after which steps the states stand that `path_kernel`'s ``times`` names.

    Raises:
        ArgumentError: If the run has no such states.
    """
    if isinstance(times, str):
        if times == "epoch":
            return ends_of_epochs(run)
        raise ArgumentError(f"`times` is 'epoch', a number of states, or a list of steps; got {times!r}.")
    return steps_of(run, times, name="times", least=0)


def chosen(
    trained: Trained, data: Any, ids: Sequence[int] | None, labels: str
) -> tuple[list[int], Examples | Answered]:
    """Return ids and the examples they are of, with labels.

    Raises:
        ArgumentError: If there are no labels, or the ids are not some of the examples, each once.
        DataError: If the data is of a kind that cannot be read.
    """
    examples = read_examples(data, labels)
    rows: list[int] = chosen_ids(ids, len(examples)).tolist()
    return rows, examples if labels == "given" else answered(trained, examples, rows)


def _by_layer(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    layers = dict.fromkeys(layer_of(name) for name in names)
    return {layer: tuple(name for name in names if layer_of(name) == layer) for layer in layers}


def _as_by(by: str | Sequence[str]) -> tuple[str, ...]:
    """Return the axes that are kept apart, time first.

    Raises:
        ArgumentError: If a name is unknown or given twice.
    """
    names = (by,) if isinstance(by, str) or not isinstance(by, Sequence) else tuple(by)
    if not set(names) <= set(AXES) or len(set(names)) < len(names):
        raise ArgumentError(f"`by` takes 'time' and 'layer', each at most once; got {by!r}. () sums over both.")
    return tuple(one for one in AXES if one in names)
