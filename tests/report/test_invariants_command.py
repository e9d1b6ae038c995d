"""``whence invariants`` does what the library does, and refuses what cannot be in one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from whence import as_examples, cli
from whence._errors import ShapeError
from whence.cli.inverting import _told
from whence.datasets import Images, load_digits
from whence.invariants import (
    Fourier,
    Relu,
    SparseAutoencoder,
    TrainedAutoencoder,
    load_invariants,
    logits,
    save_autoencoder,
)
from whence.invariants.priors import Diffusion, LatentFlow, Sizes, draw
from whence.invariants.priors import diffusion as module
from whence.invariants.priors.storage import save_prior
from whence.report import inverting, study_invariants
from whence.report.asked import named_prior, named_query
from whence.report.demo import small_network

MODEL = "whence.report.demo:small_network"
FEW = ("--samples", 2, "--pool", 32)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def call(*words: object) -> Result:
    return CliRunner().invoke(cli.app, ["invariants", *(str(word) for word in words)])


def refused(*words: object) -> str:
    """Return the one line that a call ends with."""
    result = call(*words)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("whence: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_the_command_writes_the_page_the_set_and_the_pictures(tmp_path: Path) -> None:
    places = ("--out", "set.zarr", "--pictures", "pictures", "--page", "page.html")
    words = (MODEL, "--data", "digits", "--targets", "digits", "--query", 17, "--unit", "logit.3", *FEW)
    result = call(*words, *places, "--json")
    assert result.exit_code == 0, result.output
    told, kept = json.loads(result.stdout), load_invariants("set.zarr")
    assert told["page"] == str(tmp_path / "page.html")
    assert told["solved"] == int(kept.solved.sum()) == 2
    assert told["value"] == pytest.approx(float(logits(small_network(), [3])(load_digits("test")[17][0][None])))
    assert torch.equal(kept.query, load_digits("test")[17][0])
    assert len(list(Path("pictures").iterdir())) == 3
    plain = call(*words, "--page", "page.html").stdout
    assert "solved                  2 of 2\n" in plain
    assert "most telling            sample " in plain


def test_an_image_file_is_brought_to_the_range_of_the_data() -> None:
    pixels = load_digits("test").pixels[17, 0]
    Image.fromarray((pixels.float() * 255 / 16).round().to(torch.uint8).numpy()).save("query.png")
    result = call(MODEL, "--data", "digits", "--query", "query.png", "--unit", "dense1.3", *FEW, "--out", "s.zarr")
    assert result.exit_code == 0, result.output
    torch.testing.assert_close(load_invariants("s.zarr").query, load_digits("test")[17][0], atol=0.003, rtol=0)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_weights_of_a_file_are_used(name: str) -> None:
    network = small_network()
    with torch.no_grad():
        network.get_parameter("dense2.bias").copy_(torch.arange(10.0))
    state = network.state_dict()
    save_file(state, name) if name.endswith("tensors") else torch.save(state, name)
    words = ("--targets", "digits", "--query", 0, "--unit", "logit.9", *FEW, "--json")
    told = json.loads(call(MODEL, "--weights", name, *words).stdout)
    assert told["value"] == pytest.approx(float(logits(network, [9])(load_digits("test")[0][0][None])))


def test_a_feature_of_an_autoencoder_is_kept_and_listed() -> None:
    made = SparseAutoencoder(48, 48, Relu(0.0))
    with torch.no_grad():
        for name, one in made.named_parameters():
            one.copy_(torch.eye(48) if name in ("encoder", "decoder") else torch.zeros(48))
    save_autoencoder(TrainedAutoencoder(made, "dense1"), "features.safetensors")
    query = load_digits("test")[5][0][None]
    active = int((small_network().get_submodule("dense1")(_before_dense1(query)) > 0.05).nonzero()[0, 1])
    words = (MODEL, "--autoencoder", "features.safetensors", "--unit", f"feature.{active}", "--targets", "digits")
    result = call(*words, "--query", 5, *FEW, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["objective"] == f"feature {active} of dense1"
    assert f"feature {active}</th>" in Path("invariants.html").read_text()


def _before_dense1(inputs: torch.Tensor) -> torch.Tensor:
    """Return what enters the layer dense1 of the small network."""
    network, seen = small_network(), []
    network.get_submodule("dense1").register_forward_hook(lambda _layer, args, _out: seen.append(args[0]))
    network(inputs)
    return torch.as_tensor(seen[0]).detach()


DIGIT = (MODEL, "--targets", "digits", "--query", 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*DIGIT, "--unit", "dense7.1"), "dense1"),
        ((*DIGIT, "--unit", "dense1.99"), "No unit of dense1 has the index 99; there are 48, from 0 to 47."),
        ((*DIGIT, "--unit", "logit.12"), "No logit of SmallNet has the index 12; there are 10, from 0 to 9."),
        ((*DIGIT, "--unit", "feature.3"), "--unit feature.3 is of a sparse autoencoder. Give its file with"),
        ((*DIGIT, "--unit", "logit.3", "--solver", "gaus-newton"), "No solver 'gaus-newton' (similar: gauss-newton)."),
        ((*DIGIT, "--unit", "logit.3", "--prior", "nowhere"), "No prior 'nowhere': give the folder that whence prior"),
        ((*DIGIT, "--unit", "logit.3", "--prior", "pixels"), "--prior pixels takes each pixel's mean and deviation"),
        ((*DIGIT, "--unit", "logit.3", "--prior", "."), "Give a folder that train_prior, or whence prior train, wrote"),
        ((*DIGIT, "--unit", "logit.3", "--tolerance", 0), "tolerance is a distance above 0; got 0"),
        ((*DIGIT, "--unit", "logit.3", "--samples", 0), "`samples` of invariants is a whole number, at least 1; got 0"),
        ((*DIGIT, "--unit", "logit.3", "--cutoff", 2), "2"),
        ((*DIGIT, "--unit", "logit.3", "--weights", "none.pt"), "none.pt holds no weights that can be read: "),
        ((*DIGIT, "--unit", "logit.3", "--autoencoder", "none.st"), "none.st holds no autoencoder that can be read: "),
        ((*DIGIT, "--unit", "logit.3", "--model", MODEL), f"{MODEL} names the model already. Leave --model out"),
        ((MODEL, "--unit", "logit.3", "--query", 0), "--query 0 is the id of an example: give --targets, or --data"),
        ((MODEL, "--targets", "digits", "--unit", "logit.3", "--query", 9999), "No target id 9999 among 355: they go"),
        ((MODEL, "--unit", "logit.3", "--query", "no.png"), "--query no.png is neither an image file nor the id of a"),
        (("nowhere", "--unit", "logit.3", "--query", 0), "'nowhere' is neither the folder of a recorded run nor"),
        ((".", "--unit", "logit.3", "--query", 0), ". is a folder: of a recorded run, give --model and --data as"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(words: tuple[object, ...], message: str) -> None:
    assert message in refused(*words, *(() if "--samples" in words else FEW))
    assert not Path("invariants.html").exists()


def test_an_image_of_another_size_is_refused() -> None:
    Image.new("L", (9, 8)).save("query.png")
    words = ("--query", "query.png", "--unit", "logit.3", *FEW)
    message = (
        "query.png is an image of 1 × 8 × 9, and the inputs of the data are of 1 × 8 × 8 (channels, height, width)."
    )
    assert message in refused(MODEL, "--targets", "digits", *words)
    Image.new("L", (20, 20)).save("query.png")
    assert "cannot be called with the query, of shape (1, 20, 20), torch.float32 on cpu: " in refused(MODEL, *words)


def test_a_file_that_is_no_image_is_refused() -> None:
    Path("query.png").write_text("no image")
    assert "query.png is not an image that can be read" in refused(MODEL, "--query", "query.png", "--unit", "logit.3")


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({1: torch.zeros(1)}, "odd.pt holds a dict, not a state dict. Give a .safetensors file, or what torch.save"),
        ([1], "odd.pt holds a list, not a state dict."),
        (small_network(), "it is no file of torch.save, or has more in it than tensors. Give a .safetensors file"),
        ({"model": small_network().state_dict()}, "The weights of odd.pt are of another network: Error(s) in loading"),
    ],
    ids=["numbered", "list", "module", "wrapped"],
)
def test_weights_of_an_unknown_kind_are_refused_without_advice_to_run_them(held: object, message: str) -> None:
    torch.save(held, "odd.pt")
    told = refused(*DIGIT, "--unit", "logit.3", "--weights", "odd.pt")
    assert message in told
    assert "weights_only" not in told


def test_weights_that_were_cut_short_are_refused() -> None:
    torch.save(small_network().state_dict(), "short.pt")
    Path("short.pt").write_bytes(Path("short.pt").read_bytes()[:900])
    told = refused(*DIGIT, "--unit", "logit.3", "--weights", "short.pt")
    assert "short.pt holds no weights that can be read: PytorchStreamReader failed" in told
    assert "internal miniz error" not in told


@pytest.mark.parametrize("mode", ["16 bits", "palette", "RGBA"])
def test_an_image_of_another_mode_is_the_same_image(mode: str) -> None:
    grey = (255 * load_digits("test")[17][0][0]).round().to(torch.uint8).numpy()
    drawn = Image.fromarray(grey.astype("uint16") * 257) if mode == "16 bits" else Image.fromarray(grey)
    (drawn.convert({"palette": "P", "RGBA": "RGBA"}[mode]) if mode != "16 bits" else drawn).save("query.png")
    found = named_query("query.png", as_examples(load_digits("test")))
    torch.testing.assert_close(found, load_digits("test")[17][0], atol=0.003, rtol=0)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16"])
def test_without_data_a_grey_image_has_one_channel(mode: str) -> None:
    Image.new(mode, (8, 8)).save("query.png")
    assert named_query("query.png", None).shape == (1, 8, 8)


def test_an_image_is_no_query_of_a_table() -> None:
    Image.new("L", (8, 8)).save("query.png")
    with pytest.raises(ShapeError, match=r"query\.png is an image, and the inputs of the data have the shape \(7,\)"):
        named_query("query.png", as_examples((torch.zeros(4, 7), torch.zeros(4))))


def test_a_model_folder_of_diffusers_is_a_prior_in_the_range_of_the_data() -> None:
    diffusers = module.diffusers()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8,),
            norm_num_groups=2, add_attention=False, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        )  # fmt: skip
    diffusers.DDPMPipeline(unet, diffusers.DDIMScheduler()).save_pretrained("my model")
    digits = as_examples(load_digits("train"))
    prior = named_prior("my model", digits.batch([0])[0][0], digits)
    assert isinstance(prior, Diffusion)
    assert prior.bounds == (0.0, 1.0)
    assert prior.with_steps(1).decode(draw(prior, 2, seed=0)).shape == (2, 1, 8, 8)
    coloured = as_examples(
        Images(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.arange(2), mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
    )
    prior = named_prior("my model", coloured.batch([0])[0][0], coloured)
    assert isinstance(prior, Diffusion)
    white = prior.finish(torch.ones(1, 3, 8, 8))
    assert white[0, :, 0, 0].tolist() == pytest.approx([5, 3, 7 / 3])  # (1 - mean) / std


def test_a_prior_of_another_shape_is_refused() -> None:
    save_prior(LatentFlow(Sizes((1, 12, 12), latent=4, width=16, hidden=8)), Path("prior"), {})
    message = refused(*DIGIT, "--unit", "logit.3", "--prior", "prior", *FEW)
    assert "The query has the shape (1, 8, 8), and the prior makes inputs of (1, 12, 12)." in message


def test_a_query_outside_of_the_prior_s_range_is_refused() -> None:
    flow = LatentFlow(Sizes((1, 8, 8), latent=4, width=16, hidden=8))
    flow.high.fill_(0.5)
    save_prior(flow, Path("prior"), {})
    message = refused(*DIGIT, "--unit", "logit.3", "--prior", "prior", *FEW)
    assert "The query's numbers go from 0 to 1, and the prior's inputs from 0 to 0.5. Scale the query" in message


def test_a_value_that_is_not_reached_says_how_near_and_shows_the_failures() -> None:
    Path("bright.py").write_text(
        "import torch\nclass Bright(torch.nn.Module):\n"
        "    def forward(self, x):\n        return x.sum((2, 3)).clamp(min=50)\n"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = LatentFlow(Sizes((1, 8, 8), latent=4, width=16, hidden=8))  # untrained: its images are grey
    save_prior(flow, Path("prior"), {})
    Image.new("L", (8, 8), 255).save("query.png")
    words = ("--query", "query.png", "--unit", "logit.0", "--prior", "prior", "--out", "set.zarr", *FEW)
    message = refused("bright:Bright", *words)
    assert "None of 2 samples reached logit 0 = 64; the nearest came to " in message
    assert "The prior's own draws go from " in message
    assert Path("invariants.html").read_text().count('<li class="unsolved">') == 2
    assert not load_invariants("set.zarr").solved.any()


def test_whatever_a_network_s_own_code_raises_is_told_with_the_query_s_shape() -> None:
    Path("picky.py").write_text(
        "import torch\nclass Picky(torch.nn.Module):\n"
        "    def forward(self, x):\n        raise ValueError('images of 8 only')\n"
    )
    Image.new("L", (9, 9)).save("query.png")
    message = refused("picky:Picky", "--query", "query.png", "--unit", "logit.0", *FEW)
    assert "the query, of shape (1, 9, 9), torch.float32 on cpu: images of 8 only. Give an input of" in message


def test_nothing_is_written_over() -> None:
    Path("set.zarr").mkdir()
    assert "Something stands at set.zarr already." in refused(*DIGIT, "--unit", "logit.3", *FEW, "--out", "set.zarr")


def test_a_method_that_needs_a_run_is_refused_before_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(*_: object) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr(inverting.InvariantSettings, "search", search)
    words = (MODEL, "--data", "digits", "--targets", "digits", "--query", 17, "--unit", "logit.3", *FEW)
    assert "PathAudit needs a recorded run; a trained model was given" in refused(*words, "--method", "audit")


def test_a_network_alone_is_left_in_the_mode_that_it_had() -> None:
    model, prior = small_network().train(), Fourier((1, 8, 8))
    query = load_digits("test")[17][0]
    study_invariants(model, logits(model, [3]), query, inverting.InvariantSettings(prior, 2, pool=32), page="p.html")
    assert all(part.training for part in model.modules())


def test_a_result_without_a_solved_sample_is_told_without_figures_of_solved_ones() -> None:
    rows = [{"solved": False, "answer": None}]
    found = {"value": 1.0, "solved": 0, "samples": rows, "failures": {"interrupted": 1}, "most_telling": []}
    told = _told({**found, "greatest_residual": None, "evaluations_per_solved": None})
    assert told == {"value": 1.0, "solved": "0 of 1", "failures": {"interrupted": 1}}
