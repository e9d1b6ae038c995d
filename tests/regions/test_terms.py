"""A map of one audit's term: its score is the audit's own entry, its gradient that of the term."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer, RMSprop

import whence
from whence import WhenceError
from whence.regions import AuditTerm, Gradient, Integrated, Recipe, region_map

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda given: SGD(given, 0.3),
    "momentum": lambda given: SGD(given, 0.2, momentum=0.8, weight_decay=0.1, nesterov=True),
    "RMSprop": lambda given: RMSprop(given, 0.02),
    "AdamW": lambda given: AdamW(given, 0.05, weight_decay=0.3),
}
STEP = 3  # of 6: in the second segment of three
RATE = 0.3


def data(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (count,), generator=generator)


def network(*extra: nn.Module) -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), *extra, nn.Linear(5, 3)).double()


def trained(path: Path, optimizer: str, model: nn.Module, *, clip: float | None = None, accumulate: int = 1) -> Any:
    made, train = OPTIMIZERS[optimizer](model.parameters()), data(12, 0)
    with whence.record(path, model, made, train, loss=F.cross_entropy, snapshot_every=2) as recorder:
        for epoch in range(2):
            for number, (x, y) in enumerate(recorder.batches(batch_size=4 // accumulate, shuffle=True, seed=epoch)):
                (F.cross_entropy(model(x), y) / accumulate).backward()
                if (number + 1) % accumulate == 0:
                    if clip:
                        nn.utils.clip_grad_norm_(model.parameters(), clip)
                    made.step()
                    made.zero_grad()
    return whence.open_run(path, model, train, loss=F.cross_entropy)


def maps(run: Any, score: AuditTerm, pairs: Any, way: Any = None, **options: Any) -> xr.DataArray:
    recipe = Recipe(score, way or Gradient(), **options)
    return region_map(run, data(3, 1), pairs, recipe=recipe)


def drawn(run: Any, step: int = STEP) -> list[int]:
    return [int(one) for one in torch.cat(run.record_of(step).batches)]


@pytest.mark.parametrize(
    ("optimizer", "score"),
    [
        ("SGD", AuditTerm(STEP, quadrature="euler")),
        ("SGD", AuditTerm(STEP, "logit", ["2"], "gauss2")),
        ("momentum", AuditTerm(STEP, layers=["2"])),
        ("momentum", AuditTerm(0, "logit")),
        ("RMSprop", AuditTerm(STEP)),
        ("AdamW", AuditTerm(STEP, "margin", ["0"], "gauss2")),
        ("AdamW", AuditTerm(5)),
    ],
    ids=str,
)
def test_the_score_is_the_audits_entry_of_that_step(optimizer: str, score: AuditTerm, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", optimizer, network())
    pairs = [(n, m) for n in (2, 0) for m in drawn(run, score.step)]
    asked: Any = {"quantity": score.quantity, "quadrature": score.quadrature}
    entries = whence.audit(run, data(3, 1), by=("step", "layer"), **asked).influence.sel(step=score.step)
    term = entries.sel(layer=["0", "2"] if score.layers == "all" else list(score.layers)).sum("layer")
    found = maps(run, score, pairs)
    np.testing.assert_allclose(
        found["score"], [float(term.sel(target=n, train=m)) for n, m in pairs], rtol=1e-9, atol=1e-13
    )
    sign = "negative" if score.quantity == "loss" else "positive"
    assert f"{sign} scores = the example helps" in found.attrs["sign"]


@pytest.mark.parametrize(("clip", "accumulate"), [(0.1, 1), (None, 2)], ids=["clipped", "accumulated"])
def test_clipping_and_accumulation_are_in_the_term(clip: float | None, accumulate: int, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "momentum", network(), clip=clip, accumulate=accumulate)
    pairs = [(1, m) for m in drawn(run)]
    entries = whence.audit(run, data(3, 1), by="step").influence.sel(step=STEP)
    found = maps(run, AuditTerm(STEP), pairs)
    np.testing.assert_allclose(found["score"], [float(entries.sel(target=n, train=m)) for n, m in pairs], rtol=1e-9)


def flat(value: Tensor, model: nn.Module, graph: bool = False) -> Tensor:
    found = torch.autograd.grad(value, list(model.parameters()), create_graph=graph)
    return torch.cat([one.flatten() for one in found])


def test_the_map_is_autograd_of_the_term(tmp_path: Path) -> None:
    model = network()
    run = trained(tmp_path / "run", "SGD", model)
    (x, y), (t, labels), ids = data(12, 0), data(3, 1), drawn(run)
    pairs = [(n, m) for n in range(3) for m in ids[:2]]
    found = maps(run, AuditTerm(STEP), pairs)
    states = [run.state_at(one).parameters for one in (STEP, STEP + 1)]
    for place, (n, m) in enumerate(pairs):
        ends = []
        for state in states:
            model.load_state_dict(state)
            ends.append(flat(F.cross_entropy(model(t[n : n + 1]), labels[n : n + 1]), model))
        model.load_state_dict(states[0])
        point = x[m].clone().requires_grad_()
        gradient = flat(F.cross_entropy(model(point[None]), y[m : m + 1]), model, graph=True)
        term = -RATE / len(ids) * (gradient * (ends[0] + ends[1]) / 2).sum()
        np.testing.assert_allclose(found[place], torch.autograd.grad(term, point)[0], rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(found["score"][place], term.detach(), rtol=1e-9)


def test_shares_of_a_term_add_up_to_its_change_from_the_baseline(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "AdamW", network())
    pairs = [(0, m) for m in drawn(run)]
    found = maps(run, AuditTerm(STEP), pairs, Integrated(20), baseline=0.0)
    assert abs(found["remainder"]).max() < 1e-6 * abs(found).max()
    assert found.attrs["unit"] == whence.audit(run, data(3, 1)).unit


@pytest.mark.parametrize(
    ("score", "train", "words"),
    [
        (AuditTerm(6), 0, r"No step 6 in the run at .*: it has 6, 0 to 5\."),
        (
            AuditTerm(STEP),
            -1,
            r"No training example \d+ in the batch of step 3, .* 0\. Its batch holds 4: \d+, \d+, \d+, ",
        ),
        (AuditTerm(STEP, layers=["zero"]), 0, r"No layer 'zero' in the model Sequential"),
    ],
)
def test_steps_and_examples_that_are_not_there_are_refused(
    score: AuditTerm, train: int, words: str, tmp_path: Path
) -> None:
    run = trained(tmp_path / "run", "SGD", network())
    there = drawn(run)
    absent = next(one for one in range(12) if one not in there)
    with pytest.raises(WhenceError, match=words):
        maps(run, score, [(0, absent if train < 0 else there[0])])


def test_a_model_without_a_run_is_refused() -> None:
    with pytest.raises(WhenceError, match=r"AuditTerm needs a recorded run; a trained model was given\. Record"):
        region_map(
            network(), data(3, 1), [(0, 0)], recipe=Recipe(AuditTerm(0)), train_data=data(12, 0), loss=F.cross_entropy
        )


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(5)], ids=lambda one: type(one).__name__)
def test_a_gradient_that_cannot_be_made_again_is_refused(layer: nn.Module, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "SGD", network(layer))
    with pytest.raises(
        WhenceError, match=rf"At step 3 the gradient of training example {drawn(run)[0]} was .* dropout"
    ):
        maps(run, AuditTerm(STEP), [(0, drawn(run)[0])])


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(WhenceError, match=r"`step` is the number of a recorded step, from 0; got -1"):
        AuditTerm(-1)
    with pytest.raises(WhenceError, match=r"No quadrature 'midpoint'\. Choose one of: euler"):
        AuditTerm(0, quadrature="midpoint")
