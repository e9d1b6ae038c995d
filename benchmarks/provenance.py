"""Index heads beside plain nearest neighbours: class and index of the retrieved example, distortions, membership.

    python -m benchmarks.provenance --data-dir MNIST                       # every head
    python -m benchmarks.provenance --data-dir MNIST --head "cosine"       # one of them; the others' figures stay

A small two-branch network (convolutions 16, 32, 64, hidden layer 256, embedding 128) on MNIST's 60,000 training images,
the same for every head; class-conditional unless the name says otherwise. Our heads are trained with distortions that
keep the index; the paper's is not, as the paper has none. Cosine rows and codes start from the trained memory bank's
network, and its embeddings, for two epochs more, and their seconds are of these. Measured: accuracy of the class branch
on the test images; index accuracy on all training images; class of the retrieved example on the test images, first and
any of five, beside that of the nearest neighbours in the same network's embedding; whether the first example retrieved
for a distorted training image is itself, on 10,000 of them, beside nearest pixels and nearest class embeddings; area
under the ROC curve of membership by the index, training against test images, clean and shifted. Networks are kept in
``--cache`` and go on from there; no seconds are told of a training that does. Results:
``benchmarks/results/provenance.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks._machine import machine
from benchmarks._mnist import arguments
from benchmarks._networks import DEVIATION, MEAN, Data, images
from whence import provenance
from whence.evaluation.noise import auroc
from whence.provenance import CONDITIONS, DISTORT, CodeHead, CosineHead, MemoryBank, Neighbours, Objective, SharedHead

TRAIN, TEST, DISTORTED, K = 60_000, 10_000, 10_000, 5
BARS = ("translation ±3 px", "rotation ±30°", "Gaussian noise σ=0.1", "occlusion 6×6", "Gaussian blur σ=1")
PIXELS = "nearest pixels"


PLAIN = Objective(smoothing=0.0)
DRAWN = Objective(smoothing=0.0, negatives=4096)


@dataclass(frozen=True)
class Setting:
    """How one head is trained."""

    head: Any
    conditional: bool = True
    distort: Any = DISTORT
    objective: Objective = PLAIN
    start: str = ""  # the head whose trained network to start from, for two epochs more


SETTINGS = {
    "memory bank": Setting(MemoryBank, objective=DRAWN),
    "nearest neighbours": Setting(Neighbours, conditional=False),
    "cosine": Setting(CosineHead, objective=DRAWN, start="memory bank"),
    "the paper's": Setting(SharedHead, distort=None, objective=Objective()),
    "codes": Setting(partial(CodeHead, base=64, levels=2), start="memory bank"),
    "memory bank, class-independent": Setting(MemoryBank, conditional=False, objective=DRAWN),
}
SHORT = 2  # epochs of a head that starts from another's network


def main() -> None:
    """Measure and write."""
    parser = arguments("Index heads of provenance networks beside nearest neighbours.", device=True)
    parser.add_argument("--head", choices=SETTINGS, action="append", help="only these")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--train", type=int, default=TRAIN, help="training images")
    parser.add_argument("--cache", type=Path, help="folder to keep networks in")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        measure(options, options.cache or Path(folder))


def backbone() -> nn.Module:
    """Return the small convolutional network; pictures from 0 to 1."""
    return nn.Sequential(
        Scaled(),
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(), nn.Linear(1024, 256), nn.BatchNorm1d(256), nn.ReLU(),
    )  # fmt: skip


class Scaled(nn.Module):
    """MNIST's mean and deviation (7.4.3), inside the network, as distortions are of pictures from 0 to 1."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the pictures with mean 0 and deviation 1."""
        return ((inputs - MEAN) / DEVIATION).contiguous(memory_format=torch.channels_last)


def pictures(options: argparse.Namespace, part: Literal["train", "test"], count: int) -> Data:
    """Return images from 0 to 1."""
    inputs, labels = images(options.data_dir, part, count)
    return (inputs * DEVIATION + MEAN).clamp(0, 1), labels


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Measure a head at a time, and write after each."""
    train, test = pictures(options, "train", options.train), pictures(options, "test", TEST)
    kept = options.results / "provenance.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() and options.head else {"heads": {}}
    found |= {"train": options.train, "epochs": options.epochs, "machine": machine()}
    distorted = conditions_of(train)
    if PIXELS not in found:
        flat, some = train[0].flatten(1), {name: distorted[name] for name in ("no distortion", *BARS)}
        found[PIXELS] = {name: exact(nearest(one.flatten(1), flat), rows) for name, (one, rows) in some.items()}
    for name in options.head or SETTINGS:
        found["heads"][name] = one_head(name, options, folder, (train, test), distorted)
        print(name, json.dumps(found["heads"][name]), flush=True)
        write(found, options.results)


def conditions_of(train: Data) -> dict[str, tuple[Tensor, Tensor]]:
    """Return 10,000 training images under each distortion, with their ids."""
    rows = torch.randperm(len(train[1]), generator=torch.Generator().manual_seed(1))[:DISTORTED]
    return {name: (one(train[0][rows], torch.Generator().manual_seed(2)), rows) for name, one in CONDITIONS.items()}


def one_head(
    name: str, options: argparse.Namespace, folder: Path, data: tuple[Data, Data], distorted: dict[str, Any]
) -> dict[str, Any]:
    """Train a network with a head and return its figures."""
    setting, (train, test) = SETTINGS[name], data
    torch.manual_seed(0)
    network = new(setting, train, options.device)
    if setting.start:
        warm = new(SETTINGS[setting.start], train, options.device)
        fitted(warm, setting.start, train, options.epochs, folder)
        kept = {part: one for part, one in warm.state_dict().items() if "head." not in part}
        network.load_state_dict(kept, strict=False)
    seconds = fitted(network, name, train, SHORT if setting.start else options.epochs, folder)
    found = figures(network, (train, test), distorted, every=name == "nearest neighbours")
    return {**found, "training": seconds, "device": options.device, "machine": machine()}


def figures(
    network: provenance.ProvenanceNetwork, data: tuple[Data, Data], distorted: dict[str, Any], *, every: bool = False
) -> dict[str, Any]:
    """Return what a trained network answers; ``every``: its own answers are its neighbours'."""
    train, test = data
    own = provenance.retrieve(network, train[0], 1)
    start = time.perf_counter()
    answers = provenance.retrieve(network, test[0], K, considered=3 if network.conditional else 1)
    querying = time.perf_counter() - start
    bank, queries = (provenance.embeddings(network, one[0]) for one in (train, test))
    near = neighbours_of(queries, bank, train, test[1])
    found: dict[str, Any] = {
        "parameters": sum(one.numel() for one in network.parameters()),
        "retrieval of 10,000": querying,
        "class": float((answers.predicted.values == test[1].numpy()).mean()),
        "index on training": float((own.exemplar.values[:, 0] == np.arange(len(train[1]))).mean()),
        "retrieved class": classes(answers.exemplar_class.values, test[1]),
        "neighbours' class": near,
        "exact": {},
        "neighbours' exact": {},
        "membership": {},
    }
    for condition, (inputs, rows) in distorted.items():
        first = provenance.retrieve(network, inputs, 1)
        found["exact"][condition] = exact(torch.from_numpy(first.exemplar.values[:, 0]), rows)
        if every or condition not in ("no distortion", *BARS):
            continue
        found["neighbours' exact"][condition] = exact(nearest(provenance.embeddings(network, inputs), bank), rows)
    for condition in ("no distortion", BARS[0]):
        members, rows = distorted[condition]
        outside = CONDITIONS[condition](test[0], torch.Generator().manual_seed(3))
        found["membership"][condition] = membership(network, members, outside)
    return found


def new(setting: Setting, train: Data, device: str) -> provenance.ProvenanceNetwork:
    """Return a network with a head, newly drawn."""
    made = provenance.ProvenanceNetwork(backbone(), train, head=setting.head, conditional=setting.conditional)
    return made.to(device)


def fitted(network: provenance.ProvenanceNetwork, name: str, train: Data, epochs: int, folder: Path) -> float | None:
    """Train a network, or go on from the cache; return the processor's seconds, None of a part of a training."""
    setting, place, start = SETTINGS[name], folder / name.replace(" ", "-"), time.process_time()
    begun = place.exists()
    rate, warm_up = (1e-3, 0) if setting.start else (4e-3, 1)
    provenance.train(
        network,
        train,
        epochs,
        objective=setting.objective,
        distort=setting.distort,
        optimization=provenance.Optimization(rate=rate, schedule=provenance.one_cycle, batch_size=256, warm_up=warm_up),
        path=place,
    )
    return None if begun else time.process_time() - start


def membership(network: provenance.ProvenanceNetwork, members: Tensor, outside: Tensor) -> dict[str, float]:
    """Return areas under the ROC curve, training against other images, by what the index says, and the class."""
    one, other = (provenance.retrieve(network, inputs, 1) for inputs in (members, outside))
    which = np.arange(len(members) + len(outside)) < len(members)
    scores = {
        "index logit": [part.index_logit.values for part in (one, other)],
        "index confidence": [part.index_confidence.values for part in (one, other)],
        "index entropy": [-part.entropy.values for part in (one, other)],
        "class confidence": [part.class_confidence.values for part in (one, other)],
    }
    return {key: auroc(which, np.concatenate(both).astype(np.float64)) for key, both in scores.items()}


def nearest(queries: Tensor, bank: Tensor) -> Tensor:
    """Return the row of the nearest by Euclidean distance, for each query."""
    sizes = (bank**2).sum(1)
    return torch.cat([(sizes - 2 * part @ bank.T).argmin(1).cpu() for part in queries.split(500)])


def neighbours_of(queries: Tensor, bank: Tensor, train: Data, labels: Tensor) -> list[float]:
    """Return how often the class of the nearest by cosine is right, first and any of five."""
    rows = F.normalize(bank, dim=1)
    best = torch.cat([(part @ rows.T).topk(K, 1).indices.cpu() for part in F.normalize(queries, dim=1).split(500)])
    return classes(train[1][best].numpy(), labels)


def classes(found: Any, labels: Tensor) -> list[float]:
    """Return how often the class of the first, and of any, is right."""
    right = found == labels.numpy()[:, None]
    return [float(right[:, 0].mean()), float(right.any(1).mean())]


def exact(first: Tensor, rows: Tensor) -> float:
    """Return how often the first example found is the image itself."""
    return float((first == rows).float().mean())


def write(found: dict[str, Any], results: Path) -> None:
    """Write the figures, and a page that says them."""
    results.mkdir(parents=True, exist_ok=True)
    (results / "provenance.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        f"Small two-branch network on {found['train']:,} training images of MNIST, {found['epochs']} epochs; see the "
        "script. Retrieved class: of the first example, and of any of five, on 10,000 test images; of heads that are "
        "class-conditional, over the three most probable classes.",
        f"Machine: {json.dumps(found['machine'], sort_keys=True)}",
        "",
        *tables(found["heads"], found[PIXELS]),
    ]
    (results / "provenance.md").write_text("\n".join(lines) + "\n")


def tables(heads: dict[str, Any], pixels: dict[str, float]) -> list[str]:
    """Return the lines of two tables: what each head answers, and whether it knows distorted training images."""
    lines = [
        "| head | class | index on training | retrieved class, first / any of 5 | neighbours in its embedding | "
        "membership AUC by logit, confidence, clean / shifted | parameters | training, s | retrieval of 10,000, s |",
        "|" + "---|" * 9,
    ]
    for name, one in heads.items():
        both = " / ".join(f"{value:.4f}" for value in one["retrieved class"])
        near = " / ".join(f"{value:.4f}" for value in one["neighbours' class"])
        member = " / ".join(
            ", ".join(f"{part[key]:.3f}" for key in ("index logit", "index confidence") if key in part)
            for part in one["membership"].values()
        )
        seconds = "" if one["training"] is None else f"{one['training']:.0f}"
        where = " (GPU)" if one.get("device", "cpu") != "cpu" else ""
        lines.append(
            f"| {name} | {one['class']:.4f} | {one['index on training']:.4f} | {both} | {near} | {member} | "
            f"{one['parameters']:,} | {(seconds + where).strip()} | {one['retrieval of 10,000']:.1f} |"
        )
    lines += [
        "",
        f"The first example retrieved for a distorted training image is that image, share of {DISTORTED:,}; the mean "
        f"is over {', '.join(BARS)}.",
        "",
        f"| distortion | {' | '.join(heads)} | {PIXELS} |",
        "|" + "---|" * (len(heads) + 2),
    ]
    for name in CONDITIONS:
        cells = [f"{one['exact'][name]:.3f}" for one in heads.values()]
        near = f"{pixels[name]:.3f}" if name in pixels else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {near} |")
    means = [np.mean([one["exact"][name] for name in BARS]) for one in heads.values()]
    cells = [f"{one:.3f}" for one in (*means, np.mean([pixels[name] for name in BARS]))]
    lines.append(f"| **mean of the five** | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
