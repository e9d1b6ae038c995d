"""What is given in place of something else is refused in words: types are checked in tests, and not for users."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from tests.invariants.making import Counting, network
from whence._errors import ArgumentError, DataError
from whence.invariants import Objective, Pixels, draw, invariants, logits
from whence.invariants.asking import check_query, values_over

DOUBLE = torch.float64
CALLS = {
    "invariants('logit.3', q, prior, 4)": "`objective` is an Objective, such as named_unit",
    "invariants(model, q, prior, 4)": "`objective` is an Objective, .* got a Sequential",
    "invariants(kept, q, 'prior', 4)": r"`prior` is a prior, such as load_prior\(folder\), .* got a str",
    "invariants(kept, q, Fourier, 4)": "`prior` is a prior, .* got the class Fourier",
    "invariants(kept, q, prior, 4, solver='metropolis')": "`solver` is a solver, .* got a str",
    "invariants(kept, q, prior, 4, solver=GaussNewton)": "`solver` is a solver, .* got the class GaussNewton",
    "invariants(kept, q, prior, 4, budget='all')": "budget above 0; got 4 and 'all'",
    "invariants(kept, q, prior, 4, goal='high')": "goal is a number, or a tensor of one for each value; got 'high'",
    "invariants(kept, q, prior, 4, data='digits')": "A str is not a dataset",
    "guided(kept, q, prior, 4)": "`chain` is a prior whose steps can be seen, .* got a Fourier",
    "traverse(kept, q.numpy(), q)": "`source` must be a tensor of floating-point numbers; got a ndarray",
    "traverse(kept, q, (q * 255).byte())": r"`target` must be a tensor of floating-point numbers; .* torch\.uint8",
    "traverse(kept, torch.rand(3, 8, 8), torch.rand(3, 8, 8))": r"objective logit 3 cannot be called .* \(3, 8, 8\)",
    "triangle(kept, [q, q, q])": "`corners` must be a tensor of floating-point numbers; got a list",
    "triangle(kept, q.expand(3, 1, 8, 8), falls=0.1)": r"falls are one or more distances .* got 0\.1",
    "named_unit(model, 5)": "A unit is named in words, .* got 5",
    "named_unit('model.pt', '5.7')": r"A model is a torch\.nn\.Module; got a str",
    "neuron(model, 5, 3)": r"layer is a name of dict\(model.named_modules\(\)\); got 5",
    "logits(model, 1.5)": r"indices are one or more places of outputs; got 1\.5",
    "Objective('logit.3', 'three')": "An objective is a function of a batch of inputs and a name for it; got str",
    "Objective(model, 'three', distance='l2')": "`distance` is a function, such as root_mean_square; got 'l2'",
    "Objective(model, 'three', stand_in='relu')": "`stand_in` is a function, .* got 'relu'",
    "Pixels(q[:0], q[:0])": r"`mean` holds a number at least; got one of shape \(0, 8, 8\)",
    "draw_pool(prior, 4, dtype='float64')": "Latents are floating-point numbers; got dtype='float64'",
    "draw_pool(prior, 4, device='nope')": r"torch has no device 'nope' here: .* Give 'cpu', or 'cuda'",
    "draw_pool(prior, 4, device='meta')": r"torch has no device 'meta' here: .* Give 'cpu', or 'cuda'",
    "draw_pool(prior, 4, device='hpu')": r"torch has no device 'hpu' here: .* Give 'cpu', or 'cuda'",
    "load_prior('nowhere', device=3.5)": r"A device is 'cpu', 'cuda' or another that torch names; got 3\.5",
    "train_prior(torch.rand(50, 1, 8, 8), 'nowhere', device='cpu:x')": r"torch has no device 'cpu:x' here: .* Give",
    "most_telling(q)": "`found` is an InvariantSet, .* got a Tensor",
    "spectral_deviation('three', invariants(kept, q, prior, 2, pool=4))": "`objective` is an Objective, .* got a str",
    "Pixels(q, 0.1)": "`deviation` is a tensor of finite floating-point numbers; got a float",
    "Pixels(q, torch.ones(3))": r"one for each of the mean's \(1, 8, 8\); got \(3,\)",
    "Fourier(8)": r"A shape is \(channels, height, width\), whole numbers above 0; got 8",
    "Fourier((1, 8, 8), bounds=1)": "bounds are a least and a greater number; got 1",
    "low_pass(q.numpy(), 0.5)": "A low-pass filter takes a tensor of floating-point numbers; got a ndarray",
    "GaussNewton(coarse=prior)": "coarse is a tuple of priors, .* got Fourier",
    "Metropolis(first='gauss-newton')": "first is a solver, .* got 'gauss-newton'",
    "Metropolis(seed='a')": "seed is a whole number; got 'a'",
    "FirstOrder('adam')": r"optimizer is a class, such as torch\.optim\.Adam; got 'adam'",
    "PriorSettings(rule=['euler'])": r"rule is 'euler' or 'midpoint'; got \['euler'\]",
    "train_prior(torch.rand(50, 1, 8, 8), 'nowhere', 'fast')": r"settings are PriorSettings\(\.\.\.\); got a str",
    "draw_pool('prior')": "A pool is drawn of a prior, .* got 'prior'",
    "train_autoencoder('model.pt', '0', x, features=8)": r"A model is a torch\.nn\.Module, .* got a str and '0'",
    "train_autoencoder(model, 0, x, features=8)": r"a layer a name of dict\(.*\); got a Sequential and 0",
    "train_autoencoder(model, '0', x, features=8, training={})": "training is AutoencoderTraining.*; got a dict",
    "AutoencoderTraining(seed=2**70)": r"`seed` is below 2\^63",
    "feature(model, coder, 3)": "A TrainedAutoencoder is needed, .* got a SparseAutoencoder",
    "save_autoencoder(coder, 'nowhere')": "A TrainedAutoencoder is needed, .* got a SparseAutoencoder",
    "top_activating(model, '2', TrainedAutoencoder(coder, '2'), x, 3, 2)": r"its `\.autoencoder`; got a TrainedAuto",
    "autoencoder_figures(model, '2', coder, x, memory_budget='1G')": "memory_budget is a number of bytes, .* got '1G'",
    "InvariantSettings('fourier')": "`prior` is a prior, .* got a str",
    "study_invariants(model, kept, q.numpy(), InvariantSettings(prior))": "The query is one input, a tensor .* ndarray",
    "Fourier(torch.rand(5, 1, 8, 8))": r"A shape is .*; got a Tensor of shape \(5, 1, 8, 8\)",
    "most_telling(invariants(kept, q, prior, 2, pool=4), real='digits')": "`real` is a tensor of inputs .* got a str",
    "spectral_deviation(kept, invariants(kept, q, prior, 2, pool=4), [])": r"cutoffs are one or more .* got \[\]",
    "spectral_deviation(kept, invariants(kept, q, prior, 2, pool=4), 0.5)": r"cutoffs are one or more .* got 0\.5",
    "spectral_deviation(kept, q)": r"`found` is an InvariantSet, .* got a Tensor",
    "precision(q.numpy(), q)": "`points` is a tensor, a row of features for each image; got a ndarray",
}
SCRIPT = """
import json, sys
import torch
from whence._errors import WhenceError
from whence.evaluation.invariance import spectral_deviation
from whence.invariants import *
from whence.report import InvariantSettings, study_invariants
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), *model).eval()
q, prior, kept, told = torch.rand(1, 8, 8), Fourier((1, 8, 8)), logits(model, 3), {}
x, coder = torch.rand(20, 1, 8, 8), SparseAutoencoder(10, 16, Relu())
for call in json.loads(sys.stdin.read()):
    try:
        eval(call)
        told[call] = "nothing"
    except WhenceError as error:
        told[call] = str(error)
    except Exception as error:
        told[call] = f"raw {type(error).__name__}"
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    """Return what each call says in a process of its own, where no types are checked."""
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(list(CALLS)), capture_output=True, text=True, check=True
    )
    found: dict[str, str] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize("call", CALLS)
def test_what_is_given_in_place_of_something_else_is_refused_in_words(call: str, told: dict[str, str]) -> None:
    assert re.search(CALLS[call], told[call]), told[call]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_query_of_16_bits_is_refused_since_nothing_can_be_searched_for_in_three_digits(kind: torch.dtype) -> None:
    with pytest.raises(ArgumentError, match=rf"query is of {kind}, too coarse .* query\.float\(\)"):
        check_query(a_query(Counting()).to(kind), Counting())


def a_query(prior: Counting) -> Tensor:
    made: Tensor = prior.decode(draw(prior, 1, 99, dtype=DOUBLE))[0]
    return made


class Coupled(nn.Module):
    """Values that hang on the whole batch, as those of batch normalisation in training."""

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs - inputs.mean(0)).flatten(1).square().sum(1)


@pytest.mark.parametrize(
    "function", [Coupled(), lambda inputs: nn.functional.dropout(inputs.flatten(1), 0.5)], ids=["batch", "chance"]
)
def test_an_objective_whose_rows_are_not_their_own_is_refused(function: nn.Module) -> None:
    objective, prior = Objective(function, "coupled"), Counting()
    with pytest.raises(ArgumentError, match="coupled takes another value on the query beside another input than alone"):
        invariants(objective, 1 + a_query(prior), prior, 3, pool=8)


def test_inputs_alone_are_data_for_the_spread() -> None:
    prior, objective = Counting(), Objective(network(), "two")
    inputs = torch.rand(30, 1, 4, 4, dtype=DOUBLE)
    alone, labelled = (
        invariants(objective, a_query(prior), prior, 3, pool=8, data=data).certificate.attrs["spread"]
        for data in (inputs, (inputs, torch.zeros(30, dtype=torch.int64)))
    )
    assert alone == labelled == pytest.approx(float(objective(inputs).var(0, correction=0).mean().sqrt()))
    assert Pixels.of(inputs.float()).latent_shape == (1, 4, 4)


def test_data_that_the_objective_cannot_be_called_with_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"two cannot be called with the inputs of `data`: .* leave `data` out"):
        values_over(Objective(network(), "two"), torch.rand(9, 1, 5, 5), torch.zeros(1, dtype=DOUBLE), 8)
    with pytest.raises(DataError, match="not finite"):
        Pixels.of(torch.full((9, 1, 2, 2), torch.nan))


@pytest.mark.parametrize("goal", [0.25, torch.tensor(0.25), [0.25], torch.tensor([0.25])])
def test_a_goal_of_one_value_is_a_number_or_a_row(goal: object) -> None:
    prior, objective = Counting(), Objective(network(1), "one", tolerance=10.0)
    found = invariants(objective, a_query(prior), prior, 2, pool=4, goal=goal)
    assert found.certificate.attrs["goal"] == [0.25]


def test_places_of_outputs_may_be_an_array_or_a_tensor() -> None:
    model = nn.Linear(4, 10)
    names = [logits(model, torch.tensor(given)).name for given in (3, [3, 4])]
    assert names == ["logit 3", "logits 3, 4"]
