"""Tests that a sound attributor passes: identical class, identical subclass, shared influence of copies.

    python -m benchmarks.sanity --data-dir MNIST

The small convolutional network of `benchmarks.attributors` on the first 2,000 training images of MNIST, 100 test
images. Identical class (Hanawa et al. 2021, 4.2): share of the most helpful examples that have the class predicted
for the target. Identical subclass (4.3): the network learns even against odd alone, and the most helpful examples
should show the target's digit all the same. Copies (PLGK, remark 5.3): 20 images are in the data three times; of each
copy's score, how uneven they are, and how large beside the image's score in a training that has it once. Where a
method loses to the controls the tables say so. Results: ``benchmarks/results/sanity.json`` and ``.md``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from benchmarks._machine import machine
from benchmarks._mnist import arguments, keep_freed_memory
from benchmarks._networks import Data, images
from benchmarks.attributors import recorded, row_name
from whence import evaluation
from whence.attribution import (
    Attributor,
    GradCos,
    GradDot,
    Influence,
    NearestNeighbours,
    PathAudit,
    PathSimilarity,
    Random,
    RepresentationCos,
    RepresentationDot,
    SameClass,
    TracIn,
    as_trained,
    attribute,
)
from whence.runs import Run

TRAIN, TARGETS, COPIED, COPIES = 2000, 100, 20, 3
METHODS: tuple[Attributor, ...] = (
    GradDot(), GradCos(), TracIn(), PathSimilarity(), PathAudit(), Influence(0.01, layers="last"),
    RepresentationCos(), RepresentationDot(), NearestNeighbours(), SameClass(), Random(),
)  # fmt: skip
SHARED = tuple(one for one in METHODS if not isinstance(one, SameClass | Random | PathSimilarity | GradCos))


def main() -> None:
    """Measure and write."""
    options = arguments("Sanity tests of attributors.").parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    data, tests = images(options.data_dir, "train", TRAIN), images(options.data_dir, "test", TARGETS)
    with tempfile.TemporaryDirectory() as folder:
        tables = measure(data, tests, Path(folder))
    found = {"machine": machine(), "tables": {name: one.data.to_dict() for name, one in tables.items()}}
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "sanity.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        f"Small convolutional network, first {TRAIN} training images of MNIST, {TARGETS} targets; see the script.",
        f"Machine: {json.dumps(found['machine'], sort_keys=True)}",
        *(f"## {name.capitalize()}\n\n{one}" for name, one in tables.items()),
    ]
    (options.results / "sanity.md").write_text("\n\n".join(lines) + "\n")


def measure(data: Data, tests: Data, folder: Path) -> dict[str, evaluation.Table]:
    """Return the three tables."""
    run = recorded(folder / "run", data)
    with torch.no_grad():
        predicted = as_trained(run).model(tests[0]).argmax(1)
    halves = recorded(folder / "halves", (data[0], data[1] % 2))
    even = (tests[0], tests[1] % 2)
    return {
        "identical class": evaluation.identical_class(scored(METHODS, run, tests), predicted, data[1]),
        "identical subclass": evaluation.identical_class(scored(METHODS, halves, even), tests[1], data[1]),
        "copies": copies(data, tests, folder),
    }


def scored(methods: tuple[Attributor, ...], run: Run, tests: Data) -> dict[str, xr.DataArray]:
    """Return the scores of every method."""
    return {row_name(one): attribute(one, run, tests) for one in methods}


def copies(data: Data, tests: Data, folder: Path) -> evaluation.Table:
    """Return how copies share their influence."""
    ids = torch.randperm(TRAIN, generator=torch.Generator().manual_seed(0))[:COPIED]
    again = ids.repeat(COPIES - 1)
    more = (torch.cat([data[0], data[0][again]]), torch.cat([data[1], data[1][again]]))
    groups = [[one, *(TRAIN + COPIED * time + place for time in range(COPIES - 1))]
              for place, one in enumerate(ids.tolist())]  # fmt: skip
    several = scored(SHARED, recorded(folder / "copies", more), tests)
    single: dict[str, Any] = scored(SHARED, recorded(folder / "run", data), tests)
    alone = {name: one.reindex(train=several[name].train, fill_value=0.0) for name, one in single.items()}
    return evaluation.duplicates(several, groups, alone=alone)


if __name__ == "__main__":
    main()
