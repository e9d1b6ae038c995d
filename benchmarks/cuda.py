"""The same results on a GPU as on the CPU: every capability on both, in float64 where training is compared.

    python -m benchmarks.cuda                                # needs a CUDA device
    python -m benchmarks.cuda --device cpu --only kernel     # the script itself, on the CPU twice

scikit-learn's digits, a small convolutional network, a few epochs. Where nothing is drawn on the device, every number
must agree; where a training draws on the device (dropout, distortions, noise), other numbers are drawn there, and only
what it comes to is stated. Each line says by how much the results differ, as a share of the greatest value on the CPU.
Results: ``benchmarks/results/cuda.json`` and ``cuda.md``. The script ends with 1 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import whence
from benchmarks._machine import machine
from whence import adversarial, attribution, evaluation, invariants, kernel, provenance, regions, report
from whence._errors import UnreachedError
from whence.datasets import load_digits
from whence.report.demo import small_network

EPOCHS, BATCH, TARGETS, TRAIN = 3, 64, 20, 640
EXACT = 1e-6  # float64 after a few epochs: rounding of sums in another order, grown along the training
Found = Mapping[str, Any]


@dataclass
class Ground:
    """What checks share: data, a network and a recorded run of it, on a device.

    Attributes:
        device: Where networks are.
        folder: Where files go.
    """

    device: torch.device
    folder: Path

    def data(self, part: str, count: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Return digits as tensors on the CPU."""
        inputs, labels = whence.as_examples(load_digits("train" if part == "train" else "test")).batch(range(count))
        return inputs.to(dtype), labels

    @cached_property
    def train(self) -> tuple[Tensor, Tensor]:
        """Training digits."""
        return self.data("train", TRAIN)

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        """Test digits."""
        return self.data("test", TARGETS)

    def network(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """Return the network, newly drawn on the CPU, then moved."""
        torch.manual_seed(0)
        return small_network().to(self.device, dtype)

    @cached_property
    def run(self) -> whence.Run:
        """A recorded run."""
        return self.recorded("run")

    def recorded(self, name: str, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> whence.Run:
        """Record a training."""
        model, data = self.network(dtype), (self.train[0].to(dtype), self.train[1])
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        with whence.record(self.folder / name, model, optimizer, data, loss=F.cross_entropy) as recorder:
            for _ in range(EPOCHS):
                for x, y in recorder.batches(batch_size=BATCH, seed=seed):
                    optimizer.zero_grad()
                    F.cross_entropy(model(x.to(self.device)), y.to(self.device)).backward()
                    optimizer.step()
        return whence.open_run(self.folder / name, model, data, loss=F.cross_entropy)

    @cached_property
    def single(self) -> nn.Module:
        """A trained network in float32."""
        return self.recorded("single", dtype=torch.float32).model.eval()

    @cached_property
    def prior(self) -> invariants.LatentFlow:
        """A small prior of digits, trained on the device."""
        settings = invariants.PriorSettings(width=16, epochs=10, flow_steps=200)
        return invariants.train_prior(self.data("train", TRAIN, torch.float32), self.folder / "prior", settings,
                                      device=self.device)  # fmt: skip


def audits(ground: Ground) -> Found:
    """Audit by layer and epoch, with its completeness; the counterfactual, checked by training again."""
    audit = whence.audit(ground.run, ground.test, by=("layer", "epoch"))
    effects = whence.counterfactual(ground.run, ground.test, ids=range(4))
    checked = whence.check(effects, [effects.sel(target=0).argsort().values[:30]], seeds=1)
    residual = audit.completeness.residual
    assert float(abs(residual).max()) < 0.05, "the audit is not complete"
    return {
        "influence": audit.influence.values,
        "residual": residual.values,
        "effects": effects.values,
        "retrained": np.stack([one.values for one in checked.data.data_vars.values() if one.dtype.kind == "f"][:1]),
    }


def single_precision(ground: Ground) -> Found:
    """Audit of a float32 run, in mixed precision, in parts on disk; how complete it is."""
    run = ground.recorded("float32", dtype=torch.float32)
    audit = whence.audit(run, ground.data("test", TARGETS, torch.float32), path=ground.folder / "audit.zarr")
    share = abs(audit.completeness.residual).mean() / abs(audit.completeness.true_change).mean()
    assert float(share) < 0.05, f"the residual is {float(share):.3f} of the change"
    return {"~residual": float(share)}


METHODS: dict[str, Any] = {
    "grad-dot": attribution.GradDot(),
    "grad-cos": attribution.GradCos(),
    "grad-dot, projected": attribution.GradDot(projection=64),
    "TracIn": attribution.TracIn(3),
    "path similarity": attribution.PathSimilarity(3),
    "path audit": attribution.PathAudit(),
    "influence": attribution.Influence(0.1, layers="last"),
    "nearest in pixels": attribution.NearestNeighbours(),
    "nearest in a layer": attribution.NearestNeighbours("dense1"),
    "representation": attribution.RepresentationCos("dense1"),
    "relative": attribution.Relative(attribution.GradDot()),
    "class-balanced": attribution.ClassBalanced(attribution.GradDot()),
    "same class": attribution.SameClass(),
    "random": attribution.Random(),
}


def attributors(ground: Ground) -> Found:
    """Score by every attributor that needs no extra."""
    found = {name: attribution.attribute(one, ground.run, ground.test).values for name, one in METHODS.items()}
    found["self-influence"] = attribution.self_influence(attribution.GradDot(), ground.run).values
    return found


def maps(ground: Ground) -> Found:
    """Map regions by every engine and recipe, a layer's map, the controls."""
    run, test, pairs = ground.run, ground.test, [(0, 3), (1, 5), (2, 8)]
    cosine = regions.Recipe(score=attribution.GradCos(quantity="logit", layers="last"), map=regions.GradientInput())
    engines: dict[str, regions.Engine] = {"forward": regions.Forward(), "double backward": regions.DoubleBackward()}
    found = {name: regions.region_map(run, test, pairs, engine=one).values for name, one in engines.items()}
    found["cosine"] = regions.region_map(run, test, pairs, recipe=cosine).values
    found["layer"] = regions.layer_map(run, test, pairs, layer="conv2").values
    found["own saliency"] = regions.own_saliency(run, [3, 5]).values
    found["Grad-CAM"] = regions.grad_cam(run, test, [0, 1], layer="conv2").values
    found["integrated gradients"] = regions.integrated_gradients(run, test, [0, 1]).values
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 10)).to(ground.device).double()
    with torch.no_grad():
        for place, one in enumerate(smooth.parameters()):
            one.copy_(torch.randn(one.shape, generator=torch.Generator().manual_seed(place)) * 0.1)
    given: dict[str, Any] = {"train_data": ground.train, "loss": F.cross_entropy}
    whole = regions.Recipe(score=attribution.GradDot(), map=regions.Gradient())
    found["difference"] = regions.region_map(
        smooth, test, pairs, recipe=whole, engine=regions.Difference(), **given
    ).values
    return found


class Attentive(nn.Module):
    """Four rows as tokens, one layer of attention."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        self.enter, self.leave = nn.Linear(16, 16), nn.Linear(16, 10)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, activation="gelu")

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits."""
        mixed: Tensor = self.leave(self.block(self.enter(inputs.flatten(1).unflatten(1, (4, 16)))).mean(1))
        return mixed


def transformer(ground: Ground) -> Found:
    """Score and map with attention, which needs second derivatives."""
    torch.manual_seed(0)
    model = Attentive().to(ground.device).double().eval()
    given: dict[str, Any] = {"train_data": ground.train, "loss": F.cross_entropy}
    return {
        "grad-dot": attribution.attribute(attribution.GradDot(), model, ground.test, **given).values,
        "map": regions.region_map(model, ground.test, [(0, 3), (1, 5)], **given).values,
    }


def kernels(ground: Ground) -> Found:
    """Path kernel, sketch, time kernel, tensor, eigenmodes, answers."""
    run, test = ground.run, ground.test
    found = whence.path_kernel(run, test, run.examples, other_ids=range(60), times=3, by="layer")
    features = kernel.path_features(run, test, 64, times=3)
    square = whence.path_kernel(run, test, times=3)
    told = kernel.answers(run, test)
    exact, mixed = (
        whence.similarity(whence.path_kernel(run, test, run.examples, other_ids=range(60), times=3, precision=one))
        for one in (None, "mixed")
    )
    return {
        "kernel": whence.similarity(found).values,
        "features": features.values,
        "time kernel": kernel.time_kernel(run, test, times=3).values,
        "tensor": kernel.gradient_tensor(run, test, times=2, ids=range(3)).values,
        "eigenvalues": kernel.eigenmodes(whence.similarity(square), 5)["value"].values,
        "answers": np.concatenate([one.values.ravel() for one in told.data_vars.values() if one.dtype.kind == "f"]),
        "nearest by activations": kernel.hidden_top_k(run, test, k=3).values,
        "~mixed precision, error": float(abs(mixed - exact).max()),
    }


def modes(ground: Ground) -> Found:
    """Modes at the end and along the run, coefficients, input sensitivity."""
    run, test = ground.run, ground.test
    found, online = kernel.modes(run, count=10, seed=0), kernel.online_modes(run, 10)
    return {
        "singular values": found.singular_values.cpu().numpy(),
        "coefficients": abs(kernel.coefficients(found, run, test).values),
        "sensitivity": kernel.input_sensitivity(found, run, test, ids=range(4)).to_array().values ** 2,
        "~captured by online modes": float(online.captured[-1]),
    }


def adversaries(ground: Ground) -> Found:
    """The whole study of adversarial inputs, the cure, and adversarial training."""
    run = ground.recorded("attacked", dtype=torch.float32)
    plan = adversarial.Plan(count=6, epsilon=0.15, modes=12, sensitive=12, examples=128, times=3, points=3)
    found = adversarial.study(run, ground.data("test", 200, torch.float32), plan=plan)
    report.save_study(found, ground.folder / "study")
    model = ground.network(torch.float32)
    optimizer, data = torch.optim.Adam(model.parameters(), 5e-3), ground.data("train", TRAIN, torch.float32)
    adversarial.train_against(model, optimizer, data, epochs=1, attack=adversarial.Pgd())
    return {"~claims that hold": sum(one.holds for one in adversarial.findings(found))}


HEADS: dict[str, Any] = {
    "cosine": provenance.CosineHead,
    "linear": provenance.LinearHead,
    "linear of each class": provenance.LinearHead,
    "shared": provenance.SharedHead,
    "codes": partial(provenance.CodeHead, base=32),
    "sparse cosine, drawn negatives": partial(provenance.CosineHead, sparse=True),
    "memory bank": provenance.MemoryBank,
    "neighbours": provenance.Neighbours,
}


def indices(ground: Ground) -> Found:
    """Train a network with each head in mixed precision, with distortions; retrieve, and the applications."""
    data, test = ground.data("train", 300, torch.float32), ground.data("test", 100, torch.float32)
    found: dict[str, Any] = {}
    for name, head in HEADS.items():
        torch.manual_seed(0)
        conditional = name in ("shared", "linear of each class")
        network = provenance.ProvenanceNetwork(
            provenance.small_backbone(data), data, head=head, conditional=conditional
        ).to(ground.device)
        provenance.train(
            network,
            data,
            12,
            objective=provenance.Objective(negatives=64 if "drawn" in name else None, smoothing=0.0),
            distort=provenance.mixture_for(8),
            optimization=provenance.Optimization(rate=5e-3, schedule=provenance.one_cycle, batch_size=50),
            path=ground.folder / f"net-{name.replace(' ', '-')}",
        )
        own = provenance.retrieve(network, data[0], 1).exemplar.values[:, 0]
        found[f"~{name}"] = float((own == np.arange(300)).mean())
    print(evaluation.evaluate_provenance(network, data, test, limit=50), file=sys.stderr)
    print(evaluation.membership_by_index(network, data, test), file=sys.stderr)
    evaluation.entropy_ranking(network, data)
    evaluation.embedding_map(network, test[0], test[1], projection=evaluation.TSNE(5.0))
    evaluation.styles(network, data[0][data[1] == 3], 3)
    leave = provenance.Objective(neighbourhood=0.5, mixing=0.3, drawn=True)
    plain = provenance.two_branches(data, channels=(8, 8, 8), conditional=False, head=provenance.CosineHead)
    provenance.train(plain.to(ground.device), data, 1, objective=leave)
    levels = provenance.shared_levels(data).to(ground.device)
    provenance.train(levels, data, 1)
    scores = attribution.attribute(
        provenance.Provenance(network), network.backbone, test, train_data=data, loss=F.cross_entropy
    )
    assert np.isfinite(scores.values).any()
    return found


def generated(ground: Ground) -> Found:
    """Train the generative network for a little, draw, name sources."""
    data = ground.data("train", 200, torch.float32)
    network = provenance.GenerativeNetwork.convolutional(provenance.class_index(data[1]), (1, 8, 8), latent=16)
    history = provenance.train_generative(network.to(ground.device), data, epochs=4, path=ground.folder / "vae")
    drawn = provenance.generate(network, 4, k=5, seed=1)
    provenance.exemplar_sheet(drawn, data)
    provenance.nearest_in_pixels(drawn, data)
    return {"~reconstruction": float(history.sel(measure="reconstruction")[-1])}


def evaluations(ground: Ground) -> Found:
    """Trainings again, insertion, randomisation, shares of test-specificity."""
    run, test = ground.run, ground.test
    table = evaluation.compare_attributors(run, test, {"cosine": attribution.GradCos()}, ids=list(range(10)), sets=3)
    trained = attribution.as_trained(run)
    pairs = [(one, one + 3) for one in range(4)]
    some = regions.region_map(run, test, pairs)
    step = evaluation.insertion(trained, test, pairs, {"ours": some})
    other = evaluation.reinitialised(run.model, seed=1)
    again = regions.region_map(other, test, pairs, train_data=ground.train, loss=F.cross_entropy)
    randomised = evaluation.model_randomisation(some, again)
    return {"compared": _floats(table), "insertion": _floats(step), "~randomised": float(_floats(randomised)[0])}


def _floats(table: Any) -> np.ndarray:
    parts = table.parts.values() if hasattr(table, "parts") else [table]
    return np.concatenate(
        [one.values.ravel() for part in parts for one in part.data.data_vars.values() if one.dtype.kind == "f"]
    )


def samples(ground: Ground) -> Found:
    """Search invariants by every solver through a prior trained on the device, walk along a level set."""
    model, prior = ground.single, ground.prior
    images = ground.data("test", 100, torch.float32)[0]
    query = images[0].to(ground.device)
    objective = invariants.logits(model, [int(model(query[None]).argmax())])
    solvers: dict[str, Any] = {
        "Gauss-Newton": invariants.GaussNewton(),
        "first order": invariants.FirstOrder(steps=64),
        "Algorithm 1": invariants.InfiniteOptimization(steps=32),
        "feasible Algorithm 1": invariants.InfiniteOptimization(steps=32, feasible=True),
        "Metropolis": invariants.Metropolis(moves=2),
    }
    pool = invariants.draw_pool(prior, 256, device=ground.device)
    found: dict[str, Any] = {}
    for name, solver in solvers.items():
        found[f"~{name}"] = _solved(objective, query, prior, solver=solver, pool=pool, cutoff=0.5)
    made = invariants.invariants(objective, query, prior, 16, data=load_digits("test"))
    invariants.most_telling(made, k=4, real=images)
    evaluation.invariance.spectral_deviation(objective, made)
    invariants.traverse(objective, made.latents[0], made.latents[1], prior, steps=3)
    invariants.triangle(objective, made.latents[:3], prior, resolution=3)
    plain: dict[str, invariants.Prior] = {
        "pixels": invariants.Pixels(images.mean(0), images.std(0) + 0.1),
        "Fourier": invariants.Fourier((1, 8, 8)),
    }
    found |= {f"~{name}": _solved(objective, query, one, pool=32) for name, one in plain.items()}
    return {**found, "~ten logits": _solved(invariants.logits(model), query, prior, pool=pool)}


def _solved(objective: invariants.Objective, query: Tensor, prior: invariants.Prior, **how: Any) -> int:
    try:
        return int(invariants.invariants(objective, query, prior, 8, restarts=0, **how).solved.sum())
    except UnreachedError:
        return 0


def dictionaries(ground: Ground) -> Found:
    """Train a sparse autoencoder of a layer, search a feature's invariants, write the gallery."""
    model, data = ground.single, ground.data("train", TRAIN, torch.float32)
    found: dict[str, Any] = {}
    for kind in (invariants.TopK(4), invariants.Relu()):
        training = invariants.AutoencoderTraining(epochs=5)
        trained = invariants.train_autoencoder(model, "dense1", data, features=64, activation=kind, training=training,
                                               held_out=data, path=ground.folder / f"{kind}.safetensors")  # fmt: skip
        found[f"~explained by {type(kind).__name__}"] = float(trained.figures.explained_variance)
    live = int(np.argmax(trained.figures.density.values))
    invariants.top_activating(model, "dense1", trained.autoencoder, data, [live], 3)
    objective, query = invariants.feature(model, trained, live), data[0][0].to(ground.device)
    made = invariants.invariants(objective, query, ground.prior, 8, pool=128)
    source = attribution.as_trained(model, data, loss=F.cross_entropy)
    report.write_gallery(made, objective, source, ground.folder / "gallery.html", autoencoder=trained)
    return found


def pages(ground: Ground) -> Found:
    """Write the report page of a run on the device, with every panel."""
    run, test = ground.recorded("page", dtype=torch.float32), ground.data("test", TARGETS, torch.float32)
    audit = whence.audit(run, test)
    report.write_report(
        run, audit, test, ground.folder / "page.html", remove=2, retrain=1, regions=2, methods=(attribution.GradCos(),),
        alike=report.MapSettings(limit=20, times=2), invariants=report.InvariantSettings(ground.prior, 4, 3, pool=128),
    )  # fmt: skip
    return {"~characters": len((ground.folder / "page.html").read_text()) // 100_000}


CHECKS: dict[str, Callable[[Ground], Found]] = {
    "audit and counterfactual": audits, "audit of float32": single_precision, "attributors": attributors,
    "region maps": maps, "transformer": transformer, "kernel": kernels, "modes": modes, "adversarial": adversaries,
    "provenance": indices, "generative": generated, "evaluation": evaluations, "invariants": samples,
    "autoencoders": dictionaries, "report": pages,
}  # fmt: skip


def main() -> None:
    """Check, print and write."""
    parser = argparse.ArgumentParser(description="Every capability on a GPU beside the CPU.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", choices=CHECKS, action="append")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        grounds: list[Ground] = []
        for name in ("cpu", options.device):
            place = Path(folder) / f"{len(grounds)}"
            place.mkdir()
            grounds.append(Ground(torch.device(name), place))
        rows = [line for name in options.only or CHECKS for line in compared(name, grounds)]
    found = {"machine": machine(), "rows": rows}
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "cuda.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.results / "cuda.md").write_text("\n".join(page(found)) + "\n")
    wrong = [one for one in rows if not one["holds"]]
    print(f"{len(rows) - len(wrong)} of {len(rows)} hold")
    sys.exit(bool(wrong))


def compared(name: str, grounds: list[Ground]) -> Iterator[dict[str, Any]]:
    """Run a check on both devices, and yield a row for each result."""
    both, seconds = [], []
    for ground in grounds:
        start = time.perf_counter()
        try:
            both.append(CHECKS[name](ground))
        except Exception:
            told = traceback.format_exc()
            print(f"FAILED {name} on {ground.device}\n{told}", flush=True)
            yield {"check": name, "result": "", "holds": False, "error": told[-1500:], "device": str(ground.device)}
            return
        if ground.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    for key, first in both[0].items():
        row: dict[str, Any] = {"check": name, "result": key.lstrip("~"), "seconds": seconds}
        one, other = (np.asarray(given, np.float64) for given in (first, both[1][key]))
        if key.startswith("~"):
            row |= {"cpu": float(one), "device": float(other), "holds": bool(np.isfinite(other))}
        else:
            apart = float(np.nanmax(abs(one - other)) / max(float(np.nanmax(abs(one))), 1e-300))
            row |= {"apart": apart, "holds": apart < EXACT and bool((np.isnan(one) == np.isnan(other)).all())}
        print(json.dumps(row), flush=True)
        yield row


def page(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield f"Machine: {json.dumps(found['machine'], sort_keys=True)}"
    yield ""
    yield "| check | result | greatest difference, or on the CPU and on the device | holds | seconds, CPU and device |"
    yield "|" + "---|" * 5
    for row in found["rows"]:
        told = f"{row['apart']:.1e}" if "apart" in row else f"{row.get('cpu', '')} / {row.get('device', '')}"
        times = " / ".join(f"{one:.1f}" for one in row.get("seconds", ()))
        yield f"| {row['check']} | {row['result']} | {told} | {'yes' if row['holds'] else 'NO'} | {times} |"


if __name__ == "__main__":
    main()
