"""Diffusion models under every scheduler: the checkpointed gradient is the plain one, and decoding is a function."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from whence._errors import ArgumentError, DataError, ShapeError
from whence.invariants.priors import Chain, Diffusion, draw, evaluations, load_diffusion
from whence.invariants.priors import diffusion as module

diffusers = module.diffusers()

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DDIMScheduler", {}),
    "DDIM parallel": ("DDIMParallelScheduler", {}),
    "DDPM": ("DDPMScheduler", {}),
    "DDPM parallel": ("DDPMParallelScheduler", {}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}),
    "PNDM with Runge-Kutta": ("PNDMScheduler", {}),
    "FlowMatchEuler": ("FlowMatchEulerDiscreteScheduler", {}),
    "FlowMatchEuler with noise": ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    "FlowMatchHeun": ("FlowMatchHeunDiscreteScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "KDPM2": ("KDPM2DiscreteScheduler", {}),
    "KDPM2 ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "DPM++ multistep": ("DPMSolverMultistepScheduler", {}),
    "DPM++ multistep with noise": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "DPM++ singlestep": ("DPMSolverSinglestepScheduler", {}),
    "DEIS": ("DEISMultistepScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "SA": ("SASolverScheduler", {}),
    "LCM": ("LCMScheduler", {}),
    "TCD": ("TCDScheduler", {}),
    "IPNDM": ("IPNDMScheduler", {}),
    "EDM Euler": ("EDMEulerScheduler", {}),
    "EDM DPM++": ("EDMDPMSolverMultistepScheduler", {}),
    "consistency": ("CMStochasticIterativeScheduler", {}),
}
STEPS = 3


def steps_of(name: str) -> int:
    return 4 if name == "PNDM with Runge-Kutta" else STEPS  # which takes four at least


def scheduler(name: str, **more: Any) -> Any:
    cls, options = SCHEDULERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy, on what schedulers turn into arrays
        return getattr(diffusers, cls)(**{**options, **more})


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    torch.manual_seed(0)
    found = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8,), norm_num_groups=2,
        add_attention=False,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    found.requires_grad_(False)
    return found  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def exact(unet: nn.Module) -> nn.Module:
    found = diffusers.UNet2DModel.from_config(unet.config)
    found.load_state_dict(unet.state_dict())
    return found.double().requires_grad_(False)  # type: ignore[no-any-return]


def plain(network: Callable[..., Tensor], *inputs: Any) -> Tensor:
    return network(*inputs)


def gradient(prior: Diffusion, latents: Tensor) -> Tensor:
    points = latents.clone().requires_grad_()
    return torch.autograd.grad(prior.decode(points).square().sum(), points)[0]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_checkpointed_gradient_is_that_of_the_plain_graph_bit_for_bit(
    name: str, unet: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = Diffusion(unet, scheduler(name), steps=steps_of(name))
    latents = draw(prior, 2, seed=0)
    kept = gradient(prior, latents)
    monkeypatch.setattr(module, "recomputed", plain)
    assert torch.equal(kept, gradient(prior, latents))  # nor is any state left over from the decoding before
    assert float(kept.norm()) > 0
    assert bool(kept.isfinite().all())


@pytest.mark.parametrize("name", SCHEDULERS)
def test_decoding_is_a_function_of_each_latent_alone_and_the_chain_walked_by_hand(name: str, unet: nn.Module) -> None:
    prior = Diffusion(unet, scheduler(name), steps=steps_of(name))
    latents = draw(prior, 2, seed=0)
    with torch.no_grad():
        images = prior.decode(latents)
        torch.manual_seed(123)  # torch's own generator has no part in it
        assert torch.equal(images, by_hand(prior, latents))
        if name != "FlowMatchEuler with noise":  # which draws for the whole batch at once
            torch.testing.assert_close(prior.decode(latents[1:]), images[1:], rtol=1e-4, atol=1e-4)
    assert images.shape == (2, 1, 8, 8)
    assert evaluations(prior) == prior.steps >= 2


def by_hand(prior: Diffusion, state: Tensor) -> Tensor:
    """Return what a chain gives step by step; of schedulers that foresee no end, what it gives again."""
    start = state
    for step in range(prior.steps):
        try:
            state, end = prior.advance(state, step)
        except ArgumentError as error:
            assert "does not tell what a prediction of its model means" in str(error)  # noqa: PT017
            return prior.decode(start)
        assert end.shape == state.shape
    return prior.finish(state)


ROUNDING = {  # every sample to float32, whatever it comes in
    *("FlowMatchEuler", "FlowMatchEuler with noise", "FlowMatchHeun", "Euler", "Euler ancestral", "EDM Euler"),
    *("DPM++ multistep", "DPM++ multistep with noise"),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_gradient_is_that_of_central_differences(name: str, exact: nn.Module) -> None:
    """Extrapolated from two distances, so that what is left is of their fourth power, and what a scheduler rounds."""
    prior = Diffusion(exact, scheduler(name), steps=steps_of(name))
    latents, reach = draw(prior, 1, seed=0, dtype=torch.float64), 4e-3
    found = gradient(prior, latents)
    direction = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    direction /= direction.norm()

    def value(distance: float) -> float:
        with torch.no_grad():
            return float(prior.decode(latents + distance * direction).square().sum())

    far, near = ((value(one) - value(-one)) / (2 * one) for one in (reach, reach / 2))
    slope = (4 * near - far) / 3
    grain = torch.finfo(torch.float32 if name in ROUNDING else torch.float64).eps
    rounded = prior.steps * grain * (value(0.0) + float(found.norm() * latents.norm())) / (reach / 2)
    assert slope == pytest.approx(float((found * direction).sum()), rel=1e-6, abs=rounded)


class _Half(nn.Module):
    """Predicts, whatever the sample, what makes 0.5 the end: the exact model of images that are all 0.5."""

    def __init__(self, kind: str, scheduler: Any) -> None:
        super().__init__()
        self.kind, self.scheduler = kind, scheduler

    def forward(self, sample: Tensor, times: Tensor) -> Tensor:
        if self.kind == "flow":
            return (sample - 0.5) / (times.view(-1, 1, 1, 1) / 1000)
        share = self.scheduler.alphas_cumprod[times.long()].view(-1, 1, 1, 1).to(sample)
        noise = (sample - share.sqrt() * 0.5) / (1 - share).sqrt()
        found: Tensor = noise if self.kind == "epsilon" else share.sqrt() * noise - (1 - share).sqrt() * 0.5
        return found


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    "name", ["DDIM", "DDPM", "Euler", "Heun", "KDPM2", "LMS", "DPM++ multistep", "DEIS", "UniPC", "LCM", "PNDM"]
)
def test_every_step_foresees_the_end_of_a_model_that_knows_it(name: str, kind: str) -> None:
    chosen = scheduler(name, prediction_type=kind)
    prior = Diffusion(_Half(kind, chosen), chosen, (1, 4, 4), STEPS)
    state = draw(prior, 2, seed=0)
    for step in range(prior.steps):
        state, end = prior.advance(state, step)
        # Sigmas between two training times are interpolated, and the times given as whole numbers: to 5 %.
        torch.testing.assert_close(end, torch.full_like(end, 0.5), atol=0.05, rtol=0)


def test_flows_foresee_the_end_and_walk_to_it() -> None:
    prior = Diffusion(_Half("flow", None), scheduler("FlowMatchEuler"), (1, 4, 4), STEPS, bounds=(0.0, 1.0))
    state = draw(prior, 2, seed=0)
    assert isinstance(prior, Chain)
    for step in range(prior.steps):
        state, end = prior.advance(state, step)
        torch.testing.assert_close(prior.finish(end), torch.full_like(end, 0.75))  # 0.5 of -1 to 1
    torch.testing.assert_close(prior.decode(draw(prior, 2, seed=0)), prior.finish(state))


def test_each_channel_is_brought_to_its_own_range() -> None:
    bounds = ((-2.0, 0.0), (2.0, 5.0))
    prior = Diffusion(_Half("flow", None), scheduler("FlowMatchEuler"), (2, 4, 4), STEPS, bounds=bounds)
    assert prior.bounds == (-2.0, 5.0)
    images = prior.with_steps(2).decode(draw(prior, 1, seed=0))
    torch.testing.assert_close(images[0, 0], torch.full((4, 4), 1.0))  # 0.5 of -1 to 1 is three quarters of the way
    torch.testing.assert_close(images[0, 1], torch.full((4, 4), 3.75))
    with pytest.raises(ArgumentError, match=r"bounds are a least and a greater number, or such for each channel"):
        Diffusion(_Half("flow", None), scheduler("FlowMatchEuler"), (2, 4, 4), STEPS, bounds=((0.0,), (1.0, 2.0)))


def test_nothing_is_clamped_and_your_scheduler_stays_as_it_is(unet: nn.Module) -> None:
    own = diffusers.DDIMScheduler(clip_sample=True, thresholding=True)
    prior = Diffusion(unet.train(), own, steps=2)
    assert not unet.training
    assert own.config.clip_sample
    assert own.config.thresholding
    free = Diffusion(unet, diffusers.DDIMScheduler(clip_sample=False), steps=2)
    latents = 3 * draw(prior, 2, seed=0)
    assert torch.equal(prior.decode(latents), free.decode(latents))


def test_latent_models_are_decoded_by_their_autoencoder_and_null_classes_are_told() -> None:
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=2, out_channels=4, num_layers=1, sample_size=4,
        patch_size=2, norm_num_groups=1, num_embeds_ada_norm=10,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, block_out_channels=(4,), latent_channels=2, norm_num_groups=2, scaling_factor=0.5
    )
    prior = Diffusion(transformer, scheduler("DDIM"), steps=3, vae=vae)
    assert prior.latent_shape == (2, 4, 4)
    seen = []
    handle = transformer.register_forward_pre_hook(
        lambda _module, _args, options: seen.append(options["class_labels"]), with_kwargs=True
    )
    images = prior.decode(draw(prior, 2, seed=0))
    handle.remove()
    assert [one.tolist() for one in seen] == [[10, 10]] * 3  # the class after the ten
    ends = torch.randn(2, 2, 4, 4)
    assert torch.equal(prior.finish(ends), vae.decode(ends / 0.5).sample)
    assert images.shape == (2, 3, 4, 4)


def test_pipelines_are_loaded_from_their_folder(unet: nn.Module, tmp_path: Path) -> None:
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "p")
    prior = load_diffusion(tmp_path / "p", steps=4)
    latents = draw(prior, 2, seed=0)
    assert torch.equal(prior.decode(latents), Diffusion(unet, diffusers.DDPMScheduler(), steps=4).decode(latents))
    other = load_diffusion(tmp_path / "p", steps=4, scheduler="DDIMScheduler")
    assert torch.equal(other.decode(latents), Diffusion(unet, diffusers.DDIMScheduler(), steps=4).decode(latents))


def test_latent_pipelines_are_loaded_with_their_autoencoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=2, out_channels=4, num_layers=1, sample_size=4,
        patch_size=2, norm_num_groups=1, num_embeds_ada_norm=10,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), latent_channels=2, norm_num_groups=2)
    pipeline = diffusers.DiTPipeline(transformer, vae, diffusers.DDIMScheduler())
    pipeline.save_pretrained(tmp_path / "p")
    prior = load_diffusion(tmp_path / "p", steps=3)
    latents = draw(prior, 2, seed=0)
    expected = Diffusion(transformer, diffusers.DDIMScheduler(), steps=3, vae=vae).decode(latents)
    torch.testing.assert_close(prior.decode(latents), expected)  # weights that lie elsewhere in memory: to rounding


def test_folders_of_an_unknown_kind_are_refused_in_words(unet: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no pipeline of diffusers: .*model_index\.json"):
        load_diffusion(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(
        json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]})
    )
    with pytest.raises(DataError, match=r"a StableDiffusionPipeline, .* UNet2DConditionModel.*UNet2DModel or DiTTrans"):
        load_diffusion(tmp_path)
    index.write_text(json.dumps({"_class_name": "Other"}))
    with pytest.raises(DataError, match=r"a Other, .*neither a unet nor a transformer"):
        load_diffusion(tmp_path)
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "p")
    with pytest.raises(ArgumentError, match=r"No scheduler 'DDIM' in diffusers \(similar: DDIMScheduler"):
        load_diffusion(tmp_path / "p", scheduler="DDIM")
    (tmp_path / "p" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(DataError, match=r"unet cannot be read: .*Nothing is ever unpickled"):
        load_diffusion(tmp_path / "p")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("unet/config.json", {"block_out_channels": "x"}, r"unet cannot be read: "),
        ("unet/config.json", {"block_out_channels": [16]}, r"unet cannot be read: .* expected shape"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "x"}, r"scheduler cannot be read: x is not implemented"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": "x"}, r"scheduler cannot be read: "),
        ("model_index.json", {"scheduler": [None, None]}, r"a DDPMPipeline, without a scheduler"),
        ("model_index.json", {"_class_name": None}, r"a list of parts without a kind, with neither a unet"),
    ],
)
def test_settings_that_diffusers_does_not_know_are_refused_in_words(
    file: str, change: dict[str, Any], message: str, unet: nn.Module, tmp_path: Path
) -> None:
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    place = tmp_path / file
    place.write_text(json.dumps({**json.loads(place.read_text()), **change}))
    with pytest.raises(DataError, match=message):
        load_diffusion(tmp_path)


def test_a_part_that_a_pipeline_leaves_out_is_not_missed(unet: nn.Module, tmp_path: Path) -> None:
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "vae": [None, None]}))
    assert load_diffusion(tmp_path).vae is None


def test_what_makes_no_chain_is_refused_in_words(unet: nn.Module) -> None:
    with pytest.raises(ArgumentError, match=r"A Linear has no set_timesteps: it walks no chain"):
        Diffusion(unet, nn.Linear(1, 1))
    with pytest.raises(ArgumentError, match=r"does not tell the size of its samples\. Give shape="):
        Diffusion(nn.Conv2d(1, 1, 1), scheduler("DDIM"))
    with pytest.raises(ArgumentError, match=r"bounds are a least and a greater number"):
        Diffusion(unet, scheduler("DDIM"), bounds=(1.0, 0.0))
    with pytest.raises(ArgumentError, match=r"seed is a whole number, at least 0; got -1"):
        Diffusion(unet, scheduler("DDIM"), seed=-1)
    with pytest.raises(ArgumentError, match=r"a whole number of steps, at least 1; got 0"):
        Diffusion(unet, scheduler("DDIM"), steps=0)
    with pytest.raises(ArgumentError, match=r"DDIMScheduler refuses 2000 steps"):
        Diffusion(unet, scheduler("DDIM"), steps=2000)
    told = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=2, num_class_embeds=3,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    with pytest.raises(ArgumentError, match=r"UNet2DModel wants to be told a class\. .* label="):
        Diffusion(told, scheduler("DDIM"))
    assert Diffusion(told, scheduler("DDIM"), steps=2, label=1).decode(torch.zeros(1, 1, 8, 8)).shape == (1, 1, 8, 8)
    prior = Diffusion(unet, scheduler("DDIM"), steps=2)
    with pytest.raises(ShapeError, match=r"latents of shape \(n, 1, 8, 8\); got \(1, 1, 8, 9\)"):
        prior.decode(torch.zeros(1, 1, 8, 9))
    prior.advance(torch.zeros(1, 1, 8, 8), 0)
    with pytest.raises(ArgumentError, match=r"stands before step 1 of 2 with 1 samples; got step 0 with 1|got step 5"):
        prior.advance(torch.zeros(1, 1, 8, 8), 5)
