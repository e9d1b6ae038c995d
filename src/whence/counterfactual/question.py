"""What was asked of a counterfactual: targets, quantity, means; so that it can be asked again of another training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final
from weakref import WeakKeyDictionary

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from whence._errors import ArgumentError, GradientError
from whence._numbers import even_parts, is_several
from whence.audit.chunks import chosen_ids, labels_of, outputs_on_one
from whence.audit.quantities import Numbers, Quantity, as_quantity, evaluate
from whence.audit.targets import TargetGradients, TargetPass, refuse_infinite
from whence.counterfactual.averages import averaging, end_gradients
from whence.datasets import Examples, as_examples, call_model
from whence.runs import (
    ModelState,
    Run,
    cast_floating,
    cast_model,
    check_run,
    kept_randomness,
    leaves,
    model_copy,
    to_device,
)

Over = Literal["all", "label"] | Sequence[Any] | None
_PASS_ROWS = 512  # targets that go through the model at once, at most


@final
@dataclass(frozen=True, eq=False)
class Question:
    """What is asked.

    Attributes:
        examples: Where the targets come from.
        rows: Ids of the targets asked about.
        quantity: What is asked of each.
        names: Of the results, one a target or one a group of them.
        members: The result that each target belongs to, (targets,).
    """

    examples: Examples
    rows: Tensor
    quantity: Quantity
    names: NDArray[Any]
    members: NDArray[np.int64]

    @classmethod
    def of(cls, run: Run, targets: Any, quantity: str | Numbers, over: Over, ids: Sequence[int] | None) -> Question:
        """Read and check what is asked.

        Raises:
            ArgumentError: If an argument is outside what `whence.counterfactual` lists.
        """
        examples = as_examples(targets)
        rows = chosen_ids(ids, len(examples))
        kind = as_quantity(quantity, run.loss, None, outputs_on_one(run.model, examples, rows))
        names, members = _groups(over, examples, rows)
        return cls(examples, rows, kind, names, members)

    def gradients(self, run: Run, dtype: torch.dtype) -> dict[str, Float[Tensor, "results *shape"]]:
        """Return the gradient of each result's quantity at the end of the run, by parameter and running average.

        Raises:
            ArgumentError: If the quantity of a target is no number there, its gradient has entries that are none, or it
                hangs on another target.
        """
        end = run.state_at(run.steps)
        device = next(run.model.parameters()).device
        own = [f"{name}.{kind}" for name in averaging(run.model) for kind in ("weight", "bias")]
        names = tuple(dict.fromkeys((*run.parameter_names, *(name for name in own if name in end.parameters))))
        shapes = {name: end.parameters[name].shape for name in names}
        found = {
            name: torch.zeros(len(self.names), *shape, dtype=dtype, device=device) for name, shape in shapes.items()
        }
        for part, targets in self._passes(run, dtype, names):
            members, share = self._members(part, dtype, device)
            here = _gradients(targets, end)
            refuse_infinite(self.quantity.name, here.values)
            if part.start == 0:
                self._refuse_mixing(run, dtype, self.rows[: part.stop])
            finite = torch.ones(len(part), dtype=torch.bool, device=device)
            for name, gradient in here.gradients.items():
                rows = gradient.part(0, shapes[name][0] if shapes[name] else 1).reshape(len(part), *shapes[name])
                finite &= rows.isfinite().reshape(len(part), -1).all(1)
                found[name].index_add_(0, members, rows * share.reshape(-1, *(1 for _ in shapes[name])))
            self._refuse_steep(self.rows[part.start : part.stop][~finite.cpu()])
        averages = end_gradients(run.model, found, end)
        return {name: found[name] for name in run.parameter_names} | averages

    def _refuse_mixing(self, run: Run, dtype: torch.dtype, rows: Tensor) -> None:
        """Refuse a quantity of which the first or the last target's number hangs on the outputs for another target.

        Raises:
            ArgumentError: If it does.
        """
        device = next(run.model.parameters()).device
        inputs, labels = to_device(self.examples.batch(rows), device)
        model = cast_model(model_copy(run.model), dtype).eval()
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        with kept_randomness(device), torch.enable_grad():
            outputs = call_model(model, cast_floating(inputs, dtype))
            values = evaluate(self.quantity.numbers[0], outputs, labels, len(rows))
        kept = [one for one in leaves(outputs) if one.requires_grad and one.dim() and len(one) == len(rows)]
        for place in {0, len(rows) - 1} if kept and values.requires_grad else ():
            for found in torch.autograd.grad(values[place], kept, retain_graph=True, materialize_grads=True):
                sizes = found.abs().reshape(len(rows), -1).sum(1)
                largest, sizes[place] = float(sizes.max()), 0.0
                if float(sizes.max()) > torch.finfo(dtype).eps * largest:
                    raise ArgumentError(
                        f"The {self.quantity.name} of target {int(rows[place])} hangs on the outputs for target "
                        f"{int(rows[int(sizes.argmax())])}, too: what it is depends on which targets are asked about "
                        "together. Give a callable in which each target's number comes from its own row alone."
                    )

    def _refuse_steep(self, rows: Tensor) -> None:
        """Refuse targets at which the quantity has no derivative.

        Raises:
            ArgumentError: If there are any.
        """
        if len(rows):
            raise ArgumentError(
                f"The gradient of the {self.quantity.name} is not finite for {len(rows)} targets, such as "
                f"{rows[:4].tolist()}: it has no derivative there, as a square root has none at 0. Leave them out with "
                "`ids`, or ask for a quantity that has one, such as the square."
            )

    def values(self, run: Run, state: ModelState, dtype: torch.dtype) -> Float[Tensor, " results"]:
        """Return each result's quantity at a state of the model, in float64."""
        found = torch.zeros(len(self.names), dtype=torch.float64)
        for part, targets in self._passes(run, dtype, run.parameter_names):
            members, share = self._members(part, torch.float64, torch.device("cpu"))
            found.index_add_(0, members, targets.values(state.parameters, state.buffers).cpu() * share)
        return found

    def _passes(self, run: Run, dtype: torch.dtype, names: tuple[str, ...]) -> Any:
        device = next(run.model.parameters()).device
        for part in even_parts(range(len(self.rows)), _PASS_ROWS):
            inputs, labels = to_device(self.examples.batch(self.rows[part.start : part.stop]), device)
            yield part, TargetPass(run.model, inputs, labels, self.quantity, names, dtype)

    def _members(self, part: range, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return which result each target of a part belongs to, and its share of it."""
        members = self.members[part.start : part.stop]
        share = 1.0 / np.bincount(self.members, minlength=len(self.names))[members]
        return torch.from_numpy(members).to(device), torch.from_numpy(share).to(device, dtype)


def _gradients(targets: TargetPass, end: ModelState) -> TargetGradients:
    """Return the targets' gradients; target by target where a layer has no rule for all at once."""
    try:
        return targets.gradients(end.parameters, end.buffers)
    except GradientError:
        return targets.one_by_one(end.parameters, end.buffers)


def _groups(over: Over, examples: Examples, rows: Tensor) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the name of each result, and the number of the result that each target belongs to."""
    if over is None:
        return rows.numpy(), np.arange(len(rows))
    if isinstance(over, str) and over == "all":
        return np.array(["all"], dtype=object), np.zeros(len(rows), dtype=np.int64)
    if isinstance(over, str) and over == "label":
        labels = labels_of(examples)
        if labels is None or labels.is_floating_point():
            raise ArgumentError(
                "`over` is 'label', but the targets' labels are not one whole number each. Give one name per target."
            )
        names, members = np.unique(labels[rows].cpu().numpy(), return_inverse=True)
        return names, members.reshape(-1)
    if not is_several(over) or len(over) != len(rows):
        given = f"{len(over)} names" if is_several(over) else repr(over)
        raise ArgumentError(
            f"`over` is None, 'all', 'label', or one name for each of the {len(rows)} targets; got {given}."
        )
    names, members = np.unique(np.array([str(one) for one in over]), return_inverse=True)
    return names.astype(object), members.reshape(-1)


def _same_targets(examples: Examples, effects: xr.DataArray) -> None:
    if examples.fingerprint != effects.attrs["targets_fingerprint"]:
        raise ArgumentError("The targets given are not those of these effects: their fingerprint differs.")


_ASKED: WeakKeyDictionary[Run, dict[str, Question]] = WeakKeyDictionary()


def remember(run: Run, key: str, question: Question) -> None:
    """Keep a question for as long as its run is there."""
    _ASKED.setdefault(run, {})[key] = question


def in_order(effects: Any) -> xr.DataArray:
    """Return effects with targets first, and with every training example in the order of its id.

    Raises:
        ArgumentError: If training examples are missing, or these are no effects.
    """
    known = isinstance(effects, xr.DataArray) and "train" in effects.dims
    if not known or not {"target", "train"} <= set(effects.coords) or "helps" not in effects.attrs:
        raise ArgumentError(
            "`effects` must be what whence.counterfactual returned, or some targets of it with .sel or .isel: its "
            "attributes say which run it is about."
        )
    whole: xr.DataArray = effects if "target" in effects.dims else effects.expand_dims("target")
    whole = whole.transpose("target", "train").sortby("train")
    count = int(effects.attrs["train_size"])
    if whole.sizes["train"] != count:
        raise ArgumentError(
            f"These effects are of {whole.sizes['train']} training examples; the run has {count}. Choose targets with "
            ".sel or .isel, but keep every training example."
        )
    return whole


def recall(effects: xr.DataArray, run: Run | None, targets: Any) -> tuple[Run, Question]:
    """Return the run and the question that effects answer.

    Args:
        effects: What `whence.counterfactual` returned, whole or some targets of it.
        run: The run, where the one it was made with is gone.
        targets: The targets, likewise.

    Raises:
        ArgumentError: If they are needed and missing, or are others.
    """
    if run is not None:
        check_run(run, "whence.check")
    key, identity = effects.attrs.get("id"), effects.attrs.get("run_identity")
    for known, questions in list(_ASKED.items()):
        if key in questions and (run is None or run.identity == known.identity):
            if targets is not None:
                _same_targets(as_examples(targets), effects)
            return run or known, questions[key]
    if run is None or targets is None:
        raise ArgumentError(
            f"The run {effects.attrs.get('run')} and the targets of these effects are not in memory. Give run= and "
            "targets=, as to whence.counterfactual."
        )
    if run.identity != identity:
        raise ArgumentError(f"These effects are about run {identity}; the one given is {run.identity}.")
    quantity = str(effects.attrs["quantity"])
    if effects.attrs["quantity_is_function"]:
        raise ArgumentError(f"The quantity {quantity!r} was a function, which is not kept. Call counterfactual again.")
    question = Question.of(run, targets, quantity, None, list(effects.attrs["ids"]))
    _same_targets(question.examples, effects)
    names, members = np.array(effects.attrs["names"], dtype=object), np.array(effects.attrs["members"])
    return run, Question(question.examples, question.rows, question.quantity, names, members)
