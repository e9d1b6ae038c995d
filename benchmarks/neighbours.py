"""The k nearest of many targets: every distance by torch, and faiss's flat and graph indexes: time, recall, memory.

    pip install -e ".[index]"
    python -m benchmarks.neighbours --data-dir MNIST --threads 1

60,000 training images of MNIST, 10,000 test images as targets, k = 10, pixels in float32. Each variant runs in a
process of its own: fitting, building the index with the first target, then one search of all targets. Its memory is
the peak of that process above where it stood when the images were read, while 256 targets are searched. Seconds are
the processor's, of all threads. Results: ``benchmarks/results/neighbours.*``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks._machine import machine
from benchmarks._mnist import arguments
from whence import as_examples
from whence.attribution import FlatIndex, HNSWIndex, Index, NearestNeighbours, as_trained, vectors
from whence.datasets import load_mnist

K = 10
VARIANTS: dict[str, Index | None] = {
    "every distance, torch": None,
    "FlatIndex()": FlatIndex(),
    "HNSWIndex(breadth=32)": HNSWIndex(breadth=32),
    "HNSWIndex()": HNSWIndex(),
    "HNSWIndex(breadth=256)": HNSWIndex(breadth=256),
}


def main() -> None:
    """Measure and write."""
    parser = arguments("Nearest neighbours with and without an index.")
    parser.add_argument("--once", choices=VARIANTS, help="run one variant and print what it took")
    parser.add_argument("--memory-only", action="store_true", help="with --once: measure no more than the memory")
    parser.add_argument("--found", type=Path, help="with --once: where to keep what was found")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.once:
        print(json.dumps(once(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: variant(options, name, Path(folder) / "found.npy") for name in VARIANTS}
    truth = next(iter(rows.values()))["found"]
    found = {
        "k": K,
        "variants": {
            name: {key: value for key, value in row.items() if key != "found"}
            | {"recall": float((truth[:, :, None] == row["found"][:, None]).any(2).mean())}
            for name, row in rows.items()
        },
        "same_as_exact": bool((rows["FlatIndex()"]["found"] == truth).all()),
        "machine": machine(),
    }
    write(found, options.results)


def variant(options: argparse.Namespace, name: str, found: Path) -> dict[str, Any]:
    """Run a variant in a process of its own; return what it took and found."""
    call = [sys.executable, "-m", "benchmarks.neighbours", "--once", name, "--found", str(found)]
    call += ["--data-dir", str(options.data_dir), "--threads", str(options.threads)]
    said = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    return row | {"found": np.load(found)}


def once(options: argparse.Namespace) -> dict[str, float]:
    """Return seconds and memory of one variant."""
    index = VARIANTS[options.once]
    if index is None:
        vectors._MANY = 10**18  # so that no index is taken
    else:
        import faiss

        faiss.omp_set_num_threads(options.threads)
    train, targets = (as_examples(load_mnist(options.data_dir, one)) for one in ("train", "test"))
    data = tuple(one.float() if one.is_floating_point() else one for one in train.batch(range(len(train))))
    queries = as_examples((targets.batch(range(len(targets)))[0].float(), targets.labels))
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    trained, before = as_trained(model, data, loss=F.cross_entropy), memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start = time.process_time()
    fitted = NearestNeighbours().fit(trained, memory_budget=2**30)
    fitted.nearest(queries, [0], K, index=index)
    built = time.process_time()
    fitted.nearest(queries, range(256), K, index=index)
    peak = memory("VmHWM")
    if options.memory_only:
        return {"memory": peak - before}
    begun = time.process_time()
    near = fitted.nearest(queries, range(len(queries)), K, index=index)
    searched = time.process_time()
    np.save(options.found, near["train"].values)
    return {"build": built - start, "search": searched - begun, "memory": peak - before}


def memory(entry: str) -> float:
    """Return an entry of this process's status in MiB: VmRSS now, VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(entry):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {entry} in /proc/self/status: memory is read on Linux only")


def write(found: dict[str, Any], results: Path) -> None:
    """Write the figures, and a page that says them."""
    results.mkdir(parents=True, exist_ok=True)
    (results / "neighbours.json").write_text(json.dumps(found, indent=1) + "\n")
    same = "the same as" if found["same_as_exact"] else "not all the same as"
    rows = [
        f"| `{name}` | {row['build']:.1f} | {row['search']:.1f} | {row['recall']:.4f} | {row['memory']:.0f} |"
        for name, row in found["variants"].items()
    ]
    lines = [
        f"The {found['k']} nearest of 60,000 MNIST training images for 10,000 test images, pixels, Euclidean, float32; "
        f"one run of each variant, processor seconds. What `FlatIndex` finds, in its order, is {same} "
        "what comparing every pair finds.",
        f"Machine: {json.dumps(found['machine'], sort_keys=True)}",
        "",
        "| variant | fit, index and one target, s | 10,000 targets, s | recall | peak memory above the data, MiB |",
        "|---|---|---|---|---|",
        *rows,
    ]
    (results / "neighbours.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
