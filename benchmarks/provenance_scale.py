"""Index heads at scale: a million examples within 4 GiB, and 10,000 queries over 60,000 exemplars beside faiss.

    python -m benchmarks.provenance_scale

A million synthetic examples, points of 32 numbers of 10 classes, and a small network of two layers. The heads: a
cosine head with sparse rows, and codes, both against 1,024 drawn examples a step. Each is trained for one epoch in a
process of its own, whose peak memory is the operating system's count; then 2,000 noisy copies of training points are
looked up among all. The paper's linear head, 2,048 wide, is counted: weights, gradients
and Adam's two moments in float32. Retrieval: one network of width 128 over 60,000 examples answers 10,000 queries, in
the same process as a faiss flat index over the same rows. Results: ``benchmarks/results/provenance_scale.json`` and
``.md``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks._machine import machine
from whence import provenance
from whence.provenance import CodeHead, CosineHead, Objective, Optimization

MANY, WIDTH, INPUTS, CLASSES, LOOKED_UP, NOISE = 1_000_000, 128, 32, 10, 2000, 0.1
EXEMPLARS, QUERIES, K = 60_000, 10_000, 5
HEADS: dict[str, tuple[Any, int]] = {
    "cosine, sparse rows, 1,024 drawn": (partial(CosineHead, sparse=True), 1024),
    "codes, 1,024 drawn": (partial(CodeHead, base=256, levels=2, last=4096), 1024),
}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Index heads of a million examples.")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--many", type=int, default=MANY)
    parser.add_argument("--once", choices=HEADS, help="train one head and print what it took")
    options = parser.parse_args()
    if options.once:
        print(json.dumps(trained(options.once, options.many)))
        return
    found: dict[str, Any] = {"examples": options.many, "machine": machine(), "heads": {}, "retrieval": retrieval()}
    for name in HEADS:
        command = [sys.executable, "-m", "benchmarks.provenance_scale", "--once", name, "--many", str(options.many)]
        found["heads"][name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(name, found["heads"][name], flush=True)
        write(found, options.results)


def network_of(data: Any, head: Any) -> provenance.ProvenanceNetwork:
    """Return a small network with a head."""
    torch.manual_seed(0)
    return provenance.ProvenanceNetwork(nn.Sequential(nn.Linear(INPUTS, 256), nn.ReLU()), data, head=head)


def trained(name: str, many: int) -> dict[str, float]:
    """Train a head for an epoch; return parameters, seconds, peak GiB, and how many noisy copies it finds."""
    generator = torch.Generator().manual_seed(0)
    data = (torch.randn(many, INPUTS, generator=generator), torch.arange(many) % CLASSES)
    head, negatives = HEADS[name]
    network = network_of(data, head)
    start = time.perf_counter()
    provenance.train(
        network,
        data,
        1,
        objective=Objective(smoothing=0.0, negatives=negatives),
        optimization=Optimization(batch_size=1024, schedule=provenance.one_cycle),
    )
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows = torch.randperm(many, generator=generator)[:LOOKED_UP]
    noisy = data[0][rows] + NOISE * torch.randn(LOOKED_UP, INPUTS, generator=generator)
    first = torch.from_numpy(provenance.retrieve(network, noisy, 1).exemplar.values[:, 0])
    parameters = sum(one.numel() for one in network.parameters())
    return {"parameters": parameters, "seconds": seconds, "peak": peak, "found": float((first == rows).float().mean())}


def retrieval() -> dict[str, float]:
    """Return the seconds of 10,000 queries: ours with probabilities, and faiss's on the same rows."""
    import faiss

    generator = torch.Generator().manual_seed(0)
    data = (torch.randn(EXEMPLARS, INPUTS, generator=generator), torch.arange(EXEMPLARS) % CLASSES)
    network = network_of(data, CosineHead)
    rows = F.normalize(provenance.embeddings(network, data[0]), dim=1)
    network.head.initialise(rows)
    queries = data[0][:QUERIES]
    faiss.omp_set_num_threads(torch.get_num_threads())
    seconds: dict[str, float] = {}
    for _ in range(2):  # the second counts
        start = time.perf_counter()
        ours = provenance.retrieve(network, queries, K)
        seconds["retrieve"] = time.perf_counter() - start
        start = time.perf_counter()
        index = faiss.IndexFlatIP(WIDTH)
        index.add(rows.numpy())
        _, theirs = index.search(F.normalize(provenance.embeddings(network, queries), dim=1).numpy(), K)
        seconds["faiss"] = time.perf_counter() - start
    return seconds | {"same first": float((ours.exemplar.values[:, 0] == theirs[:, 0]).mean())}


def write(found: dict[str, Any], results: Path) -> None:
    """Write the figures, and a page that says them."""
    results.mkdir(parents=True, exist_ok=True)
    (results / "provenance_scale.json").write_text(json.dumps(found, indent=1) + "\n")
    linear, times = found["examples"] * 2049, found["retrieval"]
    lines = [
        f"{found['examples']:,} synthetic examples, one epoch, batches of 1,024; {LOOKED_UP:,} noisy copies looked up.",
        f"Machine: {json.dumps(found['machine'], sort_keys=True)}",
        "",
        "| head | parameters | training, s | peak memory, GiB | noisy copies found |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {one['parameters']:,} | {one['seconds']:.0f} | {one['peak']:.2f} | {one['found']:.3f} |"
            for name, one in found["heads"].items()
        ),
        f"| the paper's linear, counted, not run | {linear:,} | | {linear * 16 / 2**30:.1f} | |",
        "",
        f"{QUERIES:,} queries over {EXEMPLARS:,} exemplars, five each: {times['retrieve']:.1f} s with probabilities "
        f"and entropies, faiss flat index {times['faiss']:.1f} s; the first is the same for {times['same first']:.4f}.",
    ]
    (results / "provenance_scale.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
