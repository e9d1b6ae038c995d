"""Shortcut test: a patch on one class of training images; do maps of the harmful ones find it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor, nn

from whence._errors import ArgumentError, ShapeError
from whence._files import checksum
from whence._numbers import check_seed, is_number
from whence._processes import kept_arrays
from whence._statistics import Interval, mean_interval
from whence.attribution import Attributor, GradCos, GradDot, Trained, as_trained, attribute
from whence.audit.identity import identity_of
from whence.datasets import as_examples
from whence.evaluation.inputs import as_count, as_images, as_maps, correct, named
from whence.evaluation.masks import top_inside
from whence.evaluation.table import Tables, table_of
from whence.evaluation.truth import checked_model
from whence.regions import Gradient, Recipe, own_saliency, region_map, top_pairs

FRACTIONS = tuple(place / 16 for place in range(17))
CONTROL = "saliency, blind to the target"
Data = tuple[Tensor, Tensor]
Maps = Callable[[Trained, Data, list[tuple[int, int]]], Any]
"""(trained model, targets, pairs (target id, training id)) -> maps (pairs, height, width)."""
_IMAGES = ("all", "patched class, clean", "probe class, patched")
_OWN = Recipe(GradDot(), Gradient(), signed=False)


@final
@dataclass(frozen=True)
class Patch:
    """A patch, and on what it is put.

    Attributes:
        put: Given images (images, channels, height, width), returns them with the patch.
        inside: Which pixels the patch covers, (height, width).
        on: The class of which training images get it (dog, in the paper).
        probe: The class of which test images get it (ship).
    """

    put: Callable[[Tensor], Tensor]
    inside: Bool[np.ndarray, "height width"]
    on: int
    probe: int


@final
@dataclass(frozen=True)
class ShortcutSizes:
    """Sizes of the shortcut test; the defaults are the paper's.

    Attributes:
        fractions: Of the images of one class that get the patch.
        probes: Patched test images to explain.
        harmful: Training images of each, the most harmful.
        percent: Of the pixels of a map that count as its top.
        ranking: The method that finds the harmful images.
        seed: Draws which images get the patch and which are probes, and is given to ``train``.
    """

    fractions: Sequence[float] = FRACTIONS
    probes: int = 5
    harmful: int = 10
    percent: float = 10
    ranking: Attributor = field(default_factory=GradCos)
    seed: int = 0


def square_patch(height: int, width: int, size: int, colour: Sequence[float], *, on: int, probe: int) -> Patch:
    """Return a square patch of one colour in the lower right corner.

    Args:
        height, width: Of the images.
        size: Its side, in pixels.
        colour: Its value, one number a channel.
        on, probe: The classes; see `Patch`.

    Raises:
        ArgumentError: If it does not fit into the images.
    """
    if as_count(size, "size") > min(height, width):
        raise ArgumentError(f"A patch of {size} pixels does not fit into images of {height} × {width}.")
    inside = np.zeros((height, width), dtype=bool)
    inside[-size:, -size:] = True
    where = torch.from_numpy(inside)

    def put(images: Tensor) -> Tensor:
        if len(colour) != images.shape[1]:
            raise ShapeError(
                f"The patch's colour has {len(colour)} numbers, and the images {images.shape[1]} channels."
            )
        painted = torch.tensor(list(colour), dtype=images.dtype).reshape(-1, 1, 1).expand(images.shape[1:])
        return torch.where(where, painted, images)

    return Patch(put, inside, on, probe)


def shortcut(  # noqa: PLR0913 - each is a question of its own
    train: Callable[[Tensor, Tensor, int], nn.Module],
    data: Any,
    test: Any,
    patch: Patch,
    maps: Recipe | Maps | Mapping[str, Recipe | Maps],
    *,
    loss: Any,
    sizes: ShortcutSizes | None = None,
    processes: int | None = None,
    path: str | Path | None = None,
) -> Tables:
    """Plant a shortcut in a growing share of one class's images, and see whether maps point at it (TFA, appendix D.3).

    A map that points at the patch proves nothing by itself: the saliency of the training image's own loss, which never
    sees the target, is in the table too, and a claim has to beat it.

    Args:
        train: Given images, labels and a seed, trains a new network.
        data: Training images: anything `as_examples` takes.
        test: Test images, without patches.
        patch: The patch and its classes.
        maps: The recipe of region maps, or what makes maps; or several kinds, by name.
        loss: As `whence.record` takes it.
        sizes: See `ShortcutSizes`.
        processes: How many networks to train at once, each forked and on one thread, sharing the data until it is
            changed. None is all usable cores on Linux without a GPU, else one.
        path: A folder in which to keep each fraction's result as it is found: a call that was interrupted goes on
            there. Results are told apart by all arguments and by the code of ``train`` and ``maps``, but not by what
            these call or read by name.

    Returns:
        Table ``accuracy`` (figure 15a), a row each fraction: on all test images, on the class that has the patch in
        training, without it, and on the probe class with it; intervals over test images. Table ``patch`` (figure 15b):
        share of the pixels with the largest absolute values inside the patch, for each kind of map and the control;
        intervals over probes; with the attainable maximum.

    Raises:
        ArgumentError: If a class has no images, a fraction is none, ``maps`` has the name of the control, or ``train``
            gives no network.
        ShapeError: If images or maps have another shape.
        DataError: If the data, or files of ``path``, cannot be read.
        DiskError: If the disk is full or refuses to write.
    """
    how, kinds, given = sizes or ShortcutSizes(), named(maps, "map"), (as_examples(data), as_examples(test))
    pool, held = (as_images(one) for one in given)
    _check(pool, held, patch, how, kinds)
    probes = _probes(held, patch, how)

    def make(place: int) -> NDArray[np.float64]:
        patched = _planted(pool, patch, how.fractions[place], how.seed)
        model = checked_model(train(*patched, how.seed))
        shares = _shares(as_trained(model, patched, loss=loss), probes, kinds, patch, how)
        return np.array([*_accuracies(model, held, patch), *shares])

    where = [checksum(patch.inside.tobytes()), patch.inside.shape, patch.on, patch.probe]
    others = [how.probes, how.harmful, how.percent, how.seed]
    header = f"{[one.fingerprint for one in given]} {where} {others}"
    code = identity_of([train, patch.put, kinds, loss, how.ranking])
    found = kept_arrays(
        make,
        [checksum(f"shortcut {code} {header} {float(one)}".encode()) for one in how.fractions],
        folder=None if path is None else Path(path),
        processes=processes,
        description="training with a patch",
    )
    intervals = [[Interval(*row) for row in one.tolist()] for one in found]
    top = round(how.percent / 100 * patch.inside.size)
    rows = ("fraction with the patch", list(how.fractions))
    return Tables(
        {
            "accuracy": table_of(
                [one[: len(_IMAGES)] for one in intervals],
                rows,
                ("test images", _IMAGES),
                title="Shortcut: accuracy",
                measure="accuracy",
                interval="over test images",
            ),
            "patch": table_of(
                [one[len(_IMAGES) :] for one in intervals],
                rows,
                ("map", [*kinds, CONTROL]),
                title="Shortcut: maps",
                measure=f"share of the top {how.percent:g} % of pixels by absolute value inside the patch",
                interval="over probes",
                references={"attainable": min(1.0, float(patch.inside.sum()) / max(1, top))},
            ),
        }
    )


def _check(pool: Data, held: Data, patch: Patch, how: ShortcutSizes, kinds: Mapping[str, Any]) -> None:
    if tuple(pool[0].shape[2:]) != patch.inside.shape:
        raise ShapeError(f"The patch is for images of {patch.inside.shape}; the data has {tuple(pool[0].shape[2:])}.")
    for name, one, where in (("on", patch.on, pool), ("probe", patch.probe, held), ("on", patch.on, held)):
        if not bool((where[1] == one).any()):
            part = "training" if where is pool else "test"
            raise ArgumentError(f"The patch's class {name}={one} has no {part} images. Choose one of the labels.")
    if not how.fractions or not all(is_number(one) and 0 <= one <= 1 for one in how.fractions):
        raise ArgumentError(f"`fractions` must be shares of a class, 0 to 1; got {list(how.fractions)}.")
    if not is_number(how.percent) or how.percent <= 0 or how.percent > 100:
        raise ArgumentError(f"`percent` is a share of the pixels, above 0 and at most 100; got {how.percent!r}.")
    check_seed(how.seed)
    for kind, make in kinds.items():
        if not isinstance(make, Recipe) and not callable(make):
            raise ArgumentError(f"The map {kind!r} is a Recipe, or a function that makes maps; got {make!r}.")
    if CONTROL in kinds:
        raise ArgumentError(f"{CONTROL!r} is the name of the control. Give your map another name.")


def _probes(held: Data, patch: Patch, how: ShortcutSizes) -> Data:
    of = np.flatnonzero((held[1] == patch.probe).numpy())
    count = min(of.size, as_count(how.probes, "probes"))
    rows = np.random.default_rng([how.seed, 1]).choice(of, count, replace=False)
    return patch.put(held[0][rows]), held[1][rows]


def _planted(pool: Data, patch: Patch, fraction: float, seed: int) -> Data:
    """Return the training data with the patch on a share of a class; a larger share holds the smaller."""
    of = np.random.default_rng([seed, 0]).permutation(np.flatnonzero((pool[1] == patch.on).numpy()))
    rows, images = of[: round(fraction * of.size)], pool[0].clone()
    if rows.size:
        images[rows] = patch.put(images[rows])
    return images, pool[1]


def _accuracies(model: nn.Module, held: Data, patch: Patch) -> list[Interval]:
    own, other = (held[1] == one for one in (patch.on, patch.probe))
    parts = [held, (held[0][own], held[1][own]), (patch.put(held[0][other]), held[1][other])]
    return [mean_interval(correct(model, *part).astype(np.float64)) for part in parts]


def _shares(
    trained: Trained, probes: Data, kinds: Mapping[str, Maps | Recipe], patch: Patch, how: ShortcutSizes
) -> list[Interval]:
    scores = attribute(how.ranking, trained, probes)
    pairs = top_pairs(scores, min(as_count(how.harmful, "harmful"), scores.sizes["train"]), harmful=True)
    of = np.array([target for target, _ in pairs])
    made = [
        region_map(trained, probes, pairs, recipe=make) if isinstance(make, Recipe) else make(trained, probes, pairs)
        for make in kinds.values()
    ]
    made.append(own_saliency(trained, [one for _, one in pairs], recipe=_OWN))
    # what harms pulls the score down: of a signed map the sizes count, as of the paper's absolute one
    found = [np.abs(as_maps(one, len(pairs), patch.inside.shape)) for one in made]
    return [mean_interval(top_inside(one, patch.inside, how.percent), of) for one in found]
