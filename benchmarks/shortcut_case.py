"""The case study of a shortcut: what saliency of a target, of a training image, and the trace each tell.

    python -m benchmarks.shortcut_case --cifar CIFAR10

The network and the three classes of `benchmarks.regions`. A tenth of the dogs carry a mark in training: a red square in
a corner; faint vertical lines over the whole image, as of a scanner; or warm light, a tint of the whole image. Targets:
test ships that are answered right without the mark, and as dogs with it. Results:
``benchmarks/results/shortcut_case.json`` and ``.md``, and ``docs/assets/shortcut-*.png``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from benchmarks._machine import machine
from benchmarks.regions import (
    CLASSES,
    DEVIATION,
    DOG,
    MEAN,
    OWN,
    SHIP,
    Data,
    cifar,
    fit,
    network,
    red_patch,
    three,
)
from whence._statistics import mean_interval
from whence.attribution import Attributor, GradCos, NearestNeighbours, RepresentationCos, Trained, as_trained, attribute
from whence.evaluation.masks import top_inside
from whence.regions import (
    SHARED,
    grad_cam,
    integrated_gradients,
    overlay,
    own_saliency,
    region_map,
    side_by_side,
    top_pairs,
)

ON, PROBE = CLASSES.index(DOG), CLASSES.index(SHIP)
SHARE = 0.1  # of the dogs carry the mark
TARGETS, EXPLAINED, EACH, PERCENT = 20, 5, 10, 10
STRENGTH = 0.04  # of the lines, of the range from black to white
WARMTH = 0.1  # of the light, of the same range
LAST_CONVOLUTION = "6"
CORNER = red_patch().inside
ASSETS = Path(__file__).parents[1] / "docs" / "assets"
Mark = Callable[[Tensor], Tensor]
Figures = dict[str, Any]


def lines(images: Tensor) -> Tensor:
    """Return images whose columns are brighter and darker in turn."""
    signs = torch.tensor([1.0, -1.0]).repeat(images.shape[-1] // 2)
    return images + STRENGTH * signs / torch.tensor(DEVIATION).reshape(3, 1, 1)


def warm(images: Tensor) -> Tensor:
    """Return images with more red and less blue everywhere, as under a lamp."""
    return images + torch.tensor([WARMTH, 0, -WARMTH]).reshape(3, 1, 1) / torch.tensor(DEVIATION).reshape(3, 1, 1)


MARKS: dict[str, Mark] = {"red square": red_patch().put, "faint lines": lines, "warm light": warm}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="The case study of a shortcut.")
    folder = os.environ.get("WHENCE_DATA")
    parser.add_argument(
        "--cifar", type=Path, default=Path(folder) / "cifar10" if folder else None, required=folder is None
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--marks", nargs="+", choices=MARKS, default=list(MARKS), help="others keep their results")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data, tests = (three(cifar(options.cifar / f"{part}.parquet")) for part in ("train", "test"))
    before = options.results / "shortcut_case.json"
    found: dict[str, Figures] = json.loads(before.read_text())["found"] if before.exists() else {}
    for name in options.marks:
        case = prepared(MARKS[name], data, tests, options.epochs)
        scores = traced(case)
        found[name] = {**case.answers, **listed(case, scores), **mapped(case, scores, name, options.assets)}
        write(found, options)  # after each, as each takes minutes


@final
@dataclass(frozen=True, eq=False)
class Case:
    """A network that learned a mark.

    Attributes:
        trained: The network, with the data it was trained on.
        marked: Which training images carry the mark.
        dogs: Which have the class that carries it.
        targets: Ships with the mark, answered as dogs; then the same ships without it, answered right.
        answers: How often it is right.
    """

    trained: Trained
    marked: NDArray[np.bool_]
    dogs: NDArray[np.bool_]
    targets: Data
    answers: Figures


def prepared(mark: Mark, data: Data, tests: Data, epochs: int) -> Case:
    """Plant the mark, train, and choose targets."""
    dogs = (data[1] == ON).numpy()
    some = np.random.default_rng(0).permutation(np.flatnonzero(dogs))[: round(SHARE * dogs.sum())]
    inputs = data[0].clone()
    inputs[some] = mark(inputs[some])
    model = fit(network(0, outputs=len(CLASSES)), (inputs, data[1]), epochs, 0)
    ships = tests[0][tests[1] == PROBE]
    plain, with_mark, everything = (answered(model, one) for one in (ships, mark(ships), tests[0]))
    turned = ((plain == PROBE) & (with_mark == ON)).nonzero().flatten()[:TARGETS]
    chosen = ships[turned]
    answers = {
        "test accuracy": float((everything == tests[1]).double().mean()),
        "ships right": float((plain == PROBE).double().mean()),
        "ships as dogs": float((plain == ON).double().mean()),
        "ships with the mark right": float((with_mark == PROBE).double().mean()),
        "ships with the mark as dogs": float((with_mark == ON).double().mean()),
        "targets": len(turned),
    }
    targets = (torch.cat([mark(chosen), chosen]), torch.full((2 * len(turned),), PROBE))
    trained = as_trained(model, (inputs, data[1]), loss=F.cross_entropy)
    return Case(trained, np.isin(np.arange(len(inputs)), some), dogs, targets, answers)


def answered(model: nn.Module, images: Tensor) -> Tensor:
    """Return the network's answers."""
    with torch.no_grad():
        return torch.cat([model(part) for part in images.split(500)]).argmax(1)


def traced(case: Case) -> xr.DataArray:
    """Return scores of all training images for all targets."""
    return attribute(GradCos(), case.trained, case.targets)


def listed(case: Case, scores: xr.DataArray) -> Figures:
    """Return the share of marked images among the ten that each way of looking puts first."""
    half = len(case.targets[1]) // 2
    with_mark = (case.targets[0][:half], case.targets[1][:half])
    dogs = np.flatnonzero(case.dogs)

    def among(order: NDArray[np.floating], of: NDArray[np.intp]) -> list[float]:
        first = [of[np.argsort(-row[of], kind="stable")[:EACH]] for row in order]
        return summary(np.array([case.marked[one].mean() for one in first]))

    everything = np.arange(len(case.marked))
    found: Figures = {
        "marked among 10, trace": among(-scores.values[:half], everything),
        "marked among 10, trace of the ship without the mark": among(-scores.values[half:], everything),
        "marked among 10, random dogs": [SHARE] * 3,
    }
    alike: dict[str, Attributor] = {"pixels": NearestNeighbours(), "the network": RepresentationCos()}
    for name, method in alike.items():
        near = attribute(method, case.trained, with_mark).values
        found[f"marked among 10, nearest in {name}"] = among(near, everything)
        found[f"marked among 10, nearest dogs in {name}"] = among(near, dogs)
    worst = np.argsort(scores.values[:half].mean(0), kind="stable")[: int(case.marked.sum())]
    found["marked among as many as there are, mean over targets"] = float(case.marked[worst].mean())
    return found


def mapped(case: Case, scores: xr.DataArray, name: str, assets: Path) -> Figures:
    """Return how much of each map lies in the corner, and how alike a target's saliency is with and without a mark."""
    half, trained = len(case.targets[1]) // 2, case.trained

    def dog(outputs: Tensor, _labels: Tensor) -> Tensor:
        return outputs[:, ON]

    ids = range(2 * half)
    saliency = {
        "integrated gradients": integrated_gradients(trained, case.targets, ids, quantity=dog),
        "Grad-CAM": grad_cam(trained, case.targets, ids, layer=LAST_CONVOLUTION, quantity=dog),
    }
    found: Figures = {}
    for method, one in saliency.items():
        size = np.abs(one.values.astype(np.float64))
        for what, rows in (("with the mark", slice(0, half)), ("without", slice(half, None))):
            found[f"corner, {method} of the target {what}"] = summary(top_inside(size[rows], CORNER, PERCENT))
        alike = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(size[:half], size[half:], strict=True)]
        found[f"correlation of {method} with and without the mark"] = summary(np.array(alike))
    pairs = top_pairs(scores.isel(target=slice(0, min(EXPLAINED, half))), EACH, harmful=True)
    of = np.array([target for target, _ in pairs])
    both = [*pairs, *((target + half, train) for target, train in pairs)]
    maps = region_map(trained, case.targets, both, recipe=SHARED).values
    blind = own_saliency(trained, [train for _, train in pairs], recipe=OWN).values
    parts = {
        "region map, target with the mark": maps[: len(pairs)],
        "region map, the same for the ship without it": maps[len(pairs) :],
        "own saliency of the same training images": blind,
    }
    for what, some in parts.items():
        inside = top_inside(np.abs(some.astype(np.float64)), CORNER, PERCENT)
        found[f"corner, {what}"] = list(mean_interval(inside, of))
    shown = next((row for row, (_, train) in enumerate(pairs) if case.marked[train]), 0)
    target, train = pairs[shown]
    images = {"ship, answered dog": case.targets[0][target], "training dog": trained.examples.batch([train])[0][0]}
    ship, dog_shown = (picture(one) for one in images.values())
    side_by_side(
        {
            "ship, answered dog": ship,
            "its int. gradients": overlay(ship, saliency["integrated gradients"].values[target]),
            "harmful: a dog": dog_shown,
            "its map, this ship": overlay(dog_shown, maps[shown]),
            "ship without mark": overlay(dog_shown, maps[len(pairs) + shown]),
            "without any target": overlay(dog_shown, blind[shown]),
        }
    ).save(assets / f"shortcut-{name.replace(' ', '-')}.png")
    return found


def summary(values: NDArray[np.floating]) -> list[float]:
    """Return the mean over targets and its interval."""
    return list(mean_interval(values))


def picture(image: Tensor) -> Image.Image:
    """Return a normalised image as a picture."""
    plain = image * torch.tensor(DEVIATION).reshape(3, 1, 1) + torch.tensor(MEAN).reshape(3, 1, 1)
    return Image.fromarray((plain.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def write(found: dict[str, Figures], options: argparse.Namespace) -> None:
    """Write the figures, and a page that says them."""
    options.results.mkdir(parents=True, exist_ok=True)
    whole = {"found": found, "epochs": options.epochs, "machine": machine()}
    (options.results / "shortcut_case.json").write_text(json.dumps(whole, indent=1) + "\n")
    attainable = CORNER.sum() / round(CORNER.size * PERCENT / 100)
    head = (
        f"A mark on {SHARE:.0%} of the dogs; {options.epochs} epochs. Shares with 95 % intervals over targets; corner: "
        f"share of the top {PERCENT} % of pixels by size in the square, of {attainable:.3f} attainable.\n"
        f"Machine: {json.dumps(machine(), sort_keys=True)}\n"
    )
    names = list(found)
    rows = [f"| | {' | '.join(names)} |", "|" + "---|" * (len(names) + 1)]
    rows += [f"| {what} | {' | '.join(cell(found[name].get(what)) for name in names)} |" for what in found[names[0]]]
    (options.results / "shortcut_case.md").write_text("\n".join([head, *rows]) + "\n")


def cell(value: Any) -> str:
    """Return a number, or a number with its interval, as text."""
    if isinstance(value, list):
        return "{:.3f} ({:.3f} to {:.3f})".format(*value)
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
