"""Invariants of networks on MNIST and CIFAR-10: every solver, the same prior, the same budget.

    python -m benchmarks.invariants --data mnist --cache CACHE       # trains networks, prior and autoencoder first
    python -m benchmarks.invariants --data cifar10 --cache CACHE

A convolutional classifier; objectives: the logit of the query's class, a hidden unit after its ReLU that speaks on the
query, a feature of a sparse autoencoder of that hidden layer, all ten logits. Three queries, 32 samples each. A sample
is solved within 0.01 of the values of the query (root mean square). Evaluations are those of the prior's network: a
pass back counts as two; all searches that start from the pool share its cost. Realism and diversity are those of
`whence.evaluation.invariance`, in the features of a second network, trained apart.

Results: ``benchmarks/results/invariants-DATA.json`` and ``.md``, galleries and the curves of figure 4.5 beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim import Adam

from benchmarks._machine import machine, processor
from benchmarks._mnist import keep_freed_memory
from benchmarks._pictures import save_figure
from whence import as_examples
from whence._errors import ArgumentError, UnreachedError
from whence.datasets import load_mnist, load_parquet
from whence.evaluation.invariance import CUTOFFS, Standard, rejected_from, spectral_deviation, spectrum_beside
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
    draw_pool,
    evaluations,
    feature,
    guided,
    invariants,
    load_prior,
    logits,
    neuron,
    train_prior,
)
from whence.invariants.autoencoders import TopK, load_autoencoder, save_autoencoder, train_autoencoder
from whence.invariants.objective import TOLERANCE

FIRST, SECOND, INK = "#1764a3", "#b3470a", "#1c2024"  # colours
QUERIES, SAMPLES, REAL = 3, 32, 2000
BUDGET = {"logit": 3000, "neuron": 3000, "feature": 3000, "ten logits": 6000}
POOL = {"logit": 1024, "neuron": 1024, "feature": 1024, "ten logits": 8192}
PIXEL_STEPS = 300
STRENGTHS = (0.03, 0.3)
RATES = (1e-3, 1e-2, 3e-2, 1e-1, 2e-1, 3e-1, 1.0, 10.0)  # of Algorithm 1 without its filter
WRITTEN = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of Algorithm 1 as it is written: 10 is the published rate
FILTER = 0.5
CLOSE = {"logit": 0.1, "neuron": 0.05, "feature": 0.05}  # of the prior's own invariants, in the objective's unit
LAYER = "8"  # after the classifier's hidden layer
Data = tuple[Tensor, Tensor]
Pools = dict[int, Pool]  # by the evaluations that a draw costs


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
        safetensors.torch.load_model(net, str(path))
        return net.eval().requires_grad_(False)
    optimizer = Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(data[0])).split(128):
            optimizer.zero_grad()
            F.cross_entropy(net(data[0][rows]), data[1][rows]).backward()
            optimizer.step()
    safetensors.torch.save_model(net, str(path))
    return net.eval().requires_grad_(False)


def load(name: str, folder: Path) -> tuple[Data, Data]:
    """Return training and test images from 0 to 1 with their labels."""
    parts = []
    for split in ("train", "test"):
        found = load_mnist(folder, split) if name == "mnist" else load_parquet(folder / f"{split}.parquet")
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
        "feature": feature(one.classifier, one.autoencoder, int(codes.argmax())),
        "ten logits": logits(one.classifier),
    }


@dataclass(frozen=True)
class Way:
    """One way to search: a solver over a prior, from a pool or from plain draws, with a filter or without."""

    solver: Any
    prior: Prior
    pooled: Prior | None = None  # what the pool is drawn from
    cutoff: float | None = None
    restarts: int = 4


def coarser(prior: LatentFlow) -> LatentFlow:
    """Return the same flow in one step."""
    return prior.with_steps(1)


def ways(one: Case, budget: int) -> dict[str, Way]:
    """Return each way to search."""
    steps, flow, coarse = budget // (3 * evaluations(one.prior)), one.prior, coarser(one.prior)
    twice = GaussNewton(coarse=(coarse,))
    found = {
        "Gauss-Newton": Way(GaussNewton(), flow, flow),
        "Gauss-Newton, coarse first": Way(twice, flow, flow),
        "Gauss-Newton, coarse first, coarse pool": Way(twice, flow, coarse),
        "Gauss-Newton, pulled": Way(GaussNewton(pull=0.1), flow, flow),
        "Gauss-Newton, no pool": Way(GaussNewton(), flow),
        "Gauss-Newton, no restarts": Way(GaussNewton(), flow, flow, restarts=0),
        "Gauss-Newton, derivatives anew": Way(GaussNewton(secant=False), flow, flow),
        "Gauss-Newton, filtered too": Way(twice, flow, flow, FILTER),
        "exact (Metropolis)": Way(Metropolis(first=twice), flow, flow),
    }
    for rate in WRITTEN:
        written = InfiniteOptimization(rate=rate, cutoff=FILTER, steps=steps)
        found[f"Algorithm 1 as written, rate {rate:g}"] = Way(written, flow, restarts=0)
    for rate in RATES:
        descent = InfiniteOptimization(rate=rate, cutoff=None, steps=steps, threshold=TOLERANCE**2)
        found[f"Algorithm 1 without filter, rate {rate:g}"] = Way(descent, flow, restarts=0)
    found["Adam, rate 0.05"] = Way(FirstOrder(Adam, 0.05, steps), one.prior, restarts=0)
    found["Adam, rate 0.05, length kept"] = Way(FirstOrder(Adam, 0.05, steps, renormalise=True), one.prior, restarts=0)
    found["pixels, Adam, rate 0.05"] = Way(FirstOrder(Adam, 0.05, PIXEL_STEPS), Pixels.of(one.train), restarts=0)
    for strength in STRENGTHS:
        found[f"guidance, strength {strength:g}"] = Way(strength, one.prior)
    return found


def searched(
    one: Case, kind: str, objective: Objective, query: Tensor, pools: Pools, name: str
) -> tuple[InvariantSet, float]:
    """Run one solver from one query and return what it found, with the CPU seconds that it took."""
    way, begun = ways(one, BUDGET[kind])[name], time.process_time()
    try:
        if isinstance(way.solver, float):
            found = guided(objective, query, one.prior, SAMPLES, strength=way.solver, seed=1)
        else:
            asked: dict[str, Any] = {"budget": BUDGET[kind], "cutoff": way.cutoff}
            asked["pool"] = pools[evaluations(way.pooled)] if way.pooled else 0
            asked["restarts"] = way.restarts
            found = invariants(objective, query, way.prior, SAMPLES, solver=way.solver, seed=1, **asked)
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


def measure(
    one: Case, kind: str, pools: Pools, names: Sequence[str] | None, results: Path, data: str
) -> dict[str, Any]:
    """Search in every way for invariants of an objective, from all queries."""
    places, pool = queries(one), pools[evaluations(one.prior)]
    asked = [(objectives(one, place)[kind], one.test[0][place]) for place in places]
    values = torch.cat([objective(pool.inputs) for objective, _ in asked])
    spread = float(values.var(0, correction=0).mean().sqrt())
    standards = [standard(one, kind, objective, query, pool) for objective, query in asked]
    sharers = sum(POOL[kind] == POOL[other] for other in POOL)
    with torch.no_grad():
        plain = one.prior.reconstruct(one.test[0][:1000])
    told: dict[str, Any] = {}
    for name, way in ways(one, BUDGET[kind]).items():
        if names and name not in names:
            continue
        runs = [searched(one, kind, objective, query, pools, name) for objective, query in asked]
        founds = [found for found, _ in runs]
        share = len(pool) * evaluations(way.pooled) / sharers if way.pooled else 0
        told[name] = row(founds, sum(seconds for _, seconds in runs), spread, share, standards)
        told[name]["spectrum"] = float(np.mean([spectrum_beside(found.inputs, plain) for found in founds]))
        told[name]["processor"] = processor()
        print(json.dumps({"objective": kind, "way": name, **told[name]}), flush=True)
        if name in DRAWN:
            draw_samples(founds, results / f"invariants-{data}-{kind.replace(' ', '-')}-{slug(name)}.png")
    return {"ways": told, "queries": places, "spread": spread, "budget": BUDGET[kind], "pool": len(pool)}


def deviations(one: Case, pool: Pool, results: Path, data: str) -> dict[str, Any]:
    """Draw how far filters move the value of a logit's query and samples, searched for without and with a filter."""
    place = queries(one)[0]
    objective, query = objectives(one, place)["logit"], one.test[0][place]
    told: dict[str, Any] = {}
    for name, cutoff in (("plain", None), ("filtered too", FILTER)):
        found = invariants(objective, query, one.prior, SAMPLES, pool=pool, cutoff=cutoff, seed=1)
        told[name] = spectral_deviation(objective, found.only(found.solved))
    own = told["plain"].sel(input="query")
    figure = go.Figure()
    for name, colour in (("plain", SECOND), ("filtered too", FIRST)):
        samples = told[name].isel(input=slice(1, None))
        for share, width in ((0.25, 1), (0.5, 3), (0.75, 1)):
            line = {"color": colour, "width": width}
            shown = samples.quantile(share, "input").values
            label = f"samples, {name}" + (", quarters" if width == 1 else ", median")
            figure.add_scatter(x=CUTOFFS, y=shown, mode="lines", line=line, name=label, showlegend=share != 0.75)
    figure.add_scatter(x=CUTOFFS, y=own.values, mode="lines+markers", line={"color": INK}, name="query")
    title = f"{objective.name} after low-pass filters: distance from the query's own, unfiltered"
    figure.update_layout(
        title=title, xaxis_title="cutoff, share of the highest frequency", yaxis_title=own.attrs["unit"]
    )
    save_figure(figure, results / f"invariants-{data}-cutoffs.png")
    medians = {name: one_.isel(input=slice(1, None)).median("input").values.tolist() for name, one_ in told.items()}
    return {"cutoffs": list(CUTOFFS), "query": own.values.tolist(), "medians": medians}


def draw_samples(founds: Sequence[InvariantSet], path: Path, shown: int = 15) -> None:
    """Draw queries, each with its first solved samples beside it."""
    rows = []
    for found in founds:
        samples = found.only(found.solved).inputs[:shown]
        blank = torch.ones(shown - len(samples), *found.query.shape)
        rows.append(torch.cat([found.query[None], torch.ones(1, *found.query.shape), samples, blank]))
    sheet = torch.cat([torch.cat(list(one), 2) for one in rows], 1).clamp(0, 1)
    numbers = (255 * sheet).byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(numbers[..., 0] if numbers.shape[2] == 1 else numbers)
    picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(path)


def slug(name: str) -> str:
    """Return a name as part of a file's."""
    return "".join(one for one in name.lower().replace(" ", "-") if one not in ",()")


DRAWN = ("Gauss-Newton, coarse first", "exact (Metropolis)", "Gauss-Newton, filtered too", "pixels, Adam, rate 0.05")


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


def main() -> None:
    """Measure what is asked for and write it among what was measured before."""
    parser = argparse.ArgumentParser(description="Invariants: every solver, the same prior, the same budget.")
    folder = os.environ.get("WHENCE_DATA")
    parser.add_argument("--data", choices=("mnist", "cifar10"), default="mnist")
    parser.add_argument("--data-dir", type=Path, default=Path(folder) if folder else None, required=folder is None)
    parser.add_argument("--cache", type=Path, required=True, help="folder for networks, prior and autoencoder")
    parser.add_argument("--objective", choices=tuple(BUDGET), action="append")
    parser.add_argument("--way", action="append", help="one of the ways to search; all if left out")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    run(parser.parse_args())


def run(options: argparse.Namespace) -> None:
    """Measure what the options ask for."""
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    options.cache.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    one = case(options.data, options.data_dir / options.data, options.cache)
    file = options.results / f"invariants-{options.data}.json"
    found = json.loads(file.read_text()) if file.exists() else {"objectives": {}}
    found["accuracy"] = accuracy(one.classifier, one.test)
    found["autoencoder"] = {
        str(name): float(value) for name, value in one.autoencoder.figures.items() if not value.dims
    }
    begun = time.process_time()
    priors = (one.prior, coarser(one.prior))
    pools = {
        size: {evaluations(prior): draw_pool(prior, size, seed=0) for prior in priors} for size in set(POOL.values())
    }
    found["pool_seconds"] = time.process_time() - begun
    if "deviations" not in found:
        found["deviations"] = deviations(one, pools[1024][evaluations(one.prior)], options.results, options.data)
    for kind in options.objective or BUDGET:
        told = measure(one, kind, pools[POOL[kind]], options.way, options.results, options.data)
        known = found["objectives"].get(kind, {"ways": {}})["ways"] | told["ways"]
        found["objectives"][kind] = told | {
            "ways": {name: known[name] for name in ways(one, BUDGET[kind]) if name in known}
        }
        found["machine"] = machine()
        file.write_text(json.dumps(found, indent=1) + "\n")
        page(found, options.results / f"invariants-{options.data}.md", options.data)


def page(found: dict[str, Any], path: Path, data: str) -> None:
    """Write the figures as tables."""
    lines = [
        f"Invariants on {data}: {QUERIES} queries, {SAMPLES} samples each; a classifier of accuracy "
        f"{found['accuracy']:.3f}. Solved: within {TOLERANCE} of the query's values (root mean square).",
        f"Machine: {json.dumps(found['machine'], sort_keys=True)}",
        "",
    ]
    for kind, told in found["objectives"].items():
        rates = {name: one for name, one in told["ways"].items() if name.startswith("Algorithm 1 without")}
        real = {
            name: one for name, one in rates.items() if one.get("precision", 0) >= one.get("prior_precision", 1) - 0.1
        }
        written = {name: one for name, one in told["ways"].items() if name.startswith("Algorithm 1 as written")}
        lines += [
            f"## {kind}",
            "",
            f"Spread of the values over the prior's draws {told['spread']:.2f}; at most {told['budget']} evaluations a "
            f"sample; a pool of {told['pool']} draws. Fewest evaluations a solved sample: "
            f"{tuned(rates)}; of rates whose samples are within 0.1 of the prior's precision {tuned(real)}; "
            f"{tuned(written)}.",
            "",
            "| way | solved | median residual | in spreads | evaluations a solved sample | with its share of the pool "
            "| CPU ms a solved sample | latent quantile | precision (prior's) | diversity / prior's | "
            "diversity / rejection set's | recall of the rejection set | kernel distance (prior's) | spectrum |",
            "|---" * 14 + "|",
            *(line(name, one) for name, one in told["ways"].items()),
            "",
        ]
        elsewhere = {one["processor"] for one in told["ways"].values() if "processor" in one}
        for other in sorted(elsewhere - {found["machine"]["processor"]}):
            names = (name for name, one in told["ways"].items() if one.get("processor") == other)
            lines += [f"On {other} were measured: {'; '.join(names)}.", ""]
    lines += [f"![Cutoffs](invariants-{data}-cutoffs.png)"]
    path.write_text("\n".join(lines) + "\n")


def tuned(rates: dict[str, Any]) -> str:
    """Return the way that takes the fewest evaluations for a solved sample."""
    if not rates:
        return "none"
    return min(rates, key=lambda name: rates[name]["evaluations_per_solved"] or float("inf"))


def line(name: str, one: dict[str, Any]) -> str:
    """Return a row of a table."""

    def said(key: str, form: str = ".2f", times: float = 1) -> str:
        value = one.get(key)
        return "" if value is None else format(times * value, form)

    kernel = f"{said('kernel_distance', '.3f')} ({said('prior_kernel_distance', '.3f')})"
    cells = [
        name, f"{one['solved']} / {one['samples']}", said("median_residual", ".4f"),
        said("median_residual_in_spreads", ".4f"), said("evaluations_per_solved", ".0f"),
        said("evaluations_with_pool", ".0f"), said("seconds_per_solved", ".0f", 1e3), said("quantile"),
        f"{said('precision')} ({said('prior_precision')})" if "precision" in one else "", said("diversity"),
        said("rejected_diversity"), said("rejected_recall"),
        kernel if "kernel_distance" in one else "", said("spectrum"),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
