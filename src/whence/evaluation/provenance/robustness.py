"""Class accuracy of retrieval under distortions, beside a classifier and beside the nearest pictures in pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor, nn

from whence._errors import ArgumentError, ShapeError
from whence._numbers import even_parts
from whence._progress import progress
from whence.audit.chunks import outputs_on_one
from whence.datasets import as_examples, call_model
from whence.evaluation.inputs import named
from whence.evaluation.provenance.measures import (
    FEW,
    FIVE,
    Agreement,
    agreement,
    as_conditions,
    as_data,
    distorted,
    exemplars,
    nearest,
    share_of,
)
from whence.evaluation.provenance.sheets import Cell, Row, check_size, sheet_of
from whence.evaluation.table import Table, Tables, table_of
from whence.provenance import CONDITIONS, Distortion, ProvenanceNetwork
from whence.provenance.training import same_data
from whence.regions.pictures import as_image, enlarged
from whence.runs.trees import to_device

CLASSIFIER, PIXELS = "isolated classifier", "nearest in pixels"
_ROWS = 512
_Classes = Callable[[Tensor], Int[np.ndarray, "queries ranks"]]


def robustness(
    networks: ProvenanceNetwork | Mapping[str, ProvenanceNetwork],
    isolated_classifier: nn.Module,
    train_data: Any,
    test_data: Any,
    *,
    conditions: Sequence[str] | Mapping[str, Distortion] = tuple(CONDITIONS),
    seed: int = 0,
) -> Tables:
    """Measure the class of retrieved examples on distorted test pictures (Provenance Networks, 5.2, figures 5 and 23).

    The paper compares networks of several shares of mixed labels with a classifier trained for itself, on another test
    set for each; here all see the same distorted pictures. Neighbours in pixels, which the paper does not show, are
    often the better under noise.

    Args:
        networks: A trained network, or several by name, such as of several α.
        isolated_classifier: A trained network of class logits.
        train_data: What all were trained on, pictures from 0 to 1, one tensor: neighbours are sought among them.
        test_data: Pictures and labels, alike.
        conditions: Names out of `whence.provenance.CONDITIONS`, all 15 by default; or distortions by name.
        seed: Of the distortions.

    Returns:
        Tables ``first``, ``any of five`` and ``majority of five``, a row a condition, a column each network, the
        isolated classifier and the nearest in pixels: the share of pictures for which the class of the first retrieved
        example, of any of five, or of the majority of five is right. Of the classifier: its first class; one of its
        five most likely classes; its first class again. Intervals: Clopper-Pearson, over test pictures.

    Raises:
        LabelError: If there is no condition of a name.
        ArgumentError: If the classifier is no module, there is no network or condition, there are fewer than five
            training examples, a network has a name of the other columns, or the classifier cannot be called with the
            pictures.
        ChangedDataError: If a network was made with other training data.
        ShapeError: If inputs are not one tensor, or the classifier's outputs are not (examples, classes).

    Example:
        ``robustness({"α = 0": network}, classifier, train, test)["first"].figure()``
    """
    given, hows = named(networks, "network"), as_conditions(conditions)
    if not isinstance(isolated_classifier, nn.Module):
        raise ArgumentError(f"`isolated_classifier` is a torch module of class logits; got {isolated_classifier!r}.")
    taken = [name for name in given if name in (CLASSIFIER, PIXELS)]
    if taken:
        raise ArgumentError(f"A network is called {taken[0]!r}, as another column. Name it otherwise.")
    train = as_examples(train_data)
    data, (inputs, labels) = as_data(train, "training"), as_data(test_data, "test")
    for network in given.values():
        same_data(network, train)
    if len(data[1]) < FIVE:
        raise ArgumentError(f"Retrieval names five training examples; there are {len(data[1])}.")
    outputs_on_one(isolated_classifier, as_examples((inputs, labels)), torch.arange(1))
    columns: dict[str, _Classes] = {name: lambda some, one=one: exemplars(one, some)[1] for name, one in given.items()}  # type: ignore[misc]
    columns[CLASSIFIER] = lambda some: _likely(isolated_classifier, some)
    columns[PIXELS] = lambda some: data[1].numpy()[nearest(some, data[0], FIVE)]
    found: list[list[Agreement]] = []
    with progress("distorting", len(hows)) as advance:
        for place, how in enumerate(hows.values()):
            some = distorted(inputs, how, seed * 7919 + place)
            found.append([_agreed(name, of(some), labels.numpy()) for name, of in columns.items()])
            advance(1)
    return Tables({few: _table(found, place, (list(hows), list(columns))) for place, few in enumerate(FEW)})


def conditions_sheet(
    data: Any,
    ids: Sequence[int],
    *,
    conditions: Sequence[str] | Mapping[str, Distortion] = tuple(CONDITIONS),
    seed: int = 0,
    size: int = 48,
) -> Image.Image:
    """Draw some pictures under each condition, as `robustness` distorts them (figure 22).

    Args:
        data: Pictures from 0 to 1, one or three channels.
        ids: Which of them to draw.
        conditions: As in `robustness`.
        seed: Of the distortions.
        size: Length of the longer side of each picture, in pixels; at least 40.

    Raises:
        LabelError: If there is no condition of a name.
        ArgumentError: If no picture is named, or the size is too small.
        ShapeError: If these are no pictures of one or three channels.
    """
    side, chosen = check_size(size), list(ids)
    if not chosen:
        raise ArgumentError("`ids` names no picture to draw. Give at least one.")
    inputs = as_examples(data).batch(chosen)[0]
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or inputs.shape[1] not in (1, 3):
        given = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ShapeError(f"Pictures (pictures, 1 or 3 channels, height, width) are needed; these are {given}.")
    rows = []
    for place, (name, how) in enumerate(as_conditions(conditions).items()):
        values = (distorted(inputs, how, seed * 7919 + place).clamp(0, 1) * 255).round().to(torch.uint8)
        pictures = values.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
        rows.append(Row(name, [[Cell(enlarged(as_image(one), side)) for one in pictures]]))
    return sheet_of(rows, ("examples " + ", ".join(map(str, chosen)),))


def _table(found: list[list[Agreement]], place: int, names: tuple[list[str], list[str]]) -> Table:
    return table_of(
        [[share_of(one[place]) for one in row] for row in found],
        ("condition", names[0]),
        ("answer of", names[1]),
        title=f"Robustness, {FEW[place]}",
        measure=f"share of {len(found[0][0].first)} test pictures whose class is right",
        interval="Clopper-Pearson, over test pictures",
    )


def _agreed(name: str, kinds: Int[np.ndarray, "queries ranks"], labels: Int[np.ndarray, " queries"]) -> Agreement:
    one = agreement(kinds, labels)
    return one._replace(majority=one.first) if name == CLASSIFIER else one  # five classes, all different: no majority


def _likely(model: nn.Module, inputs: Tensor) -> Int[np.ndarray, "queries ranks"]:
    """Return the most likely classes, five or as many as there are, most likely first; in evaluation mode.

    Raises:
        ShapeError: If the outputs are not (examples, classes).
    """
    was, device = model.training, next(iter(model.parameters()), inputs).device
    model.eval()
    parts = []
    with torch.no_grad():
        for part in even_parts(range(len(inputs)), _ROWS):
            logits = call_model(model, to_device(inputs[part.start : part.stop], device))
            if not isinstance(logits, Tensor) or logits.dim() != 2:
                given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise ShapeError(f"A classifier's outputs must be (examples, classes); these are {given}.")
            parts.append(logits.topk(min(FIVE, logits.shape[1]), dim=1).indices.cpu())
    model.train(was)
    return torch.cat(parts).numpy()
