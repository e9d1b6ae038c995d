"""LightningDiT in its published layout: tiny ones are saved, loaded, decoded, and compared with plain formulas."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from whence._errors import ArgumentError, DataError
from whence.invariants.priors import Chain, LightningFlow, draw, lightning_flow, load_lightningdit

HIDDEN, HEADS, CHANNELS, SIDE = 16, 2, 4, 4


def linear(out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {"weight": (out, into), "bias": (out,)}


def named(name: str, parts: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": shape for part, shape in parts.items()}


def transformer_tensors(
    *, patch: int = 1, swiglu: bool = True, rope: bool = True, rms: bool = True, qk: bool = False,
    shift: bool = True, variance: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """Return random tensors with the names and shapes of the published transformer."""
    grid, inner = SIDE // patch, 10
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, grid**2, HIDDEN),
        "x_embedder.proj.weight": (HIDDEN, CHANNELS, patch, patch), "x_embedder.proj.bias": (HIDDEN,),
        "y_embedder.embedding_table.weight": (11, HIDDEN),
        **named("t_embedder.mlp.0", linear(HIDDEN, 256)), **named("t_embedder.mlp.2", linear(HIDDEN, HIDDEN)),
        **named("final_layer.linear", linear(patch**2 * CHANNELS * (1 + variance), HIDDEN)),
        **named("final_layer.adaLN_modulation.1", linear(2 * HIDDEN, HIDDEN)),
    }  # fmt: skip
    for block in ("blocks.0", "blocks.1"):
        shapes |= named(f"{block}.attn.qkv", linear(3 * HIDDEN, HIDDEN))
        shapes |= named(f"{block}.attn.proj", linear(HIDDEN, HIDDEN))
        shapes |= named(f"{block}.adaLN_modulation.1", linear((6 if shift else 4) * HIDDEN, HIDDEN))
        if swiglu:
            shapes |= named(f"{block}.mlp.w12", linear(2 * inner, HIDDEN)) | named(
                f"{block}.mlp.w3", linear(HIDDEN, inner)
            )
        else:
            shapes |= named(f"{block}.mlp.fc1", linear(inner, HIDDEN)) | named(
                f"{block}.mlp.fc2", linear(HIDDEN, inner)
            )
        if rms:
            shapes |= {f"{block}.norm1.weight": (HIDDEN,), f"{block}.norm2.weight": (HIDDEN,)}
        if qk:
            for norm in ("q_norm", "k_norm"):
                shapes[f"{block}.attn.{norm}.weight"] = (HIDDEN // HEADS,)
                if not rms:
                    shapes[f"{block}.attn.{norm}.bias"] = (HIDDEN // HEADS,)
    if rms:
        shapes["final_layer.norm_final.weight"] = (HIDDEN,)
    generator = torch.Generator().manual_seed(0)
    found = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    if rope:
        found |= {f"feat_rope.freqs_{one}": two for one, two in zip(("cos", "sin"), rotary(grid), strict=True)}
    return found


def rotary(grid: int) -> tuple[Tensor, Tensor]:
    """Return the published table of angles, place by place: pairs turn with the row, then pairs with the column."""
    half = HIDDEN // HEADS // 2
    rows = []
    for row in range(grid):
        for column in range(grid):
            angles = [place * 10_000 ** (-pair / half) for place in (row, column) for pair in range(0, half, 2)]
            rows.append([angle for angle in angles for _ in range(2)])
    table = torch.tensor(rows, dtype=torch.float64)
    return table.cos().float(), table.sin().float()


def decoder_tensors() -> dict[str, Tensor]:
    """Return random tensors of a VA-VAE of two sizes, with what is not its decoder's beside."""
    wide, narrow = 64, 32

    def conv(out: int, into: int, side: int = 3) -> dict[str, tuple[int, ...]]:
        return {"weight": (out, into, side, side), "bias": (out,)}

    def norm(width: int) -> dict[str, tuple[int, ...]]:
        return {"weight": (width,), "bias": (width,)}

    def block(name: str, into: int, out: int) -> dict[str, tuple[int, ...]]:
        found = named(f"{name}.norm1", norm(into)) | named(f"{name}.conv1", conv(out, into))
        found |= named(f"{name}.norm2", norm(out)) | named(f"{name}.conv2", conv(out, out))
        return found | (named(f"{name}.nin_shortcut", conv(out, into, 1)) if into != out else {})

    def attention(name: str) -> dict[str, tuple[int, ...]]:
        parts = [named(f"{name}.{one}", conv(wide, wide, 1)) for one in ("q", "k", "v", "proj_out")]
        return named(f"{name}.norm", norm(wide)) | {key: one for part in parts for key, one in part.items()}

    shapes = {
        **named("post_quant_conv", conv(CHANNELS, CHANNELS, 1)), **named("decoder.conv_in", conv(wide, CHANNELS)),
        **block("decoder.mid.block_1", wide, wide), **attention("decoder.mid.attn_1"),
        **block("decoder.mid.block_2", wide, wide),
        **block("decoder.up.1.block.0", wide, wide), **attention("decoder.up.1.attn.0"),
        **named("decoder.up.1.upsample.conv", conv(wide, wide)), **block("decoder.up.0.block.0", wide, narrow),
        **named("decoder.norm_out", norm(narrow)), **named("decoder.conv_out", conv(3, narrow)),
        "encoder.conv_in.weight": (2, 3, 3, 3), "loss.logvar": (1,), "foundation_model.model.x": (2,),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


CONFIG: dict[str, Any] = {
    "data": {"latent_norm": True, "latent_multiplier": 2.0},
    "model": {"model_type": "tiny", "num_heads": HEADS},
    "sample": {"num_sampling_steps": 5, "timestep_shift": 0.3},
}
YAML = "data: {latent_norm: true, latent_multiplier: 2.0}\nsample: {num_sampling_steps: 5, timestep_shift: 0.3}\n"


def published(folder: Path, **options: bool | int) -> tuple[Path, Path, Path]:
    """Save a tiny LightningDiT and VA-VAE as their authors save them."""
    (folder / "config.yaml").write_text(YAML)
    torch.save({"ema": transformer_tensors(**options), "opt": {"lr": 0.1}}, folder / "dit.pt")  # type: ignore[arg-type]
    torch.save({"state_dict": decoder_tensors()}, folder / "vae.pt")
    statistics = {"mean": torch.arange(4.0).view(1, 4, 1, 1), "std": torch.arange(1.0, 5.0).view(1, 4, 1, 1)}
    torch.save(statistics, folder / "latents_stats.pt")
    return folder, folder / "dit.pt", folder / "vae.pt"


def test_published_files_are_loaded_with_what_they_tell(tmp_path: Path) -> None:
    prior = load_lightningdit(*published(tmp_path))
    assert isinstance(prior, Chain)
    assert (prior.latent_shape, prior.steps, prior.evaluations) == ((4, 4, 4), 4, 4)
    assert (prior.label, prior.multiplier, prior.shift) == (10, 2.0, 0.3)
    for name, one in transformer_tensors().items():
        assert torch.equal(prior.transformer.state_dict()[name], one)
    images = prior.decode(draw(prior, 2, seed=0))
    assert images.shape == (2, 3, 8, 8)
    assert bool(images.isfinite().all())
    save_file(transformer_tensors(), tmp_path / "dit.safetensors")
    same = load_lightningdit(CONFIG, tmp_path / "dit.safetensors", tmp_path / "vae.pt", steps=2)
    assert torch.equal(same.decode(draw(prior, 2, seed=0)), prior.with_steps(2).decode(draw(prior, 2, seed=0)))


@pytest.mark.parametrize(
    "options",
    [{}, {"patch": 2}, {"swiglu": False}, {"rope": False}, {"rms": False}, {"qk": True}, {"qk": True, "rms": False},
     {"shift": False}, {"variance": True, "patch": 2}],
    ids=str,
)  # fmt: skip
def test_velocities_are_those_of_the_published_formulas(options: dict[str, Any], tmp_path: Path) -> None:
    _, checkpoint, vae = published(tmp_path, **options)
    prior = load_lightningdit({**CONFIG, "data": {}}, checkpoint, vae).double()
    tensors = {name: one.double() for name, one in transformer_tensors(**options).items()}
    latents, times = draw(prior, 2, seed=0, dtype=torch.float64), torch.tensor([0.2, 0.7], dtype=torch.float64)
    found = prior.transformer(latents, times, torch.tensor([10, 3]))
    expected = np.stack([velocity(tensors, *one, **options) for one in zip(latents, times, (10, 3), strict=True)])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9)


def velocity(
    t: dict[str, Tensor], latent: Tensor, time: Tensor, label: int, *, patch: int = 1, swiglu: bool = True,
    rope: bool = True, rms: bool = True, qk: bool = False, shift: bool = True, variance: bool = False,
) -> np.ndarray:  # fmt: skip
    """Return the velocity of one latent, written out with loops over heads and places."""

    def norm(x: Tensor, name: str, eps: float = 1e-6) -> Tensor:
        if rms:
            return x / (x.square().mean(1, keepdim=True) + eps).sqrt() * t[f"{name}.weight"]
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + eps).sqrt()
        return x * t[f"{name}.weight"] + t[f"{name}.bias"] if f"{name}.weight" in t else x

    def dense(x: Tensor, name: str) -> Tensor:
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def turn(x: Tensor) -> Tensor:
        cosines, sines, out = t["feat_rope.freqs_cos"], t["feat_rope.freqs_sin"], torch.zeros_like(x)
        for one in range(0, x.shape[1], 2):
            out[:, one] = x[:, one] * cosines[:, one] - x[:, one + 1] * sines[:, one]
            out[:, one + 1] = x[:, one + 1] * cosines[:, one + 1] + x[:, one] * sines[:, one + 1]
        return out

    grid, width = SIDE // patch, HIDDEN // HEADS
    corners = [(row * patch, column * patch) for row in range(grid) for column in range(grid)]
    cut = [latent[:, row : row + patch, column : column + patch] for row, column in corners]
    seen = torch.stack([(t["x_embedder.proj.weight"] * one).sum((1, 2, 3)) for one in cut])
    state = seen + t["x_embedder.proj.bias"] + t["pos_embed"][0]
    angles = [float(time) * math.exp(-math.log(10_000) * one / 128) for one in range(128)]
    waves = torch.tensor([*map(math.cos, angles), *map(math.sin, angles)], dtype=torch.float64)
    told = dense(F.silu(dense(waves, "t_embedder.mlp.0")), "t_embedder.mlp.2")
    told = told + t["y_embedder.embedding_table.weight"][label]
    for block in ("blocks.0", "blocks.1"):
        parts = dense(F.silu(told), f"{block}.adaLN_modulation.1").view(-1, HIDDEN)
        a, b, c, d, e, f = parts if shift else (0 * parts[0], parts[0], parts[1], 0 * parts[0], parts[2], parts[3])
        mixed = dense(norm(state, f"{block}.norm1") * (1 + b) + a, f"{block}.attn.qkv")
        heads = []
        for head in range(HEADS):
            q, k, v = (mixed[:, i * HIDDEN + head * width : i * HIDDEN + (head + 1) * width] for i in range(3))
            if qk:
                eps = 1e-6 if rms else 1e-5
                q, k = norm(q, f"{block}.attn.q_norm", eps), norm(k, f"{block}.attn.k_norm", eps)
            q, k = (turn(q), turn(k)) if rope else (q, k)
            heads.append((q @ k.T / width**0.5).softmax(1) @ v)
        state = state + c * dense(torch.cat(heads, 1), f"{block}.attn.proj")
        inner = norm(state, f"{block}.norm2") * (1 + e) + d
        if swiglu:
            both = dense(inner, f"{block}.mlp.w12")
            inner = dense(F.silu(both[:, :10]) * both[:, 10:], f"{block}.mlp.w3")
        else:
            inner = dense(F.gelu(dense(inner, f"{block}.mlp.fc1"), approximate="tanh"), f"{block}.mlp.fc2")
        state = state + f * inner
    a, b = dense(F.silu(told), "final_layer.adaLN_modulation.1").view(2, HIDDEN)
    patches = dense(norm(state, "final_layer.norm_final") * (1 + b) + a, "final_layer.linear")
    channels, out = CHANNELS * (1 + variance), np.zeros((CHANNELS, SIDE, SIDE))
    for place, one in enumerate(patches.view(-1, patch, patch, channels)):
        row, column = place // grid * patch, place % grid * patch
        out[:, row : row + patch, column : column + patch] = one.permute(2, 0, 1)[:CHANNELS]
    return out


def test_steps_are_eulers_over_shifted_times_and_latents_get_their_statistics_back(tmp_path: Path) -> None:
    prior = load_lightningdit(*published(tmp_path)).double()
    state = draw(prior, 1, seed=0, dtype=torch.float64)
    expected = state
    times = [0.3 * share / (1 - 0.7 * share) for share in np.linspace(0, 1, 5)]
    for time, after in itertools.pairwise(times):
        slope = prior.transformer(expected, torch.tensor([time]).double(), torch.tensor([10]))
        expected = expected + (after - time) * slope
    own = expected * torch.arange(1.0, 5.0).view(4, 1, 1) / 2 + torch.arange(4.0).view(4, 1, 1)
    np.testing.assert_allclose(prior.decode(state), prior.decoder(own), rtol=1e-9)
    torch.testing.assert_close(
        prior.advance(state, 0)[1], state + prior.transformer(state, torch.zeros(1).double(), torch.tensor([10]))
    )


def test_the_gradient_is_the_plain_ones_and_that_of_central_differences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = load_lightningdit(*published(tmp_path)).double()
    latents = draw(prior, 1, seed=0, dtype=torch.float64)
    kept = gradient(prior, latents)
    direction = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ends = [float(prior.decode(latents + sign * 1e-5 * direction).square().sum()) for sign in (1, -1)]
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float((kept * direction).sum()), rel=1e-6)
    monkeypatch.setattr(lightning_flow, "recomputed", lambda network, *inputs: network(*inputs))
    assert torch.equal(kept, gradient(prior, latents))


def gradient(prior: LightningFlow, latents: Tensor) -> Tensor:
    points = latents.clone().requires_grad_()
    return torch.autograd.grad(prior.decode(points).square().sum(), points)[0]


def test_the_decoder_is_that_of_diffusers_latent_models(tmp_path: Path) -> None:
    """Attention, residual blocks and doubling by name: against the formulas of one block written out."""
    prior = load_lightningdit(*published(tmp_path)).double()
    t = {name: one.double() for name, one in decoder_tensors().items()}
    state = torch.randn(1, 64, 4, 4, dtype=torch.float64)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.group_norm(x, 32, t[f"{name}.weight"], t[f"{name}.bias"], 1e-6)

    def conv(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, t[f"{name}.weight"], t[f"{name}.bias"], padding=t[f"{name}.weight"].shape[2] // 2)

    name = "decoder.mid.attn_1"
    q, k, v = (conv(norm(state, f"{name}.norm"), f"{name}.{one}").view(64, 16) for one in "qkv")
    weights = [(q[:, one] @ k / 8).softmax(0) for one in range(16)]
    seen = torch.stack([v @ one for one in weights], 1)
    expected = state + conv(seen.view(1, 64, 4, 4), f"{name}.proj_out")
    torch.testing.assert_close(prior.decoder.decoder.mid["attn_1"](state), expected)
    name = "decoder.up.0.block.0"
    inner = conv(F.silu(norm(state, f"{name}.norm1")), f"{name}.conv1")
    expected = conv(state, f"{name}.nin_shortcut") + conv(F.silu(norm(inner, f"{name}.norm2")), f"{name}.conv2")
    torch.testing.assert_close(prior.decoder.decoder.up.get_submodule("0.block.0")(state), expected)


def test_files_of_another_kind_are_refused_in_words(tmp_path: Path) -> None:
    folder, checkpoint, vae = published(tmp_path)
    with pytest.raises(DataError, match=r"holds no LightningDiT: .*hustvl/LightningDiT"):
        load_lightningdit(folder, vae, vae)
    with pytest.raises(DataError, match=r"holds no decoder of a VA-VAE: .*Give its published file"):
        load_lightningdit(folder, checkpoint, checkpoint)
    torch.save({"ema": transformer_tensors(), "args": Path("x")}, tmp_path / "unsafe.pt")
    with pytest.raises(DataError, match=r"cannot be read: .*Only tensors are ever unpickled here"):
        load_lightningdit(folder, tmp_path / "unsafe.pt", vae)
    extra = tmp_path / "extra.pt"
    torch.save({"model": {**transformer_tensors(), "more": torch.zeros(1)}}, extra)
    with pytest.raises(DataError, match=r"(?s)holds no LightningDiT: .*Unexpected key\(s\).*more"):
        load_lightningdit(folder, extra, vae)
    torch.save({"model": 3}, extra)
    with pytest.raises(DataError, match=r"holds no tensors by name, under ema"):
        load_lightningdit(folder, extra, vae)
    with pytest.raises(DataError, match=r"no mean and std of 4 channels"):
        load_lightningdit(folder, checkpoint, vae, statistics=vae)
    (tmp_path / "latents_stats.pt").unlink()
    with pytest.raises(DataError, match=r"there is no latents_stats\.pt beside its configuration"):
        load_lightningdit(folder, checkpoint, vae)
    (tmp_path / "more.yaml").write_text("a: 1")
    with pytest.raises(DataError, match=r"holds 2 YAML files"):
        load_lightningdit(folder, checkpoint, vae)
    with pytest.raises(DataError, match=r"holds no configuration: "):
        load_lightningdit(checkpoint, checkpoint, vae)
    torch.save(transformer_tensors(rope=False), extra)
    with pytest.raises(ArgumentError, match=r"how many heads .* model_type of LightningDiT-B, .*; got None"):
        load_lightningdit({}, extra, vae)
    torch.save({"x_embedder.proj.weight": torch.zeros(2, 2)}, extra)
    with pytest.raises(DataError, match=r"holds no LightningDiT: .*Supported are"):
        load_lightningdit({}, extra, vae)
    odd = decoder_tensors() | {"decoder.conv_out.weight": torch.zeros(3, 32)}
    torch.save(odd, extra)
    with pytest.raises(DataError, match=r"holds no decoder of a VA-VAE: "):
        load_lightningdit({}, checkpoint, extra)
    with pytest.raises(ArgumentError, match=r"num_sampling_steps of the configuration .*; got 'many'"):
        load_lightningdit({"sample": {"num_sampling_steps": "many"}}, checkpoint, vae)
    with pytest.raises(ArgumentError, match=r"sample of the configuration is of names and values; got 3"):
        load_lightningdit({"sample": 3}, checkpoint, vae)
    assert load_lightningdit({"sample": None}, checkpoint, vae).steps == 249
    with pytest.raises(ArgumentError, match=r"label is a class from 0 to 10; got 11"):
        load_lightningdit({}, checkpoint, vae, label=11)
    with pytest.raises(ArgumentError, match=r"shift and multiplier are numbers above 0; got -1 and 0\.18215"):
        load_lightningdit({"sample": {"timestep_shift": -1}}, checkpoint, vae)
