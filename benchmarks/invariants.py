"""Invariants of networks on MNIST and CIFAR-10: every solver, the same prior, the same budget.

    python -m benchmarks.invariants --data mnist --cache CACHE       # trains networks, prior and autoencoder first
    python -m benchmarks.invariants --data cifar10 --cache CACHE

A convolutional classifier; objectives: the logit of the query's class, a hidden unit after its ReLU that speaks on the
query, a feature of a sparse autoencoder of that hidden layer, all ten logits. Four queries, 32 samples each. A sample
is solved within 0.01 of the query's values (root mean square over them). Evaluations are those of the prior's network; a
pass back counts as two; all searches that start from the pool share its cost. Realism and diversity are those of
`whence.evaluation.invariance`, in the features of a second network, trained apart.

Results: ``benchmarks/results/invariants-DATA.json`` and ``.md``, galleries and the curves of figure 4.5 beside them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from whence import as_examples
from whence._errors import ArgumentError, UnreachedError
from whence.datasets import load_mnist, load_parquet
from whence.evaluation.invariance import Standard
from whence.invariants import (
    FirstOrder,
    GaussNewton,
    InfiniteOptimization,
    InvariantSet,
    LatentFlow,
    Metropolis,
    Objective,
    Pixels,
    Pool,
    Prior,
    Solver,
    evaluations,
    feature,
    invariants,
    load_prior,
    logits,
    neuron,
    train_prior,
)
from whence.invariants.autoencoders import TopK, load_autoencoder, save_autoencoder, train_autoencoder

QUERIES, SAMPLES, REAL = 4, 32, 5000
BUDGET = {"logit": 3000, "neuron": 3000, "feature": 3000, "ten logits": 6000}
RATES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
FILTER = 0.5
CLOSE = {"logit": 0.1, "neuron": 0.05, "feature": 0.05}  # of the prior's own invariants, in the objective's unit
LAYER = "8"  # after the classifier's hidden layer
Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """Everything that is asked of one data set."""

    train: Data
    test: Data
    classifier: nn.Module
    features: Callable[[Tensor], Tensor]
    prior: LatentFlow
    autoencoder: Any


def network(channels: int, colours: int, side: int, act: Callable[[], nn.Module], seed: int) -> nn.Sequential:
    """Return a network of three convolutions and a hidden layer of 64."""
    torch.manual_seed(seed)
    last = 2 * channels * (-(-side // 8)) ** 2
    return nn.Sequential(
        nn.Conv2d(colours, channels, 3, stride=2, padding=1), act(),
        nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1), act(),
        nn.Conv2d(2 * channels, 2 * channels, 3, stride=2, padding=1), act(),
        nn.Flatten(), nn.Linear(last, 64), act(), nn.Linear(64, 10),
    )  # fmt: skip


def trained(net: nn.Sequential, data: Data, epochs: int, path: Path) -> nn.Sequential:
    """Train a network, or read it from where it was kept."""
    if path.exists():
        safetensors.torch.load_model(net, path)
        return net.eval().requires_grad_(False)
    optimizer = Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(data[0])).split(128):
            optimizer.zero_grad()
            F.cross_entropy(net(data[0][rows]), data[1][rows]).backward()
            optimizer.step()
    safetensors.torch.save_model(net, path)
    return net.eval().requires_grad_(False)


def load(name: str, folder: Path) -> tuple[Data, Data]:
    """Return training and test images from 0 to 1 with their labels."""
    parts = []
    for split in ("train", "test"):
        found = load_mnist(folder, split) if name == "mnist" else load_parquet(folder, split)
        examples = as_examples(found)
        inputs, labels = examples.batch(range(len(examples)))
        parts.append((inputs, labels))
    return parts[0], parts[1]


def case(name: str, folder: Path, cache: Path) -> Case:
    """Train or read all that is needed."""
    train, test = load(name, folder)
    colours, side = train[0].shape[1], train[0].shape[2]
    epochs = 3 if name == "mnist" else 10
    classifier = trained(
        network(16, colours, side, nn.ReLU, 0), train, epochs, cache / f"{name}-classifier.safetensors"
    )
    other = trained(network(24, colours, side, nn.SiLU, 1), train, epochs, cache / f"{name}-features.safetensors")
    prior_path, autoencoder_path = cache / f"{name}-prior", cache / f"{name}-autoencoder"
    prior = load_prior(prior_path) if (prior_path / "prior.json").exists() else train_prior(train, prior_path)
    if not autoencoder_path.exists():
        save_autoencoder(
            train_autoencoder(classifier, LAYER, train, features=256, activation=TopK(8), held_out=test),
            autoencoder_path,
        )
    return Case(train, test, classifier, other[:LAYER_INDEX], prior, load_autoencoder(autoencoder_path))


LAYER_INDEX = int(LAYER) + 1


def accuracy(net: nn.Module, data: Data) -> float:
    """Return the share of images answered rightly."""
    with torch.no_grad():
        return float((torch.cat([net(part) for part in data[0].split(1000)]).argmax(1) == data[1]).float().mean())


def queries(one: Case) -> list[int]:
    """Return the first test images that are answered rightly, of different classes."""
    found: dict[int, int] = {}
    with torch.no_grad():
        answers = one.classifier(one.test[0][:200]).argmax(1)
    for place, (answer, label) in enumerate(zip(answers.tolist(), one.test[1][:200].tolist(), strict=True)):
        if answer == label:
            found.setdefault(label, place)
    return list(found.values())[:QUERIES]


def objectives(one: Case, place: int) -> dict[str, Objective]:
    """Return what is kept of a query: its class's logit, the unit and the feature that speak most, all logits."""
    query = one.test[0][place : place + 1]
    with torch.no_grad():
        hidden = neuron(one.classifier, LAYER)(query)[0]
        codes = one.autoencoder.autoencoder.encode(hidden[None])[0]
    return {
        "logit": logits(one.classifier, [int(one.test[1][place])]),
        "neuron": neuron(one.classifier, LAYER, int(hidden.argmax())),
        "feature": feature(one.classifier, LAYER, one.autoencoder.autoencoder, int(codes.argmax())),
        "ten logits": logits(one.classifier),
    }


def solvers(one: Case, kind: str, budget: int) -> dict[str, tuple[Solver, Prior, bool]]:
    """Return each solver with its prior, and whether it starts from the pool."""
    cost = 3 * evaluations(one.prior)
    steps = budget // cost
    coarse = (one.prior.with_steps(1),)
    plain: dict[str, tuple[Solver, Prior, bool]] = {
        "Gauss-Newton": (GaussNewton(), one.prior, True),
        "Gauss-Newton, coarse first": (GaussNewton(coarse=coarse), one.prior, True),
        "Gauss-Newton, no pool": (GaussNewton(), one.prior, False),
        "Gauss-Newton, derivatives anew": (GaussNewton(secant=False), one.prior, True),
        "exact (Metropolis)": (Metropolis(), one.prior, True),
        "Algorithm 1 as written": (InfiniteOptimization(cutoff=FILTER, steps=steps), one.prior, False),
    }
    for rate in RATES:
        plain[f"Algorithm 1 without filter, rate {rate:g}"] = (
            InfiniteOptimization(rate=rate, cutoff=None, steps=steps), one.prior, False,
        )  # fmt: skip
    adam = {"optimizer": Adam, "rate": 0.05, "steps": steps}
    plain["Adam, rate 0.05"] = (FirstOrder(**adam), one.prior, False)
    plain["Adam, rate 0.05, length kept"] = (FirstOrder(**adam, renormalise=True), one.prior, False)
    plain["pixels, Adam"] = (FirstOrder(Adam, rate=0.05, steps=budget // 3), Pixels.of(one.train), False)
    if kind == "ten logits":
        del plain["exact (Metropolis)"]
    return plain


def searched(
    one: Case, kind: str, objective: Objective, query: Tensor, pool: Pool, name: str
) -> tuple[InvariantSet, float]:
    """Run one solver from one query and return what it found, with the CPU seconds that it took."""
    solver, prior, pooled = solvers(one, kind, BUDGET[kind])[name]
    begun = time.process_time()
    try:
        found = invariants(
            objective, query, prior, SAMPLES, solver=solver, pool=pool if pooled else 0, budget=BUDGET[kind], seed=1
        )
    except UnreachedError as error:
        found = error.found
    return found, time.process_time() - begun


def row(
    founds: Sequence[InvariantSet], seconds: float, spread: float, share: float, standards: Sequence[Standard]
) -> dict[str, Any]:
    """Return the figures of one solver over all queries."""
    told = [one.certificate for one in founds]
    solved = int(sum(one.solved.sum() for one in founds))
    spent = float(sum(one.evaluations.sum() for one in told))
    residuals = np.concatenate([one.residual.values for one in told])
    kept = np.concatenate([one.solved for one in founds])
    real = [
        standard.of(found.only(found.solved).inputs)
        for found, standard in zip(founds, standards, strict=True)
        if found.solved.sum() >= 2
    ]
    names = sorted({name for one in real for name in one})
    return {
        "samples": len(residuals),
        "solved": solved,
        "median_residual": float(np.median(residuals)),
        "greatest_solved_residual": float(residuals[kept].max()) if solved else None,
        "median_residual_in_spreads": float(np.median(residuals)) / spread,
        "evaluations_per_solved": spent / solved if solved else None,
        "evaluations_with_pool": (spent + share) / solved if solved else None,
        "seconds_per_solved": seconds / solved if solved else None,
        "quantile": float(np.median(np.concatenate([one.latent_quantile.values for one in told]))),
        "statuses": {
            str(name): int(count)
            for name, count in zip(
                *np.unique(np.concatenate([one.status.values for one in told]), return_counts=True), strict=True
            )
        },
        **{name: float(np.mean([one[name] for one in real if name in one])) for name in names},
    }


def measure(one: Case, kind: str, pool: Pool, names: Sequence[str] | None) -> dict[str, Any]:
    """Run every solver of an objective from all queries."""
    places = queries(one)
    asked = [(objectives(one, place)[kind], one.test[0][place]) for place in places]
    values = torch.cat([objective(pool.inputs) for objective, _ in asked])
    spread = float(values.var(0, correction=0).mean().sqrt())
    standards = [standard(one, kind, objective, query, pool) for objective, query in asked]
    share = len(pool) * evaluations(one.prior) / len(BUDGET)  # of the four objectives; all queries of one are in a row
    told: dict[str, Any] = {}
    for name in names or list(solvers(one, kind, BUDGET[kind])):
        runs = [searched(one, kind, objective, query, pool, name) for objective, query in asked]
        pooled = solvers(one, kind, BUDGET[kind])[name][2]
        told[name] = row(
            [found for found, _ in runs], sum(seconds for _, seconds in runs), spread, share if pooled else 0, standards
        )
        print(kind, name, {key: told[name].get(key) for key in SHOWN}, flush=True)
    return {"solvers": told, "queries": places, "spread": spread, "budget": BUDGET[kind]}


SHOWN = ("solved", "median_residual", "evaluations_per_solved", "precision", "prior_precision", "quantile")


def standard(one: Case, kind: str, objective: Objective, query: Tensor, pool: Pool) -> Standard:
    """Return what the samples of a query are held against."""
    rejected = None
    if kind in CLOSE:
        with torch.no_grad():
            goal = objective(query[None])[0]
        try:
            rejected = rejected_from(
                objective, goal, one.prior, within=CLOSE[kind], wanted=64, draws=20_480, seed=7
            ).inputs
        except ArgumentError:
            rejected = None
    return Standard(one.features, one.test[0][:REAL], pool.inputs[:1024], rejected)
