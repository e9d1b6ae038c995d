"""Beyond the derivative: what predicts a removal better than it, at the cost of 50 trainings.

    python -m benchmarks.beyond --data-dir MNIST --cache FOLDER

The network "gelu, momentum" of ``counterfactual.py``, track B, 12 targets. Every method gives one number a training
example and target, and is scored on 60 random removals of 1 % and of 5 %; what had to be chosen was chosen on 40 others
of 1 %. Costs are seconds over the seconds of a plain training measured just before. Whatever is computed is kept in
``--cache``, so that a run that was cut off goes on. Results: ``benchmarks/results/beyond.json`` and ``beyond.md``.
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import whence
from benchmarks._beyond_methods import PARTS, Costs, Found, report
from benchmarks._machine import machine
from benchmarks._mnist import arguments, keep_freed_memory
from benchmarks._networks import SETTINGS, TARGETS, TRAIN, Data, images, network
from benchmarks._networks import train as train_network
from benchmarks._weighted import Force, Form, Task, gelu, losses, sources, train, walk

SETTING = SETTINGS["gelu, momentum"]
FINAL, CHOOSING, POOL, LADDER = 60, 40, 50, 16
STEPS = (0.5, 0.1, 0.01)
Array = NDArray[Any]


def main() -> None:
    """Measure everything that is not in the cache, and write the table."""
    parser = arguments("Beyond the derivative.")
    parser.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    data, tests = images(options.data_dir, "train", TRAIN), images(options.data_dir, "test", TARGETS)
    found = dict(compute(Lab(data, tests, options.cache)))
    computer = machine()
    result = {**report(found, json.dumps(computer)), "machine": computer}
    text = result.pop("table")
    (options.results / "beyond.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.results / "beyond.md").write_text(text)
    print(text)


class Lab:
    """The task, its targets, and a folder where every array is kept with the seconds that it took."""

    def __init__(self, data: Data, tests: Data, cache: Path) -> None:
        self.cache = cache
        self.targets = (tests[0].reshape(len(tests[0]), -1), tests[1])
        batches = self.kept("batches", lambda: self._record(data, tests))
        first = [one.detach() for one in network(SETTING).parameters()]
        order = [torch.from_numpy(one[one >= 0]) for one in batches]
        self.task = Task(data[0].reshape(TRAIN, -1), data[1], order, first, 0.01, 0.9, gelu)

    def kept(self, name: str, make: Callable[[], Array]) -> Array:
        """Return an array from the cache, or make it."""
        file = self.cache / f"{name}.npy"
        if not file.exists():
            start = time.perf_counter()
            np.save(file, make())
            print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)
        found: Array = np.load(file)
        return found

    def _record(self, data: Data, tests: Data) -> Array:
        """Record the training with the library; keep its batches, its derivative and its times."""
        with tempfile.TemporaryDirectory() as folder:
            train_network(SETTING, data, Path(folder) / "run")
            run = whence.open_run(Path(folder) / "run", network(SETTING), data, loss=F.cross_entropy)
            plain, seconds = [], []
            for count in (1, TARGETS):
                plain.append(train_network(SETTING, data, None)[1])
                start = time.perf_counter()
                effects = whence.counterfactual(run, (tests[0][:count], tests[1][:count]), smoothness=0)
                seconds.append(time.perf_counter() - start)
            np.save(self.cache / "library.npy", effects.values)
            np.save(self.cache / "library-cost.npy", np.array(seconds) / np.array(plain))
            steps = [run.record_of(number).batches[0].numpy() for number in range(run.steps)]
        size = max(len(one) for one in steps)
        return np.stack([np.pad(one, (0, size - len(one)), constant_values=-1) for one in steps])

    def outcomes(self, weights: Tensor, dtype: torch.dtype = torch.float32) -> Array:
        """Return the log of each target's loss after training with each row of weights."""
        task = replace(self.task, dtype=dtype)
        ends = [losses(task, train(task, part).end, self.targets).log() for part in weights.split(6)]
        return torch.cat(ends).numpy()

    def timed_plain(self) -> float:
        """Return the seconds of one plain training."""
        start = time.perf_counter()
        train(self.task, torch.ones(1, TRAIN))
        return time.perf_counter() - start

    def passed(self, weights: Tensor, forces: Form, count: int = TARGETS) -> tuple[Array, float]:
        """Return derivatives of the log losses of a weighted training, (forces, targets, train), and the cost."""
        plain, start = self.timed_plain(), time.perf_counter()
        trained = train(self.task, weights[None], keep=True)
        targets = (self.targets[0][:count], self.targets[1][:count])
        effects = walk(self.task, trained, sources(self.task, trained.end, targets), weights, forces)
        cost = (time.perf_counter() - start) / plain
        loss = losses(self.task, trained.end, targets)[0]
        return torch.stack(effects).double().div(loss[:, None]).numpy(), cost

    def folds(self, count: int) -> tuple[Tensor, Array]:
        """Return the weights of trainings that leave out one part each, and the held-out outputs."""
        part = torch.from_numpy(np.random.default_rng(count).permutation(TRAIN) % count)
        weights = (part[None] != torch.arange(count)[:, None]).double()

        def make() -> Array:
            steps = [torch.zeros(len(ids), 10) for ids in self.task.batches]
            plain, start = self.timed_plain(), time.perf_counter()
            for some in weights.split(5):
                for one, more in zip(steps, train(self.task, some, hold_out=True).held_out, strict=True):
                    one.add_(more)
            np.save(self.cache / f"folds{count}-cost.npy", (time.perf_counter() - start) / plain)
            size = max(len(one) for one in steps)
            return torch.stack([F.pad(one, (0, 0, 0, size - len(one))) for one in steps]).numpy()

        return weights, self.kept(f"folds{count}", make)


def removals(size: int, count: int, seed: int) -> list[Array]:
    """Return random sets of training examples."""
    return [np.random.default_rng([seed, size, one]).choice(TRAIN, size, replace=False) for one in range(count)]


def without(sets: Sequence[Array]) -> Tensor:
    """Return weights that are 0 for the examples of each set."""
    weights = torch.ones(len(sets), TRAIN, dtype=torch.float64)
    for row, one in zip(weights, sets, strict=True):
        row[torch.from_numpy(one)] = 0
    return weights


def noise(scale: float, number: int) -> Tensor:
    """Return Gaussian weights with mean 1; an odd number gives the mirror image of the even one before."""
    draw = torch.from_numpy(np.random.default_rng(number // 2).normal(size=TRAIN))
    return 1 + (scale if number % 2 == 0 else -scale) * draw


def runs() -> Iterator[tuple[str, Tensor]]:
    """Yield the weightings at which derivatives are taken."""
    yield "one", torch.ones(TRAIN, dtype=torch.float64)
    for number in range(4):
        yield f"noise0.2-{number}", noise(0.2, number)
    for number, row in enumerate(without(removals(250, 4, 30))):
        yield f"less5%-{number}", row
    for number in range(2):
        yield f"noise0.1-{number}", noise(0.1, number)


def compute(lab: Lab) -> Iterator[tuple[str, Any]]:
    """Yield everything that the methods are made of, by name."""
    ones = torch.ones(1, TRAIN, dtype=torch.float64)
    base = lab.kept("base", lambda: lab.outcomes(ones))
    sets = {"choosing": removals(50, CHOOSING, 20), "1%": removals(50, FINAL, 10), "5%": removals(250, FINAL, 10)}
    for name, some in sets.items():
        truth = lab.kept(f"truth-{name}", lambda some=some: lab.outcomes(without(some)))  # type: ignore[misc]
        yield name, (some, truth - base)
    held: list[Array] = []
    for count in PARTS:
        weights, outputs = lab.folds(count)
        held.append(outputs)
        outcome = lab.kept(f"folds{count}-outcomes", lambda weights=weights: lab.outcomes(weights))  # type: ignore[misc]
        yield f"folds{count}", (weights.numpy(), outcome - base)
        yield f"folds{count}-cost", float(np.load(lab.cache / f"folds{count}-cost.npy"))
    out = [torch.from_numpy(one) for one in held]
    exact = [lambda _step, _z, e: e, *(held_out(one) for one in out), *(held_out(one, linear=True) for one in out)]
    steps = len(lab.task.batches)
    late = [_only_from(steps - count) for count in (steps // 10, steps // 2)]
    costs = Costs([], [])
    for name, weights in runs():
        forces = exact if name.startswith("noise0.2") else exact[:1]
        effects, cost = _pass(lab, name, weights, Form([*exact, *late] if name == "one" else forces))
        costs.twelve.append(cost)
        yield name, effects
    yield from pools(lab, base)
    yield from diagnosis(lab, base, sets["choosing"])
    for name, form in special(lab):
        yield name, _pass(lab, name, ones[0], form)[0]
    yield "other order", _pass(other_order(lab), "other-order", ones[0], Form())[0]
    costs.single.extend(_pass(lab, f"single-{n}", ones[0], Form(), 1)[1] for n in range(3))
    yield "costs", costs
    yield "library", np.load(lab.cache / "library.npy") / np.exp(base[0])[:, None]
    yield "library-cost", np.load(lab.cache / "library-cost.npy").tolist()
    yield "base", base


def pools(lab: Lab, base: Array) -> Iterator[tuple[str, tuple[Array, Array]]]:
    """Yield weights and outcomes of trainings on random subsets, for regressions."""
    for size in (250, 2500):
        weights = without(removals(size, POOL, 40))
        outcome = lab.kept(f"pool{size}", lambda weights=weights: lab.outcomes(weights))  # type: ignore[misc]
        yield f"pool{size}", (weights.numpy(), outcome - base)


def _pass(lab: Lab, name: str, weights: Tensor, form: Form, count: int = TARGETS) -> tuple[Array, float]:
    """Return what `Lab.passed` does, from the cache if it is there."""

    def make() -> Array:
        effects, cost = lab.passed(weights, form, count)
        np.save(lab.cache / f"pass-{name}-cost.npy", cost)
        return effects

    return lab.kept(f"pass-{name}", make), float(np.load(lab.cache / f"pass-{name}-cost.npy"))


def held_out(kept: Sequence[Tensor] | Tensor, *, linear: bool = False) -> Force:
    """Return the output gradients at held-out outputs; or to first order in how far these are from the recorded."""

    def force(step: int, z: Tensor, e: Tensor) -> Tensor:
        other, chance = kept[step][: len(e)], torch.softmax(z, -1)
        there = (other != 0).any(-1, keepdim=True)
        moved = other - z
        if linear:
            return (e + chance * (moved - (chance * moved).sum(-1, keepdim=True))) * there
        return (torch.softmax(other, -1) - (chance - e)) * there

    return force


def _only_from(first: int) -> Force:
    """Return the exact force, from a step on."""
    return lambda step, _, e: e * (step >= first)


def special(lab: Lab) -> Iterator[tuple[str, Form]]:
    """Yield walks that differ from the exact one."""
    yield "damped", Form(damping=0.01)
    steps = len(lab.task.batches)
    if not (lab.cache / "pass-smooth.npy").exists():
        kept = train(lab.task, torch.ones(1, TRAIN), keep=True).kept
        late = {number: sources(lab.task, kept[number], lab.targets) for number in range(steps - 79, steps)}
        yield "smooth", Form(late=late)
    else:
        yield "smooth", Form()


def other_order(lab: Lab) -> Lab:
    """Return the same task with its batches drawn from other seeds."""
    epochs = [torch.randperm(TRAIN, generator=torch.Generator().manual_seed(one)) for one in range(SETTING.epochs)]
    other = copy.copy(lab)
    other.task = replace(lab.task, batches=[ids for order in epochs for ids in order.split(SETTING.batch)])
    return other


def diagnosis(lab: Lab, base: Array, sets: Sequence[Array]) -> Iterator[tuple[str, Found | Array]]:
    """Yield outcomes of weights 1 - step, of doubled weights, in float64, and with the truly held-out outputs."""
    gone = 1 - without(sets[:LADDER])
    for step in (*STEPS, -1.0):
        yield f"step {step:g}", lab.kept(f"step{step:g}", lambda step=step: lab.outcomes(1 - step * gone)) - base  # type: ignore[misc]
    double = lab.kept(
        "double", lambda: lab.outcomes(torch.cat([1 - 0 * gone[:1], 1 - gone[:4], 1 - 1e-3 * gone[:4]]), torch.float64)
    )
    yield "double", double

    def oracle() -> Array:
        truly = [train(lab.task, row[None], hold_out=True).held_out for row in without(sets[:LADDER])]
        form = Form([held_out(one, linear=linear) for linear in (False, True) for one in truly])
        effects = lab.passed(torch.ones(TRAIN, dtype=torch.float64), form)[0]
        return np.asarray(effects.sum(2))

    yield "oracle", lab.kept("oracle", oracle)


if __name__ == "__main__":
    main()
