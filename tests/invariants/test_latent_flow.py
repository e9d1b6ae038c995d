"""A latent flow: its steps, its gradient beside the plain graph's, its training stopped and gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from whence._errors import ArgumentError, ChangedDataError, DataError, ShapeError
from whence.datasets import load_digits
from whence.invariants import precision
from whence.invariants.priors import (
    Chain,
    LatentFlow,
    PriorSettings,
    Sizes,
    draw,
    evaluations,
    latent_flow,
    load_prior,
    prior_facts,
    train_prior,
)
from whence.invariants.priors.training import MEASURES
from whence.provenance.checkpoints import Checkpoint

SMALL = PriorSettings(epochs=2, flow_steps=24, hidden=16, width=16, latent=4)
RULES = ("euler", "midpoint")


def small(shape: tuple[int, int, int] = (1, 8, 8), spread: float = 0.3, **options: Any) -> LatentFlow:
    """Return a flow whose velocity is not 0, as it is at first."""
    torch.manual_seed(3)
    prior = LatentFlow(Sizes(shape, 5, 16, 16, 2), **options)
    for parameter in prior.velocity.parameters():
        torch.nn.init.normal_(parameter, 0, spread)
    return prior.requires_grad_(False)


def plain(network: Callable[..., Tensor], *inputs: Any) -> Tensor:
    return network(*inputs)


def gradient(prior: LatentFlow, latents: Tensor) -> Tensor:
    points = latents.clone().requires_grad_()
    return torch.autograd.grad(prior.decode(points).square().sum(), points)[0]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 13, 9), (1, 3, 3)])
def test_images_of_any_size_and_channels_are_decoded_and_reconstructed(shape: tuple[int, int, int]) -> None:
    prior = LatentFlow(Sizes(shape, 5, 16, 16, 1))
    images = prior.decode(draw(prior, 2, seed=0))
    assert images.shape == (2, *shape)
    assert prior.reconstruct(torch.rand(3, *shape)).shape == (3, *shape)
    assert isinstance(prior, Chain)


@pytest.mark.parametrize("rule", RULES)
def test_steps_are_those_of_the_rule_written_out(rule: str) -> None:
    prior = small(steps=3, rule=rule).double()
    latents = draw(prior, 4, seed=0, dtype=torch.float64)
    state = latents
    for time in (0.0, 1 / 3, 2 / 3):
        slope = prior.velocity(state, torch.full((4,), time, dtype=torch.float64))
        if rule == "midpoint":
            slope = prior.velocity(state + slope / 6, torch.full((4,), time + 1 / 6, dtype=torch.float64))
        state = state + slope / 3
    brightness = prior.decoder(state * prior.latent_deviation + prior.latent_mean).sigmoid()
    np.testing.assert_allclose(prior.decode(latents), brightness, rtol=1e-12)
    assert evaluations(prior) == {"euler": 3, "midpoint": 6}[rule]


def test_the_rules_converge_to_the_same_flow_at_their_orders() -> None:
    latents = draw(small(), 8, seed=0, dtype=torch.float64)
    prior = small(spread=0.1).double()
    exact = prior.with_steps(256).decode(latents)
    errors = {
        rule: [float((prior.with_steps(steps, rule).decode(latents) - exact).norm()) for steps in (16, 32)]
        for rule in RULES
    }
    assert errors["euler"][0] / errors["euler"][1] == pytest.approx(2, rel=0.2)
    assert errors["midpoint"][0] / errors["midpoint"][1] == pytest.approx(4, rel=0.2)


def test_other_steps_are_the_same_weights() -> None:
    prior = small()
    coarse = prior.with_steps(1, "euler")
    assert (coarse.evaluations, prior.evaluations) == (1, 8)
    assert all(one is two for one, two in zip(prior.parameters(), coarse.parameters(), strict=True))
    prior.double()
    assert coarse.decode(draw(prior, 1, 0, dtype=torch.float64)).dtype == torch.float64


def test_the_end_is_foreseen_exactly_where_the_velocity_does_not_change() -> None:
    prior = small(steps=4)
    for parameter in prior.velocity.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(prior.velocity.get_parameter("last.2.bias"), 0.5)
    state = draw(prior, 2, seed=0)
    for step in range(4):
        state, end = prior.advance(state, step)
        torch.testing.assert_close(prior.finish(end), prior.decode(draw(prior, 2, seed=0)))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_checkpointed_gradient_is_that_of_the_plain_graph_bit_for_bit(
    rule: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = small(steps=5, rule=rule).to(dtype)
    latents = draw(prior, 3, seed=0, dtype=dtype)
    kept = gradient(prior, latents)
    monkeypatch.setattr(latent_flow, "recomputed", plain)
    assert torch.equal(kept, gradient(prior, latents))
    assert float(kept.norm()) > 0


@pytest.mark.parametrize("rule", RULES)
def test_the_gradient_is_that_of_central_differences(rule: str) -> None:
    prior = small(steps=3, rule=rule).double()
    latents = draw(prior, 2, seed=0, dtype=torch.float64)
    found, step = gradient(prior, latents), 1e-5
    differences = torch.zeros_like(latents)
    for place in range(latents.numel()):
        moved = torch.zeros(latents.numel(), dtype=torch.float64)
        moved[place] = step
        ends = [prior.decode(latents + sign * moved.view_as(latents)).square().sum() for sign in (1, -1)]
        differences.view(-1)[place] = (ends[0] - ends[1]) / (2 * step)
    assert float((found - differences).norm() / found.norm()) <= 1e-6


def saved_bytes(prior: LatentFlow, latents: Tensor) -> int:
    """Return the bytes that the graph of a decoding keeps, apart from parameters."""
    own = {one.untyped_storage().data_ptr() for one in (*prior.parameters(), *prior.buffers())}
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        if tensor.untyped_storage().data_ptr() not in own:
            kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        prior.decode(latents.clone().requires_grad_())
    return kept


def test_the_graph_of_more_steps_keeps_nothing_but_their_latents_and_times(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, latents = small(rule="euler"), draw(small(), 64, seed=0)
    few, many = (saved_bytes(prior.with_steps(steps), latents) for steps in (2, 50))
    assert many - few <= 48 * 64 * 4 * (5 + 1)  # the five numbers of each latent and its time, in float32
    monkeypatch.setattr(latent_flow, "recomputed", plain)
    few, many = (saved_bytes(prior.with_steps(steps), latents) for steps in (2, 50))
    assert many - few > 10 * 48 * 64 * 4 * (5 + 1)  # without a checkpoint it keeps the activations too


@pytest.fixture(scope="module")
def images() -> Tensor:
    return load_digits("train").tensors()[0][:200].float() / 16


def data_of(images: Tensor) -> tuple[Tensor, Tensor]:
    return images, torch.zeros(len(images), dtype=torch.int64)


def test_a_training_that_was_stopped_gives_what_one_without_a_stop_gives(
    images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_prior(data_of(images), tmp_path / "whole", SMALL)
    kept = Checkpoint.keep
    for stop in (1, 2, 5):  # within the autoencoder's training, before the flow's, within it

        def keep_and_stop(self: Any, network: Any, optimizers: Any, history: list[Any], stop: int = stop) -> None:
            kept(self, network, optimizers, history)
            if len(history) == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(Checkpoint, "keep", keep_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train_prior(data_of(images), tmp_path / "stopped", SMALL)
    with pytest.raises(DataError, match=r"whose training was cut off\. Go on with the same whence prior train"):
        load_prior(tmp_path / "stopped")
    monkeypatch.setattr(Checkpoint, "keep", kept)
    again = train_prior(data_of(images), tmp_path / "stopped", SMALL)
    for (name, one), two in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    one, two = (prior_facts(tmp_path / name) for name in ("whole", "stopped"))
    assert [row[:-1] for row in one["history"]] == [row[:-1] for row in two["history"]]  # but for the seconds
    assert one["realism"] == two["realism"]
    assert not (tmp_path / "stopped" / "checkpoint").exists()


def test_a_prior_learns_its_images(images: Tensor, tmp_path: Path) -> None:
    settings = PriorSettings(epochs=40, flow_steps=240, hidden=32, width=16, latent=8, rate=5e-3)
    scaled = images * 3 - 1  # the range of the data is kept
    prior = train_prior(data_of(scaled), tmp_path / "p", settings, source="digits")
    facts = prior_facts(tmp_path / "p")
    assert prior.bounds == (-1.0, 2.0)
    coded = [row[0] for row in facts["history"] if row[0] is not None]
    flowed = [row[2] for row in facts["history"] if row[2] is not None]
    assert coded[-1] < 0.7 * coded[0]
    assert flowed[-1] < flowed[0]
    assert facts["measures"] == list(MEASURES)
    assert facts["source"] == "digits"
    assert facts["realism"]["precision"] >= 0.7
    made = prior.decode(draw(prior, 100, seed=1)).flatten(1)
    noise = small().decode(draw(small(), 100, seed=1)).flatten(1) * 3 - 1
    assert float(precision(made, scaled.flatten(1))) > 0.7
    assert float(precision(noise, scaled.flatten(1))) < 0.1
    spread = (scaled - scaled.mean(0)).square().mean()
    assert float((prior.reconstruct(scaled) - scaled).square().mean() / spread) < 0.6


def test_what_a_folder_holds_is_opened_and_what_it_does_not_is_refused_in_words(images: Tensor, tmp_path: Path) -> None:
    one = train_prior(data_of(images), tmp_path / "p", SMALL)
    before = (tmp_path / "p" / "prior.json").read_bytes()
    two = train_prior(data_of(images), tmp_path / "p", SMALL)
    assert torch.equal(one.decode(draw(one, 2, 0)), two.decode(draw(one, 2, 0)))
    assert (tmp_path / "p" / "prior.json").read_bytes() == before
    with pytest.raises(ArgumentError, match=r"of other settings: seed was 0 and is 1\. Give the same to open it"):
        train_prior(data_of(images), tmp_path / "p", PriorSettings(**{**vars(SMALL), "seed": 1}))
    with pytest.raises(ChangedDataError, match=r"holds a prior of other data"):
        train_prior(data_of(images[1:]), tmp_path / "p", SMALL)
    with pytest.raises(DataError, match=r"holds no prior: .* Give a folder that train_prior"):
        load_prior(tmp_path)
    facts = json.loads(before)
    (tmp_path / "p" / "prior.json").write_text(json.dumps({**facts, "latent": 5}))
    with pytest.raises(DataError, match=r"(?s)cannot be read: .*size mismatch"):
        load_prior(tmp_path / "p")
    (tmp_path / "p" / "prior.json").write_text(json.dumps({**facts, "kind": "other"}))
    with pytest.raises(DataError, match=r"holds no latent flow of format 1"):
        load_prior(tmp_path / "p")


def test_data_that_no_prior_is_trained_on_is_refused_in_words(images: Tensor, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"trained on 40 images at least; got 39"):
        train_prior(data_of(images[:39]), tmp_path / "p", SMALL)
    with pytest.raises(DataError, match=r"a batch of this data has the shape \(200, 64\).*channel axis"):
        train_prior(data_of(images.flatten(1)), tmp_path / "p", SMALL)
    with pytest.raises(DataError, match=r"numbers that are not finite"):
        train_prior(data_of(images / 0), tmp_path / "p", SMALL)
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latent": 0}, r"`latent` is a whole number, at least 1; got 0"),
        ({"flow_steps": 0}, r"`flow_steps` is a whole number, at least 1; got 0"),
        ({"seed": -1}, r"`seed` is a whole number, at least 0 and below 2\^32; got -1"),
        ({"rate": 0.0}, r"`rate` is above 0 and `divergence` at least 0; got 0\.0 and 0\.0"),
        ({"rule": "heun"}, r"rule is 'euler' or 'midpoint'; got 'heun'"),
        ({"steps": 0}, r"a whole number of steps, at least 1; got 0"),
    ],
)
def test_settings_are_checked_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        PriorSettings(**options)


def test_sizes_and_inputs_of_another_shape_are_refused_in_words() -> None:
    with pytest.raises(ArgumentError, match=r"width is a multiple of 16, for groups of channels; got 24"):
        Sizes((1, 8, 8), width=24)
    with pytest.raises(ArgumentError, match=r"hidden is a whole number above 0; got 0"):
        Sizes((1, 8, 8), hidden=0)
    with pytest.raises(ShapeError, match=r"latents of shape \(n, 5\); got \(2, 6\)"):
        small().decode(torch.zeros(2, 6))
    with pytest.raises(ShapeError, match=r"images of shape \(1, 8, 8\); got a batch of shape \(2, 1, 8, 7\)"):
        small().reconstruct(torch.zeros(2, 1, 8, 7))
