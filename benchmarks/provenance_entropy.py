"""Does the entropy of the index find wrong labels and outliers? Both signs, beside controls, over several trainings.

    python -m benchmarks.provenance_entropy

600 of scikit-learn's digits, drawn anew for each seed; a tenth of them is given another label (`add_label_noise`), or
its pixels are shuffled (`add_outliers`). A small network of one hidden layer, class-conditional and class-independent,
learns class and index of what came of it; see the script for how. Told is the area under the ROC curve of low entropy
of the index (high entropy has one less it), the loss over the classes, and the share of the ten nearest others that
have another label, in pixels and in the network's embedding: means over the seeds, with 95 % intervals by Student's t.
Results: ``benchmarks/results/provenance_entropy.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks._machine import machine
from whence import as_examples
from whence._statistics import Interval, student_interval
from whence.datasets import load_digits
from whence.evaluation import add_label_noise, add_outliers, entropy_detection
from whence.provenance import Objective, Optimization, ProvenanceNetwork, one_cycle, train

EXAMPLES, SHARE, EPOCHS = 600, 0.1, 40
NETWORKS = {"class-conditional": True, "class-independent": False}
Data = tuple[Tensor, Tensor]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Entropy of the index as a sign of odd training examples.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = time.process_time()
    areas: dict[str, list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        for kind, (data, changed) in odd(digits(seed), seed).items():
            for name, conditional in NETWORKS.items():
                table = entropy_detection(network_of(data, seed, conditional=conditional), data, changed)
                row = {score: table.value(score, "AUROC").estimate for score in table.data["score"].values.tolist()}
                areas.setdefault(f"{kind}, {name}", []).append(row)
    found = {
        "seeds": options.seeds,
        "seconds": time.process_time() - start,
        "areas": {setting: intervals(rows) for setting, rows in areas.items()},
        "machine": machine(),
    }
    write(found, options.results)


def digits(seed: int) -> Data:
    """Return some of the digits."""
    examples = as_examples(load_digits("train"))
    inputs, labels = examples.batch(range(len(examples)))
    rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:EXAMPLES]
    return inputs[rows], labels[rows]


def odd(data: Data, seed: int) -> dict[str, tuple[Data, Tensor]]:
    """Return the data with wrong labels, and with outliers, and which they are."""
    noisy = add_label_noise(data[1], SHARE, classes=10, seed=seed)
    shuffled = add_outliers(data[0], SHARE, seed=seed)
    return {
        "wrong labels": ((data[0], noisy.labels), noisy.changed),
        "outliers": ((shuffled.inputs, data[1]), shuffled.changed),
    }


def network_of(data: Data, seed: int, *, conditional: bool) -> ProvenanceNetwork:
    """Return a trained network."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
    network = ProvenanceNetwork(backbone, data, conditional=conditional)
    steps = Optimization(rate=1e-2, batch_size=64, schedule=one_cycle)
    train(network, data, EPOCHS, objective=Objective(smoothing=0.0), optimization=steps, seed=seed)
    return network


def intervals(rows: list[dict[str, float]]) -> dict[str, Interval]:
    """Return the mean over seeds of each score's area."""
    scores = [score for score in rows[0] if score != "high entropy"]
    return {score: student_interval(np.array([row[score] for row in rows])) for score in scores}


def write(found: dict[str, Any], results: Path) -> None:
    """Write the figures, and a page that says them."""
    results.mkdir(parents=True, exist_ok=True)
    (results / "provenance_entropy.json").write_text(json.dumps(found, indent=1) + "\n")
    areas: dict[str, dict[str, Interval]] = found["areas"]
    scores = list(next(iter(areas.values())))
    lines = [
        f"{EXAMPLES} digits, {SHARE:.0%} of them odd, {EPOCHS} epochs; area under the ROC curve, mean of "
        f"{found['seeds']} trainings with 95 % interval (Student's t, which may end beyond 1); 0.5 by chance. "
        f"High entropy has one less the area of low entropy. "
        f"{found['seconds']:.0f} CPU seconds in all; see the script.",
        f"Machine: {json.dumps(found['machine'], sort_keys=True)}",
        "",
        f"| odd, network | {' | '.join(scores)} |",
        "|" + "---|" * (len(scores) + 1),
    ]
    for setting, one in areas.items():
        cells = [f"{area.estimate:.3f} ({area.low:.3f} to {area.high:.3f})" for area in one.values()]
        lines.append(f"| {setting} | {' | '.join(cells)} |")
    (results / "provenance_entropy.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
