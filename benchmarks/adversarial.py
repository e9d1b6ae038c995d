"""The adversarial case on MNIST and CIFAR-10: a study of each, the cure by attack, and adversarial training.

    python -m benchmarks.adversarial                                  # all parts
    python -m benchmarks.adversarial --part cures --run RUN           # with a run recorded before
    python -m benchmarks.adversarial --part study --run RUN --audits FOLDER

``study``: `whence.adversarial.study` on the paper's MNIST setting, with every claim of the paper and the numbers that
decide it, for changes of at most 0.06; ``larger``: the same for 0.1, as the paper names no size. ``cures``: several
recipes against several attacks; ``sizes``: two of them on more inputs. ``hardened``: LeNet-5 trained on adversarial
inputs, and one trained in the same way on clean ones (PLGK, table 3). ``cifar``: the study on a small convolutional
network.
Results go to ``benchmarks/results/adversarial.json`` and ``.md``, a picture of each plot beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

import whence
from benchmarks._machine import machine
from benchmarks._mnist import arguments, keep_freed_memory, lenet5, target_data, training_data
from benchmarks._pictures import save_drawing
from benchmarks.audit import train_recorded
from whence.adversarial import (
    PAPER,
    SMALLEST,
    Groups,
    Hardening,
    Pgd,
    Plan,
    Recipe,
    Study,
    agreement,
    attack,
    compare_hardened,
    findings,
    outcomes,
    study,
    with_cure,
)
from whence.datasets import load_parquet
from whence.kernel import Trained, as_trained, modes
from whence.report.attack_plots import attacked_figures

Data = tuple[Tensor, Tensor]
PARTS = ("study", "larger", "cures", "sizes", "hardened", "cifar")
ATTACKS = (
    ("linf-pgd", 0.06),
    ("linf-pgd", 0.08),
    ("linf-pgd", 0.1),
    ("linf-fgsm", 0.1),
    ("l2-pgd", 1.5),
    ("deepfool", None),
)
RECIPES = {
    "algorithm 2": PAPER,
    "drive, until left": replace(SMALLEST, aim="drive"),
    "grow, until left": SMALLEST,
    "no modes: loss, until left": replace(SMALLEST, aim="loss"),
}
COUNT, MANY, TESTS = 64, 256, 10_000
STUDIED = {"study": (64, 0.06, "mnist"), "larger": (32, 0.1, "mnist-larger")}  # inputs, change of a pixel, pictures
HARDENING = Hardening(learning_rate=1e-4, attack=Pgd(epsilon=0.1, steps=5), modes=250, examples=10_240)
CIFAR_TRAIN, CIFAR_EPOCHS, CIFAR_BATCH, CIFAR_RATE = 10_000, 12, 100, 3e-4
CIFAR_TOLERANCE = 0.008  # nats: with ReLU and max-pooling gradients turn within a step


def main() -> None:
    """Measure the parts asked for and write them among those measured before."""
    parser = arguments("Adversarial inputs, their influences and their cure.", device=True)
    folder = os.environ.get("WHENCE_DATA")
    parser.add_argument("--cifar", type=Path, default=Path(folder) / "cifar10" if folder else None)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--run", type=Path, help="a run of the paper's setting recorded before")
    parser.add_argument("--audits", type=Path, help="folder of MNIST's studies' audits, to keep them")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    kept = options.results / "adversarial.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        for part in options.part or PARTS:
            start = time.perf_counter()
            measured = _PARTS[part](options, Path(scratch))
            found[part] = {**measured, "seconds": time.perf_counter() - start, "machine": machine()}
            kept.write_text(json.dumps(found, indent=1) + "\n")
            (options.results / "adversarial.md").write_text(page(found))


def mnist_run(options: argparse.Namespace, scratch: Path) -> whence.Run:
    """Return the run of the paper's setting."""
    data = training_data(options.data_dir)
    place = options.run or scratch / "run"
    if place.exists():
        return whence.open_run(place, lenet5().to(options.device), data, loss=F.cross_entropy)
    return train_recorded(place, data, 0.0, 50, options.device)


def mnist_study(part: str, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Study the paper's MNIST setting."""
    count, epsilon, pictures = STUDIED[part]
    run = mnist_run(options, scratch)
    place = (options.audits or scratch) / f"{part}.zarr"
    plan = Plan(count=count, epsilon=epsilon, bounds=(0.0, 1.0))
    made = study(run, target_data(options.data_dir, TESTS), plan=plan, path=place)
    return told(made, options.results / f"adversarial-{pictures}")


def told(made: Study, pictures: Path) -> dict[str, Any]:
    """Return the numbers of a study and write its pictures."""
    for figure in attacked_figures(made):
        save_drawing(figure, pictures.with_name(f"{pictures.name}-{figure.key.removeprefix('attacked-')}.png"))
    energy = made.course["energy"].isel(time=-1).mean("example")
    return {
        "attack": made.groups.attack,
        "inputs": len(made.groups),
        "audit": {
            "mean_error": made.audit.completeness.mean_error,
            "correlation": made.audit.completeness.correlation,
        },
        "energy_adversarial_over_clean": float(energy.sel(group="adversarial") / energy.sel(group="clean")),
        "table": table(made.outcomes, made.groups),
        "findings": [asdict(one) for one in findings(made)],
    }


def table(found: Any, groups: Groups) -> dict[str, dict[str, float]]:
    """Return share answered rightly, loss and length of change of each group."""
    means = found.drop_vars("answer").mean("example")
    return {
        name: {key: float(means[key].sel(group=name)) for key in ("right", "loss", "size")} for name in groups.names
    }


def cures(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Try every recipe against every attack."""
    return tried(mnist_run(options, scratch), options.data_dir, COUNT, ATTACKS, RECIPES)


def sizes(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Try the smallest change, with modes and without, on more inputs, as chance is large among few."""
    few = {name: recipe for name, recipe in RECIPES.items() if recipe.until_left and recipe.aim != "drive"}
    return tried(mnist_run(options, scratch), options.data_dir, MANY, ATTACKS[:3], few)


def tried(
    run: whence.Run,
    data_dir: Path,
    count: int,
    attacks: Sequence[tuple[str, float | None]],
    recipes: Mapping[str, Recipe],
) -> dict[str, Any]:
    """Try recipes against attacks."""
    trained, tests = as_trained(run), target_data(data_dir, TESTS)
    found = modes(run, count=20)
    rows = []
    for method, size in attacks:
        groups = attack(trained, tests, count=count, method=method, epsilon=size, bounds=(0.0, 1.0))
        for name, recipe in recipes.items():
            made = with_cure(groups, found, trained, recipe=recipe)
            rows.append({"attack": groups.attack, "recipe": name, **measured_cure(trained, made)})
            print(json.dumps(rows[-1]), flush=True)
    return {"inputs": count, "rows": rows}


def measured_cure(trained: Trained, made: Groups) -> dict[str, float]:
    """Return how many inputs are cured, and by how large a change."""
    right = outcomes(trained, made)["right"].mean("example")
    cured, control = made.names[-2:]
    change = (made.inputs[cured] - made.inputs["adversarial"]).flatten(1).norm(dim=1)
    return {
        "cured": float(right.sel(group=cured)),
        "random": float(right.sel(group=control)),
        "length": float(change.mean()),
        "attack_length": float(made.change("adversarial").flatten(1).norm(dim=1).mean()),
        "cosine": float(agreement(made, "adversarial", cured).mean()),
    }


def hardened(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Train on adversarial and on clean inputs in the same way, and compare their modes."""
    made = compare_hardened(mnist_run(options, scratch), target_data(options.data_dir, TESTS), HARDENING)
    rows = {
        str(name): {
            **{key: float(one[key]) for key in ("accuracy", "robust", "energy_ratio")},
            **{f"K@{100 * float(share):.0f}": float(one["modes"].sel(share=share)) for share in one["share"]},
        }
        for name, one in ((name, made.sel(network=name)) for name in made["network"].values)
    }
    return {"rows": rows, "examples": HARDENING.examples, "modes": HARDENING.modes}


def cifar_network() -> nn.Module:
    """Return a small convolutional network, newly initialised."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def cifar_study(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Study a small network on CIFAR-10."""
    parts = (whence.as_examples(load_parquet(options.cifar / f"{name}.parquet")) for name in ("train", "test"))
    data, tests = (one.batch(range(CIFAR_TRAIN)) for one in parts)
    model = cifar_network().to(options.device)
    optimizer = Adam(model.parameters(), CIFAR_RATE)
    with whence.record(scratch / "cifar", model, optimizer, data, loss=F.cross_entropy) as recorder:
        for _ in range(CIFAR_EPOCHS):
            for x, y in recorder.batches(CIFAR_BATCH):
                optimizer.zero_grad()
                F.cross_entropy(model(x.to(options.device)), y.to(options.device)).backward()
                optimizer.step()
    run = whence.open_run(scratch / "cifar", cifar_network().to(options.device), data, loss=F.cross_entropy)
    plan = Plan(count=16, epsilon=4 / 255, bounds=(0.0, 1.0), times=6, examples=1024, tolerance=CIFAR_TOLERANCE)
    made = study(run, tests, plan=plan, path=scratch / "cifar.zarr")
    with torch.no_grad():
        accuracy = float(
            (as_trained(run).model(tests[0].to(options.device)).cpu().argmax(1) == tests[1]).float().mean()
        )
    return {"accuracy": accuracy, **told(made, options.results / "adversarial-cifar")}


def page(found: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    parts = ["Adversarial inputs (PLGK, section 6.3); see the script. Random changes are as long as those beside them."]
    titles = {"study": "LeNet-5 on MNIST", "larger": "The same, larger changes", "cifar": "A small network on CIFAR-10"}
    for part, title in titles.items():
        if part in found:
            parts += study_said(found[part], title)
    for part in ("cures", "sizes"):
        if part in found:
            parts += cures_said(found[part])
    if "hardened" in found:
        parts += hardened_said(found["hardened"])
    return "\n\n".join(parts) + "\n"


def study_said(one: dict[str, Any], title: str) -> list[str]:
    """Return a study's part of the page."""
    audit = one["audit"]
    rows = [
        f"| {name} | {100 * each['right']:.1f} % | {each['loss']:.3f} | {each['size']:.2f} |"
        for name, each in one["table"].items()
    ]
    claims = [
        f"| {each['where']} | {each['claim']} | {'holds' if each['holds'] else 'does not hold'} | "
        + "; ".join(f"{name} {value:.3g}" for name, value in each["numbers"].items())
        + " |"
        for each in one["findings"]
    ]
    return [
        f"## {title}",
        f"Machine: {json.dumps(one['machine'], sort_keys=True)}",
        f"{one['inputs']} inputs, attack {one['attack']}. Audit of clean, random and adversarial inputs: mean error "
        f"{audit['mean_error']:.5f} nats, correlation {audit['correlation']:.7f}. Energy of adversarial over clean "
        f"gradients within the modes: {one['energy_adversarial_over_clean']:.0f}.",
        "\n".join(["| group | right | loss | length of change |", "|---|---|---|---|", *rows]),
        "\n".join(["| where | claim | here | numbers |", "|---|---|---|---|", *claims]),
    ]


def cures_said(one: dict[str, Any]) -> list[str]:
    """Return the part of the page on recipes and attacks."""
    rows = [
        f"| {each['attack']} | {each['recipe']} | {100 * each['cured']:.1f} % | {100 * each['random']:.1f} % | "
        f"{each['length']:.2f} | {each['attack_length']:.2f} | {each['cosine']:.2f} |"
        for each in one["rows"]
    ]
    head = "| attack | recipe | cured | random, same length | length | of the attack | cosine |"
    return [
        f"## Cures by attack, {one['inputs']} inputs each, LeNet-5 on MNIST",
        f"Machine: {json.dumps(one['machine'], sort_keys=True)}",
        "\n".join([head, "|---|---|---|---|---|---|---|", *rows]),
    ]


def hardened_said(one: dict[str, Any]) -> list[str]:
    """Return the part of the page on adversarial training."""
    first = next(iter(one["rows"].values()))
    rows = [
        f"| {name} | " + " | ".join(f"{value:.3g}" for value in each.values()) + " |"
        for name, each in one["rows"].items()
    ]
    return [
        f"## Adversarial training (table 3), modes of {one['examples']} training examples, at most {one['modes']}",
        f"Machine: {json.dumps(one['machine'], sort_keys=True)}",
        "\n".join([f"| network | {' | '.join(first)} |", "|---" * (1 + len(first)) + "|", *rows]),
    ]


_PARTS: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
    **{part: partial(mnist_study, part) for part in STUDIED},
    "cures": cures,
    "sizes": sizes,
    "hardened": hardened,
    "cifar": cifar_study,
}


if __name__ == "__main__":
    main()
