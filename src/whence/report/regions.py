"""Region maps of chosen pairs, kept and drawn, with the control beside each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import xarray as xr
from jaxtyping import Float

from whence._errors import ArgumentError
from whence._numbers import is_whole
from whence._statistics import rank_correlations
from whence.attribution import Attributor, GradCos, as_trained, attribute
from whence.audit.storage import refuse_existing
from whence.datasets import as_examples
from whence.regions import DEFAULT, Pairs, Recipe, draw_maps, own_saliency, region_map, save_maps, top_pairs
from whence.regions.control import as_ids
from whence.regions.pairs import as_pairs
from whence.report.beside import maps_beside
from whence.report.choice import wrong_answers
from whence.runs import Run


@final
@dataclass(frozen=True)
class RegionMaps:
    """Region maps of some pairs.

    Attributes:
        maps: As `whence.regions.region_map` gives them.
        control: The training images' own saliency, which never saw a target.
        agreement: Of each map with its control, as a rank correlation: near 1, the map says nothing about the target.
        pictures: A file for each pair, if they were asked.
    """

    maps: xr.DataArray
    control: xr.DataArray
    agreement: Float[np.ndarray, " pairs"]
    pictures: tuple[Path, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return what is known of each pair, as JSON's types."""
        found = []
        for place, one in enumerate(self.maps):
            row = {
                name: one.coords[name].item()
                for name in ("target", "train", "score", "remainder")
                if name in one.coords
            }
            agreement = float(self.agreement[place])
            row["control"] = None if np.isnan(agreement) else agreement
            if self.pictures:
                row["picture"] = str(self.pictures[place])
            found.append(row)
        return found


def helpful_pairs(
    run: Run,
    targets: Any,
    *,
    chosen: Sequence[int] | None = None,
    k: int = 5,
    method: Attributor = GradCos(),  # noqa: B008  (frozen)
    limit: int | None = None,
) -> list[tuple[int, int]]:
    """Return targets with the training examples that helped each most.

    Args:
        run: The run.
        targets: Where the targets are: anything `as_examples` takes.
        chosen: Ids of the targets; those that the run answers wrongly, largest loss first, when left out.
        k: How many examples a target.
        method: What ranks the examples.
        limit: Take the first so many targets only.

    Raises:
        ArgumentError: If a number is outside what is listed, or no target is chosen and none is answered wrongly.
        LabelError: If there is no such target.
    """
    examples, known = as_examples(targets), len(run.examples)
    if not is_whole(k) or not 1 <= k <= known:
        raise ArgumentError(f"`k` is how many training examples to map for each target, 1 to {known}; got {k!r}.")
    given = wrong_answers(run, examples) if chosen is None else as_ids(chosen, "target", len(examples))
    ids = list(dict.fromkeys(given))[:limit]
    return top_pairs(attribute(method, run, examples, ids=ids), k)


def map_pairs(
    run: Run,
    targets: Any,
    pairs: Pairs,
    *,
    recipe: Recipe = DEFAULT,
    path: str | Path | None = None,
    pictures: str | Path | None = None,
    beside: Sequence[str] = (),
) -> RegionMaps:
    """Make region maps of pairs with their control, keep them and draw them.

    Args:
        run: The run.
        targets: Where the targets are: anything `as_examples` takes.
        pairs: (target id, training id) each, as `helpful_pairs` gives.
        recipe: Of the maps.
        path: Where to keep the maps, as a Zarr group that `whence.regions.load_maps` opens.
        pictures: Folder for a picture of each pair: target, training image, map and control side by side.
        beside: What to draw over the target in these pictures, last: ``"grad-cam"``, at the model's last convolution,
            ``"grad-cam:LAYER"``, ``"integrated-gradients"``; by captum, extra ``baselines``.

    Raises:
        AuditError: If something stands at ``path``.
        ArgumentError: If an argument is outside what `whence.regions.region_map` takes, or pictures are asked of what
            is no image.
        LabelError: If there is no such target, training example or layer.
        MissingExtraError: If maps beside are asked for, and captum is not installed.
        GradientError: If the maps vanish.
        DiskError: If the disk is full or refuses to write.
    """
    if beside and pictures is None:
        raise ArgumentError("What stands beside is drawn in pictures. Name a folder for them, `pictures`.")
    if path is not None:
        refuse_existing(Path(path))
    trained, examples = as_trained(run), as_examples(targets)
    asked = as_pairs(pairs, len(examples), len(run.examples))
    others = maps_beside(trained, examples, np.unique(asked[:, 0]).tolist(), beside)
    maps = region_map(trained, examples, asked, recipe=recipe)
    train = np.unique(maps.coords["train"].values).tolist()
    control = own_saliency(trained, train, recipe=recipe)
    drawn: list[Path] = []
    if pictures is not None:
        drawn = draw_maps(maps, control, examples, run.examples, pictures, beside=others)
    if path is not None:
        save_maps(maps, path)
    return RegionMaps(maps, control, agreement_of(maps, control), tuple(drawn))


def agreement_of(maps: xr.DataArray, control: xr.DataArray) -> Float[np.ndarray, " pairs"]:
    """Return the rank correlation of each map with the control of its training example; nan where one is constant."""
    beside = control.sel(train=maps.coords["train"].values)
    flat = [one.values.reshape(len(maps), -1).T for one in (maps, beside)]
    return rank_correlations(*flat)
