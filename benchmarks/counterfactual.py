"""How well counterfactuals predict retraining: small networks on MNIST (`benchmarks._networks`), random removals.

    python -m benchmarks.counterfactual --data-dir MNIST                      # every network
    python -m benchmarks.counterfactual --data-dir MNIST --network gelu       # one
    python -m benchmarks.counterfactual --data-dir MNIST --network gelu --small

Same initialisation and order, no dropout (track B): a random 1 % or 5 % of the training examples is removed by zero
weight, the network is trained again, and the change of a target's loss is compared with the sum of what was predicted
for each removed example. The score is the mean over targets of the rank correlation over the removals (linear
datamodeling score); its interval is a bootstrap over targets. Beside ours: the audit of the same run, and gradient
products at its end. With ``--small`` the examples lose only a part of their weight, in float32 and in float64: where
the prediction holds for small parts and not for whole examples, the training bends; where it holds for neither, the
training is rougher than any part that was tried; where only float64 holds, it is rounding. With ``--again`` the
derivative alone is scored on other initialisations, orders, targets and removals. The time of 1, 12 and 100 targets is
quoted as a multiple of the mean of the plain trainings just before and after, the median over rounds; on a GPU with
``--cost --device cuda``. Results are written to ``benchmarks/results/counterfactual/`` and gathered into
``counterfactual.md``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.func import functional_call

import whence
from benchmarks._machine import machine
from benchmarks._mnist import arguments, finish, keep_freed_memory, named
from benchmarks._networks import (
    SETS,
    SETTINGS,
    SHARES,
    TARGETS,
    Data,
    network,
    test_data,
    train,
    train_recorded,
    training_data,
)
from benchmarks._scores import grad_dot, score, summed
from benchmarks._tables import file_of, table
from whence.runs import ModelState, Run

HELD_OUT = 20
SMALL_SETS = 10
PARTS = (1.0, 0.3, 0.1, 0.03, 0.01)
_BATCH_OF_GRADIENTS = 250


def main() -> None:
    """Measure the networks asked for."""
    parser = arguments("Counterfactuals against retraining.", device=True)
    parser.add_argument("--network", choices=SETTINGS, action="append")
    parser.add_argument("--sets", type=int, help=f"removals of each size (default: {SETS}, {SMALL_SETS} if small)")
    parser.add_argument("--cost", action="store_true", help="measure the time alone")
    parser.add_argument("--score", action="store_true", help="measure the scores alone")
    parser.add_argument("--small", action="store_true", help="measure how the error depends on the weight taken away")
    parser.add_argument("--again", type=int, help="score the derivative with so many other seeds")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="how often the time is measured")
    options = parser.parse_args()
    if options.device != "cpu" and not options.cost:
        parser.error("--device is for --cost; scores are measured on the CPU")
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    asked = [
        what
        for what, wanted in (
            (cost, options.cost),
            (measure, options.score),
            (small, options.small),
            (again, options.again),
        )
        if wanted
    ]
    for name in options.network or SETTINGS:
        for what in asked or [cost, measure]:
            print(json.dumps(what(name, options), indent=1), flush=True)
    table(options.results)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one network and write its result."""
    setting, sets = SETTINGS[name], options.sets or SETS
    data, tests = training_data(setting, options.data_dir), test_data(setting, options.data_dir)
    targets = (tests[0][:TARGETS], tests[1][:TARGETS])
    with tempfile.TemporaryDirectory() as folder:
        model, recorded = train(setting, data, Path(folder) / "run")
        accuracy = float((model(tests[0]).argmax(1) == tests[1]).double().mean())
        run = whence.open_run(Path(folder) / "run", network(setting), data, loss=F.cross_entropy)
        effects = whence.counterfactual(run, targets, smoothness=0)
        trust = whence.counterfactual(run, targets, ids=[0]).attrs
        audited = -whence.audit(run, targets).influence.values
        scored = {
            "derivative": effects.values,
            "held-out": whence.counterfactual(run, targets, smoothness=0, held_out=HELD_OUT).values,
            "audit": audited,
            "grad-dot": grad_dot(model, data, targets),
        }
        checks = {
            f"{share:g}": whence.check(effects, int(share * setting.count), seeds=sets, processes=options.processes)
            for share in SHARES
        }
    result = {
        "network": name,
        "bars": setting.bars,
        "accuracy": accuracy,
        "targets": TARGETS,
        "sets": sets,
        "recorded_seconds": recorded,
        "smoothness": list(trust["smoothness"]),
        "verdict": trust["verdict"],
        "scores": {share: scores(check, scored) for share, check in checks.items()},
        "machine": machine(),
    }
    keep(options.results / "counterfactual", name, result)
    return result


def scores(check: whence.Check, scored: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Return the slope of our prediction, and the score of everything that predicts."""
    retrained = check.data["retrained"].values
    found = {kind: score(summed(values, check.removals), retrained) for kind, values in scored.items()}
    held = summed(scored["held-out"], check.removals)
    slopes = {"slope": check.slope, "slope_interval": check.interval()}
    return {**slopes, "held_out_slope": float((held * retrained).sum() / (held * held).sum()), **found}


def again(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Score the derivative with other seeds, each with targets and removals of its own, and write it."""
    setting, sets = SETTINGS[name], options.sets or SETS
    data, tests = training_data(setting, options.data_dir), test_data(setting, options.data_dir)
    predicted: dict[str, list[NDArray[Any]]] = {f"{share:g}": [] for share in SHARES}
    retrained: dict[str, list[NDArray[Any]]] = {f"{share:g}": [] for share in SHARES}
    for seed in range(1, options.again + 1):
        rows = slice(seed * TARGETS, (seed + 1) * TARGETS)
        with tempfile.TemporaryDirectory() as folder:
            train_recorded(setting, data, Path(folder) / "run", seed=seed)
            run = whence.open_run(Path(folder) / "run", network(setting), data, loss=F.cross_entropy)
            effects = whence.counterfactual(run, (tests[0][rows], tests[1][rows]), smoothness=0)
            for share in SHARES:
                drawn = range(seed * sets, (seed + 1) * sets)
                found = whence.check(effects, int(share * setting.count), seeds=drawn, processes=options.processes)
                predicted[f"{share:g}"].append(found.data["predicted"].values)
                retrained[f"{share:g}"].append(found.data["retrained"].values)
        print(name, seed, {share: score(predicted[share][-1], retrained[share][-1])["score"] for share in predicted})
    scored = {
        share: {
            "seeds": [score(*one)["score"] for one in zip(predicted[share], retrained[share], strict=True)],
            **score(np.concatenate(predicted[share], 1), np.concatenate(retrained[share], 1)),
        }
        for share in predicted
    }
    result = {"network": name, "bars": setting.bars, "sets": sets, "scores": scored, "machine": machine()}
    keep(options.results / "counterfactual" / "again", name, result)
    return result


def small(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure how the prediction for 5 % of the examples errs when they lose a part of their weight, and write it."""
    setting, sets = SETTINGS[name], options.sets or SMALL_SETS
    size = int(SHARES[1] * setting.count)
    rng = np.random.default_rng(0)
    chosen = tuple(tuple(rng.choice(setting.count, size, replace=False).tolist()) for _ in range(sets))
    result: dict[str, Any] = {"network": name, "sets": sets, "parts": list(PARTS)}
    for dtype in (torch.float32, torch.float64):
        data, tests = training_data(setting, options.data_dir), test_data(setting, options.data_dir)
        data, targets = (data[0].to(dtype), data[1]), (tests[0][:TARGETS].to(dtype), tests[1][:TARGETS])
        with tempfile.TemporaryDirectory() as folder:
            train(setting, data, Path(folder) / "run")
            run = whence.open_run(Path(folder) / "run", network(setting, dtype), data, loss=F.cross_entropy)
            predicted = summed(whence.counterfactual(run, targets, smoothness=0).values, chosen)
            begun = losses(run, run.state_at(run.steps), targets)
            found = []
            for part in PARTS:
                ends = [run.retrain(weights=dict.fromkeys(ids, 1.0 - part)) for ids in chosen]
                slopes = (np.stack([losses(run, end, targets) for end in ends]) - begun) / part
                error = np.abs(slopes - predicted).sum() / np.abs(slopes).sum()
                found.append({"error": float(error), **score(predicted, slopes)})
        result[str(dtype).removeprefix("torch.")] = found
    result["machine"] = machine()
    keep(options.results / "counterfactual" / "small", name, result)
    return result


def losses(run: Run, state: ModelState, targets: Data) -> NDArray[Any]:
    """Return the loss of each target at a state of the model, in float64."""
    with torch.no_grad():
        outputs = functional_call(run.model, {**state.parameters, **state.buffers}, (targets[0],))
        return F.cross_entropy(outputs.double(), targets[1], reduction="none").numpy()


def cost(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure how long counterfactuals of a network take beside its plain training, and write it."""
    setting, device = SETTINGS[name], options.device
    data, tests = training_data(setting, options.data_dir), test_data(setting, options.data_dir)
    plain: list[float] = []
    seconds: dict[str, list[float]] = {str(count): [] for count in (1, TARGETS, 100)}
    ratios: dict[str, list[float]] = {count: [] for count in seconds}
    with tempfile.TemporaryDirectory() as folder:
        train(setting, data, Path(folder) / "run", device=device)
        run = whence.open_run(Path(folder) / "run", network(setting).to(device), data, loss=F.cross_entropy)
        whence.counterfactual(run, (tests[0][:1], tests[1][:1]), smoothness=0)  # does not count
        for _ in range(options.rounds):
            for count, found in seconds.items():
                before = train(setting, data, None, device=device)[1]
                start = time.perf_counter()
                whence.counterfactual(run, (tests[0][: int(count)], tests[1][: int(count)]), smoothness=0)
                finish(device)
                found.append(time.perf_counter() - start)
                plain.append(train(setting, data, None, device=device)[1])
                ratios[count].append(found[-1] / ((before + plain[-1]) / 2))
    result = {
        "rounds": options.rounds,
        "plain_seconds": float(np.median(plain)),
        "seconds": {count: float(np.median(found)) for count, found in seconds.items()},
        "ratios": {count: sorted(found) for count, found in ratios.items()},
        "machine": machine(),
    }
    keep(options.results / "counterfactual" / named("cost", device), name, result)
    return result


def keep(folder: Path, name: str, result: dict[str, Any]) -> None:
    """Write a result."""
    folder.mkdir(parents=True, exist_ok=True)
    file_of(folder, name).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
