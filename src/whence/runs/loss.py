"""The loss of the training: a mean or a sum of one loss per example."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from whence._errors import RecordingError, UnsupportedLossError
from whence.datasets import Examples, call_model
from whence.runs.randomness import kept_randomness
from whence.runs.reductions import is_of_torch, takes_reduction, without_reduction
from whence.runs.trees import leaves, repeated, rows, to_device
from whence.runs.varied import varied_ids

_TRIED = 4  # examples on which a loss is tried
_TOLERANCE = 1e-4  # relative; float32 sums of a few losses agree far better, another reduction far worse

_REFUSALS = (RuntimeError, TypeError, ValueError, IndexError)

WAY_OUT = (
    "For a weighted mean, give torch's own loss with its options, such as weight= (a module, or functools.partial of "
    "the function), or a callable (outputs, labels) that returns one loss per example. Contrastive and ranking losses "
    "cannot be shared out to examples."
)

_Function = Callable[..., Tensor]


@final
class TrainingLoss:
    """A loss in its two forms; made by `training_loss`.

    Attributes:
        name: What the loss is called in messages and in ``run.json``.
        proved: Whether its two forms belong together whatever the batch; else that holds for what it was tried on.
    """

    def __init__(self, name: str, whole: _Function, each: _Function, *, proved: bool = False) -> None:
        self.name, self.proved = name, proved
        self._whole = whole
        self._each = each

    def __repr__(self) -> str:
        return f"TrainingLoss({self.name})"

    def __call__(self, outputs: Any, labels: Any) -> Tensor:
        """Return the loss of a batch as in training: a 0-dim tensor."""
        return self._whole(outputs, labels)

    def per_example(self, outputs: Any, labels: Any) -> Tensor:
        """Return one loss per example, (batch,); where an example has several positions, their sum.

        Raises:
            UnsupportedLossError: If a label is none that the outputs are for.
        """
        try:
            return self._each(outputs, labels)
        except IndexError as error:
            raise UnsupportedLossError(_misfit(self.name, outputs, labels, error)) from error


def training_loss(loss: Any, model: nn.Module, examples: Examples) -> TrainingLoss:
    """Find out what kind of loss ``loss`` is, by trying it on a few examples.

    The model is called in evaluation mode without gradients; its modes, its buffers and torch's random state are
    afterwards as they were.

    Args:
        loss: A torch loss function or module (anything with ``reduction``), a callable ``(outputs, labels)`` giving
            one loss per example (training is then taken to use their mean), or one giving their mean or sum.
        model: The model.
        examples: The training data.

    Raises:
        UnsupportedLossError: If the loss cannot be called so, or is neither a mean nor a sum over examples.
        RecordingError: If the model cannot be called with the inputs of the data, or gives no tensor.
    """
    if isinstance(loss, TrainingLoss):
        return loss
    name = loss_name(loss)
    if not callable(loss):
        raise UnsupportedLossError(f"loss must be a callable (outputs, labels) → loss; got {name}.")
    outputs, labels = _outputs(model, examples)
    if next(leaves(outputs), None) is None:
        raise RecordingError(
            f"The model {type(model).__name__} gives a {type(outputs).__name__} in which no tensor is found. Let its "
            "forward pass return a tensor, or a tuple, list or dict of tensors, such as the outputs of transformers."
        )
    count = _batch_size(labels, outputs)
    forms = _forms(name, loss, outputs, labels, count)
    if forms is None:
        forms = _scalar_forms(name, loss, outputs, labels, count)
    return TrainingLoss(name, *forms, proved=forms[0] is not loss or is_of_torch(loss))


def loss_name(loss: Any) -> str:
    """Return what a loss is called."""
    if isinstance(loss, TrainingLoss):
        return loss.name
    if isinstance(loss, functools.partial):
        return f"{loss_name(loss.func)} with {', '.join(f'{key}={value!r}' for key, value in loss.keywords.items())}"
    if isinstance(loss, nn.Module):
        return f"{type(loss).__qualname__}({loss.extra_repr()})"
    return str(getattr(loss, "__qualname__", None) or repr(loss))


def _forms(name: str, loss: _Function, outputs: Any, labels: Any, count: int) -> tuple[_Function, _Function] | None:
    """Return whole and per-example form of a loss that can give one loss per example; None for a scalar one."""
    if isinstance(loss, nn.Module) and isinstance(getattr(loss, "reduction", None), str):
        unreduced, given = without_reduction(loss), str(loss.reduction)
    elif takes_reduction(loss):
        unreduced = functools.partial(loss, reduction="none")
        given = loss.keywords.get("reduction", "mean") if isinstance(loss, functools.partial) else "mean"
    else:
        unreduced, given = loss, "none"
    found = _try(name, unreduced, outputs, labels)
    if found.dim() == 0 and given == "none" and unreduced is loss:
        return None
    if found.dim() == 0 or len(found) != count:
        raise UnsupportedLossError(
            f"The loss {name} gives values of shape {tuple(found.shape)} for {count} examples; "
            "it must give one loss per example (first axis), or their mean or sum."
        )
    _check_apart(name, unreduced, outputs, labels, found)
    each = functools.partial(_summed_positions, unreduced)
    return (functools.partial(_mean, each), each) if given == "none" else (loss, each)


def _check_apart(name: str, unreduced: _Function, outputs: Any, labels: Any, found: Tensor) -> None:
    """Check that each example's loss depends on that example alone.

    Raises:
        UnsupportedLossError: If an example's loss is another without the rest of the batch.
    """
    parts, how = _without_the_others(name, unreduced, outputs, labels, len(found))
    singles = torch.stack([part.sum() for part in parts]).double()
    whole = found.reshape(len(found), -1).sum(1).double()
    same = torch.allclose(whole, singles, rtol=_TOLERANCE, atol=_TOLERANCE * _largest(whole), equal_nan=True)
    if same and sum(part.numel() for part in parts) == found.numel():
        return
    shapes = [tuple(value.shape) for value in (outputs, labels) if isinstance(value, Tensor)]
    if len(shapes) == 2 and found.numel() > max(outputs.numel(), labels.numel()):
        raise UnsupportedLossError(
            f"The loss {name} compares every example with every other: outputs of shape {shapes[0]} and labels of "
            f"shape {shapes[1]} are spread out to {tuple(found.shape)}. Give both the same shape: add an axis to the "
            "labels in the dataset, or take the outputs' away in the model."
        )
    raise UnsupportedLossError(
        f"The loss {name} mixes the examples of a batch: it gives {len(found)} examples "
        f"{_shown(whole)} together, but {_shown(singles)} {how}. Contrastive and ranking losses cannot be shared "
        "out to examples; give a loss in which each example's part depends on its own outputs and labels."
    )


def _without_the_others(
    name: str, unreduced: _Function, outputs: Any, labels: Any, count: int
) -> tuple[list[Tensor], str]:
    """Return each example's losses without the rest of the batch, and in words how they were found.

    Raises:
        UnsupportedLossError: If it can be computed on no other batch than the one given.
    """
    times = 2 * count
    with torch.no_grad():
        try:
            return [unreduced(rows(outputs, i, i + 1), rows(labels, i, i + 1)) for i in range(count)], "one by one"
        except _REFUSALS:  # it wants more than one
            pass
        try:
            among = [unreduced(repeated(outputs, i, times), repeated(labels, i, times))[0] for i in range(count)]
        except _REFUSALS as error:
            raise UnsupportedLossError(
                f"The loss {name} can be computed on {count} examples, but neither on one of them nor on "
                f"{times} rows: {error}. Give a callable (outputs, labels) that returns one loss per example, for "
                "any number of them."
            ) from error
    return among, f"each in place of the others, {times} times"


def _largest(values: Tensor) -> float:
    """Return the largest absolute value among the finite ones, 0 if there is none."""
    return float(values.abs().nan_to_num(0.0, 0.0, 0.0).max())


def _shown(values: Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in values.tolist())


def _scalar_forms(name: str, loss: _Function, outputs: Any, labels: Any, count: int) -> tuple[_Function, _Function]:
    """Check that a scalar loss is a mean or a sum over examples.

    Raises:
        UnsupportedLossError: If it is neither.
    """
    with torch.no_grad():
        whole = loss(outputs, labels).double()
        try:
            singles = _one_by_one(loss, outputs, labels).double()
        except _REFUSALS as error:
            raise UnsupportedLossError(
                f"The loss {name} gives one number for a batch, and none for a single example: {error}. Give a "
                "callable (outputs, labels) that returns one loss per example."
            ) from error
    for reduced in (singles.mean(), singles.sum()):
        if torch.allclose(whole, reduced, rtol=_TOLERANCE, atol=_TOLERANCE * _largest(singles), equal_nan=True):
            return loss, functools.partial(_one_by_one, loss)
    raise UnsupportedLossError(
        f"The loss {name} is neither a mean nor a sum over examples: for {count} examples it gives "
        f"{float(whole):.6g}; their own losses have mean {float(singles.mean()):.6g} and sum "
        f"{float(singles.sum()):.6g}. {WAY_OUT}"
    )


def _outputs(model: nn.Module, examples: Examples) -> tuple[Any, Any]:
    """Call the model on a few examples and leave it as it was."""
    tensor = next(iter(model.parameters()), None)
    device = tensor.device if tensor is not None else torch.device("cpu")
    modes = [(module, module.training, dict(module._buffers)) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    inputs: Any = None
    try:
        with kept_randomness(device), torch.no_grad():
            inputs, labels = to_device(examples.batch(varied_ids(examples, _TRIED)), device)
            model.eval()
            return call_model(model, inputs), labels
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise RecordingError(
            f"The model {type(model).__name__} cannot be called with the inputs of the training data"
            f"{_spread(inputs)}: {error}. "
            "What the loop does to a batch before the model belongs into the dataset (see datasets.Augmented) "
            "or into the model."
        ) from error
    finally:
        for module, training, held in modes:
            module.training, module._buffers = training, held  # the forward pass may have put others in their place
        with torch.no_grad():
            for buffer, kept in buffers:
                if not torch.equal(buffer, kept):
                    buffer.copy_(kept)


def _spread(inputs: Any) -> str:
    """Say how inputs of several parts reach the model: what fails is often that it takes them as one."""
    if isinstance(inputs, Mapping):
        return f" (a dict, so its entries are given by name: model({', '.join(f'{name}=...' for name in inputs)}))"
    if isinstance(inputs, tuple | list):
        return f" ({len(inputs)} of them, given one after the other: model({', '.join('...' for _ in inputs)}))"
    return ""


def _try(name: str, loss: _Function, outputs: Any, labels: Any) -> Tensor:
    try:
        with torch.no_grad():
            found = loss(outputs, labels)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise UnsupportedLossError(_misfit(name, outputs, labels, error)) from error
    if not isinstance(found, Tensor):
        raise UnsupportedLossError(f"The loss {name} must return a tensor; it returned {type(found).__name__}.")
    return found


def _misfit(name: str, outputs: Any, labels: Any, error: Exception) -> str:
    """Say that outputs, labels and loss do not belong together."""
    given = [str(tuple(one.shape)) if isinstance(one, Tensor) else type(one).__name__ for one in (outputs, labels)]
    return (
        f"The loss {name} cannot be called as loss(model(inputs), labels), with outputs {given[0]} and labels "
        f"{given[1]}: {str(error).rstrip('.')}. Give the loss, and the model with the outputs, that these labels were "
        "trained with; or a callable (outputs, labels) that returns one loss per example."
    )


def _batch_size(labels: Any, outputs: Any) -> int:
    return len(next(leaves((labels, outputs))))


def _summed_positions(unreduced: _Function, outputs: Any, labels: Any) -> Tensor:
    found = unreduced(outputs, labels)
    return found if found.dim() == 1 else found.flatten(1).sum(1)


def _mean(each: _Function, outputs: Any, labels: Any) -> Tensor:
    return torch.mean(each(outputs, labels))


def _one_by_one(loss: _Function, outputs: Any, labels: Any) -> Tensor:
    count = _batch_size(labels, outputs)
    return torch.stack([loss(rows(outputs, i, i + 1), rows(labels, i, i + 1)) for i in range(count)])
