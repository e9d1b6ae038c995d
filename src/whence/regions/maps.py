"""Region maps: which parts of a training input mattered for a target."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Integer
from numpy.typing import NDArray
from torch import nn

from whence._errors import ArgumentError, GradientError
from whence._numbers import even_parts, is_whole
from whence._progress import progress
from whence.attribution import GradCos, Influence, Trained, as_trained, parameters_of
from whence.audit.quantities import Quantity
from whence.datasets import as_examples
from whence.kernel.features import Features
from whence.regions.accumulate import Maps, setting
from whence.regions.directions import directions
from whence.regions.engines import Difference, Engine, Forward
from whence.regions.labelled import label_maps
from whence.regions.pairs import Pairs, as_pairs
from whence.regions.recipe import DEFAULT, AuditTerm, Recipe
from whence.regions.surface import Entry, surface_of
from whence.regions.terms import Term
from whence.regions.work import Work
from whence.runs import Run


def region_map(  # noqa: PLR0913 - each is a question of its own
    source: Run | Trained | nn.Module,
    targets: Any,
    pairs: Pairs,
    *,
    recipe: Recipe = DEFAULT,
    engine: Engine = Forward(),  # noqa: B008  (frozen)
    entry: Entry = None,
    train_data: Any = None,
    loss: Any = None,
    memory_budget: int = 2**29,
) -> xr.DataArray:
    """Map which parts of training inputs mattered for targets (Training Feature Attribution, section 3.2).

    A score S of the training example for the target, of its gradient with the target's, is split up over the training
    input, by the gradient of S with respect to it. Integrated gradients share out S(input) - S(baseline) exactly.

    Args:
        source: A recorded run, taken at its end; or a trained model with ``train_data`` and ``loss``.
        targets: Where the targets are: anything `as_examples` takes.
        pairs: (target id, training id) each, as `top_pairs` gives.
        recipe: Score, map and smoothing: `DEFAULT`, `PAPER` or your own. An `AuditTerm` is taken at its step.
        engine: How to differentiate: `Forward`, `DoubleBackward` or `Difference`.
        entry: Which input to map, if there are several: a key of their dict, a position in their tuple. The others are
            held, also along the way from the baseline.
        train_data, loss: With a model, its training data and loss.
        memory_budget: Bytes to hold besides model, data and maps.

    Returns:
        One map a pair, dims ``("pair", "height", "width")`` for images, whose channels are summed; ``("pair",
        "feature")`` for vectors. Positive where the input raises the score, and positive scores are those of examples
        that help the target (negative ones of an `AuditTerm` on a loss). Coordinates: ``target``, ``train`` and
        ``score`` of each pair, and, where the map is one of shares, ``remainder``: what its sum lacks. ``attrs`` say
        unit, sign and recipe.

    Raises:
        ArgumentError: If an argument is outside what is listed, inputs cannot be differentiated, a score is no finite
            number, or the engine does not suit the score or the network.
        LabelError: If there is no such target, training example, layer, entry or step.
        GradientError: If the score does not depend on the training inputs at all, or the model cannot be differentiated
            twice.

    Examples:
        >>> data = (torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0]]))
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.zeros_(model.weight)
        >>> from whence.attribution import GradDot
        >>> from whence.regions import GradientInput
        >>> recipe = Recipe(GradDot("loss"), GradientInput(), baseline=0.0)
        >>> found = region_map(model, data, [(0, 0)], recipe=recipe, train_data=data, loss=nn.MSELoss())
        >>> found.values.tolist(), found.score.item()
        ([[4.0, 16.0]], 20.0)
    """
    check_settings(recipe, memory_budget)
    check_engine(engine, recipe)
    trained, examples = as_trained(source, train_data, loss=loss), as_examples(targets)
    chosen = as_pairs(pairs, len(examples), len(trained.examples))
    ids, which = np.unique(chosen[:, 0], return_inverse=True)
    term = None
    if isinstance(recipe.score, AuditTerm):
        term = Term(trained, recipe.score, chosen[:, 1].tolist(), memory_budget // 2)
        trained = term.trained
    names = parameters_of(trained, recipe.score.layers)
    features = Features(trained, examples, ids.tolist(), recipe.score.quantity, names)
    work = Work(trained, surface_of(trained, names, entry), setting(recipe, trained, entry), engine, memory_budget)
    maps, order, error = _all_maps(work, features, chosen[:, 1], which, term)
    attrs = (
        described(recipe, features.quantity)
        | {"engine": repr(engine)}
        | error
        | ({} if entry is None else {"entry": entry})
    )
    return _labelled(maps, np.argsort(order), chosen, attrs)


def _all_maps(
    work: Work,
    features: Features,
    train: Integer[np.ndarray, " pairs"],
    which: Integer[np.ndarray, " pairs"],
    term: Term | None,
) -> tuple[list[Maps], Integer[np.ndarray, " pairs"], dict[str, float]]:
    """Return maps, the place of each among the pairs, and the error of a difference."""
    error: dict[str, float] = {}
    maps, order = [], []
    score = work.recipe.score
    solve = score.solver(work.trained) if isinstance(score, Influence) else None
    with progress("region maps", len(train)) as advance:
        for part in even_parts(range(len(features.ids)), work.targets):
            inside = np.flatnonzero((which >= part.start) & (which < part.stop))
            inside = inside[np.argsort(which[inside], kind="stable")]
            rows = torch.from_numpy(which[inside] - part.start).to(work.trained.device)
            ids = train[inside].tolist()
            if term is None:
                found = directions(features, part, work.trained, work.surface, score, solve)
            else:
                found = term.directions(features, part)
            if isinstance(work.engine, Difference) and not error:
                error = {"engine_error": work.difference_error(ids, found, rows)}
            made = work.maps(ids, found, rows, advance)
            maps.append(made if term is None else term.weighed(made, ids))
            order.append(inside)
    refuse_vanished(maps, work.recipe)
    return maps, np.concatenate(order), error


def _labelled(
    maps: list[Maps],
    back: Integer[np.ndarray, " pairs"],
    chosen: Integer[np.ndarray, "pairs 2"],
    attrs: dict[str, Any],
) -> xr.DataArray:
    scores = torch.cat([one.scores for one in maps])[back].cpu().numpy()
    refuse_not_finite(scores, chosen)
    coords = {"target": chosen[:, 0], "train": chosen[:, 1], "score": scores}
    remainders = [one.remainder for one in maps if one.remainder is not None]
    if remainders:
        coords["remainder"] = torch.cat(remainders)[back].cpu().numpy()
    return label_maps(torch.cat([one.values for one in maps])[back], coords, attrs)


def check_settings(recipe: object, memory_budget: object) -> None:
    """Refuse what is not a recipe, or no number of bytes.

    Raises:
        ArgumentError: If one of them is not.
    """
    if not isinstance(recipe, Recipe):
        raise ArgumentError(f"`recipe` is DEFAULT, PAPER or Recipe(score, ...); got {recipe!r}.")
    if not is_whole(memory_budget) or int(str(memory_budget)) < 1:
        raise ArgumentError(f"`memory_budget` is a whole number of bytes, at least 1; got {memory_budget!r}.")


def check_engine(engine: object, recipe: Recipe) -> None:
    """Refuse what is not an engine, and a difference for a cosine.

    Raises:
        ArgumentError: If it is one of these.
    """
    if isinstance(engine, type) or not isinstance(engine, Engine):
        raise ArgumentError(f"`engine` is Forward(), DoubleBackward() or Difference(); got {engine!r}.")
    if isinstance(engine, Difference) and isinstance(recipe.score, GradCos):
        raise ArgumentError(
            "Difference() moves the model along the target's direction, but a cosine's is another for each training "
            "example. Use Forward(), or GradDot instead of GradCos."
        )


def refuse_vanished(maps: list[Maps], recipe: Recipe) -> None:
    """Refuse maps of a score that does not depend on the training inputs.

    Raises:
        GradientError: If every gradient is 0.
    """
    if any(one.alive for one in maps):
        return
    layers = recipe.score.layers
    scope = f"the layers {layers!r}" if isinstance(layers, str) else f"the layers {', '.join(layers)}"
    if all(not one.scores.any() for one in maps):
        raise GradientError(
            f"All scores are 0: in {scope}, the gradients of these training examples or targets vanish, as those of "
            "perfectly fitted examples do. Choose other pairs or layers; float64 may tell tiny gradients from none."
        )
    raise GradientError(
        f"The map vanishes: in {scope}, the gradient of the training loss is the same whatever the input (the mixed "
        "second derivative is identically 0), so no region can matter. A loss that is linear in the outputs does this "
        "to biases and to all but the first layers it reaches. Choose other `layers` or a smooth loss."
    )


def refuse_not_finite(scores: NDArray[np.floating], chosen: Integer[np.ndarray, "pairs 2"]) -> None:
    """Refuse scores that are no numbers, which no region can share.

    Raises:
        ArgumentError: If there is one.
    """
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        target, train = chosen[wrong[0]].tolist()
        raise ArgumentError(
            f"The score of target {target} and training example {train} is {scores[wrong[0]]}, so no region has a "
            "share of it. Look at the target's input, label and loss, and at the model's weights; leave such pairs out."
        )


def described(recipe: Recipe, quantity: Quantity) -> dict[str, Any]:
    """Return what a map says of itself."""
    unit = {
        AuditTerm: quantity.unit,
        GradCos: "cosine",
        Influence: f"{quantity.unit} if removed, times the number of training examples",
    }.get(type(recipe.score), f"{quantity.unit} per unit of learning rate")
    helps = "negative" if isinstance(recipe.score, AuditTerm) and quantity.helps < 0 else "positive"
    sign = f"raises the score; {helps} scores = the example helps the target" if recipe.signed else "magnitude only"
    return {
        "unit": unit if recipe.map.shares else f"{unit}, per unit of the input",
        "sign": f"positive = the input here {sign}" if recipe.signed else sign,
        "quantity": quantity.name,
        "recipe": repr(recipe),
    }
