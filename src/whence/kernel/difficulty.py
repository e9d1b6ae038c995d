"""How hard an example is for a trained network: scores from its similarities, and baselines; higher = easier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from whence._errors import ArgumentError, ShapeError
from whence._numbers import check_budget, even_parts, is_whole
from whence.audit.chunks import chosen_ids, labels_of
from whence.datasets import Examples, as_examples
from whence.kernel.answers import outputs_of
from whence.kernel.representations import activations
from whence.kernel.similarity import check_cosines
from whence.kernel.trained import Trained, as_trained
from whence.runs import Run, to_device

_ROWS = 512  # examples that go through the model at once


def answers(run: Run | Trained, targets: Any, *, ids: Sequence[int] | None = None) -> xr.Dataset:
    """Return what a model answers at the end of its training: ``logit``, ``predicted`` and ``loss`` of each target.

    Args:
        run: The run, or a trained model.
        targets: Anything `as_examples` takes.
        ids: Which of them; all by default.

    Raises:
        ArgumentError: If the outputs are not one row of at least two classes an example.
        DataError: If the data is of a kind that cannot be read.
    """
    trained, examples = as_trained(run), as_examples(targets)
    rows = chosen_ids(ids, len(examples)).tolist()
    logits, losses = [], []
    for part in even_parts(range(len(rows)), _ROWS):
        inputs, labels = examples.batch(rows[part.start : part.stop])
        found = outputs_of(trained, inputs)
        logits.append(found)
        losses.append(trained.loss.per_example(found, to_device(labels, trained.device)).detach())
    values = torch.cat(logits).cpu().numpy()
    return xr.Dataset(
        {
            "logit": (("target", "class"), values),
            "predicted": ("target", values.argmax(1)),
            "loss": ("target", torch.cat(losses).cpu().numpy()),
        },
        {"target": rows, "class": np.arange(values.shape[1])},
    )


def similarity_norm(similarity: xr.DataArray) -> xr.DataArray:
    """Return the ℓ2 norm of each target's similarities (PLGK, section 6.2).

    Args:
        similarity: Of `whence.kernel.similarity`, of the targets with the training data.

    Raises:
        ArgumentError: If it is not an array of them, with the dim "other".
    """
    if "other" not in check_cosines(similarity).dims:
        raise ArgumentError(f"Similarities have a dim 'other', the training data; these have {similarity.dims}.")
    found: xr.DataArray = (similarity**2).sum("other") ** 0.5
    return _named(found, "norm of similarities", "cosines")


def class_margin(similarity: xr.DataArray, train_labels: Any, predicted: Any) -> xr.DataArray:
    """Return the mean similarity to training examples of the predicted class, less the highest mean to another.

    PLGK, section 6.2. The similarities know the targets' true labels: a target that is answered wrongly pulls along
    with its own class and against the predicted one. So it is a diagnosis of labelled data, no warning about new ones.

    Args:
        similarity: Of `whence.kernel.similarity`, of the targets with the training data.
        train_labels: The class of each of the others.
        predicted: The class that the model gives each target, such as ``answers(run, targets)["predicted"]``.

    Raises:
        ShapeError: If there is not one label for each of the others and one answer a target, or times and layers are
            kept apart.
        ArgumentError: If the others are of a single class, no training example has a predicted class, or these are no
            similarities.
    """
    if set(check_cosines(similarity).dims) != {"target", "other"}:
        raise ShapeError(
            f"A margin is of similarities with dims ('target', 'other'); these have {tuple(similarity.dims)}. Sum the "
            "kernel over time and layers first: similarity(kernel.sum('time'))."
        )
    kinds, means = _class_means(similarity, _whole(train_labels, similarity.sizes["other"], "train_labels"))
    own = _whole(predicted, similarity.sizes["target"], "predicted")
    return _named(_margin(similarity["target"], kinds, means, own), "class margin", "mean cosine")


def max_softmax(found: xr.Dataset) -> xr.DataArray:
    """Return the probability of the predicted class.

    Args:
        found: Of `answers`.

    Raises:
        ArgumentError: If there are no logits in it.
    """
    logits = _logits(found).astype(np.float64)
    powers = logits.copy(data=np.exp((logits - logits.max("class")).values))
    return _named((powers / powers.sum("class")).max("class"), "max softmax", "probability")


def logit_margin(found: xr.Dataset) -> xr.DataArray:
    """Return the largest logit less the second largest.

    Args:
        found: Of `answers`.

    Raises:
        ArgumentError: If there are no logits in it.
    """
    ordered = np.sort(_logits(found).values, axis=1)
    return _named(found["predicted"].copy(data=ordered[:, -1] - ordered[:, -2]), "logit margin", "logits")


def hidden_top_k(
    run: Run | Trained,
    targets: Any,
    *,
    k: int = 10,
    layer: str | None = None,
    ids: Sequence[int] | None = None,
    memory_budget: int = 2**29,
) -> xr.DataArray:
    """Return the margin of mean cosines to the most similar training examples of each class, in a hidden layer.

    The baseline of PLGK, section 6.2: cosines in the last hidden layer, a mean over the k = 10 most similar of each
    class. How one number is made of the means is not said there; here it is the predicted class's less the highest
    other, as for `class_margin`.

    Args:
        run: The run, or a trained model.
        targets: Anything `as_examples` takes.
        k: How many of each class; all of a class that has fewer.
        layer: Name of the layer whose output is compared; None is what the last layer gets.
        ids: Which of the targets; all by default.
        memory_budget: Bytes that cosines may take.

    Raises:
        ArgumentError: If ``k`` is not a whole number, at least 1, or outputs or training labels are no classes.
        LabelError: If there is no such layer.
    """
    if not is_whole(k) or k < 1:
        raise ArgumentError(f"`k` is how many training examples of each class to average over, at least 1; got {k!r}.")
    check_budget(memory_budget)
    trained, examples = as_trained(run), as_examples(targets)
    labels = labels_of(trained.examples)
    if labels is None or labels.is_floating_point():
        raise ArgumentError(
            "Neighbours are taken class by class, so training labels must be one whole number an example; these "
            "are not. Take a score that needs no classes, such as similarity_norm."
        )
    found = answers(trained, examples, ids=ids)
    rows = found["target"].values.tolist()
    hidden = _directions(trained, trained.examples, range(len(trained.examples)), layer)
    kinds, place = torch.unique(labels.to(hidden.device), return_inverse=True)
    groups = [hidden[place == number] for number in range(len(kinds))]
    means = []
    for part in even_parts(range(len(rows)), max(1, memory_budget // (len(hidden) * hidden.itemsize * 2))):
        own = _directions(trained, examples, rows[part.start : part.stop], layer)
        cosines = [(own @ group.T).topk(min(k, len(group)), dim=1).values.mean(1) for group in groups]
        means.append(torch.stack(cosines, 1))
    values = torch.cat(means).cpu().double().numpy()
    margin = _margin(found["target"], kinds.cpu().numpy(), values, found["predicted"].values)
    return _named(margin, "hidden top-k", "mean cosine")


def _class_means(similarity: xr.DataArray, labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the classes of the others, and each target's mean similarity to each."""
    kinds, place = np.unique(labels, return_inverse=True)
    member = np.eye(len(kinds))[place] / np.bincount(place)
    return kinds, similarity.transpose("target", "other").values.astype(np.float64) @ member


def _margin(
    targets: xr.DataArray, kinds: NDArray[Any], means: Float[np.ndarray, "targets kinds"], own: NDArray[Any]
) -> xr.DataArray:
    """Return the mean of each target's class less the highest other.

    Raises:
        ArgumentError: If there is one class only, or a target's is none of them.
    """
    unknown = sorted(set(own.tolist()) - set(kinds.tolist()))
    if len(kinds) < 2 or unknown:
        raise ArgumentError(
            f"A margin compares the predicted class with others: training examples are of classes {kinds.tolist()}, "
            f"and predicted are also {unknown}. Compare with training examples of at least two classes, and of every "
            "class that is predicted."
        )
    mine = own[:, None] == kinds
    best = np.where(mine, -np.inf, means).max(1)
    return xr.DataArray(means[mine] - best, {"target": targets.values}, ("target",))


def _directions(
    trained: Trained, examples: Examples, ids: Sequence[int], layer: str | None
) -> Float[Tensor, "examples width"]:
    """Return unit vectors of a layer's activations; one that is 0 stays 0."""
    read, found = activations(trained.model, layer), []
    for part in even_parts(range(len(ids)), _ROWS):
        inputs, _ = examples.batch(list(ids[part.start : part.stop]))
        with torch.no_grad():
            found.append(read(to_device(inputs, trained.device)).reshape(len(part), -1))
    return torch.nn.functional.normalize(torch.cat(found), dim=1)


def _logits(found: Any) -> xr.DataArray:
    if not isinstance(found, xr.Dataset) or "logit" not in found:
        raise ArgumentError(
            f"This score is of a model's logits; got a {type(found).__name__} without. Give answers(run, targets)."
        )
    return found["logit"]


def _whole(values: Any, count: int, name: str) -> NDArray[Any]:
    given = np.asarray(values)
    if given.shape != (count,):
        raise ShapeError(f"`{name}` needs one class for each of {count}; got shape {given.shape}.")
    return given


def _named(score: xr.DataArray, name: str, unit: str) -> xr.DataArray:
    return score.rename(name).assign_attrs({"unit": unit, "sign": "higher = easier"})
