"""Attacked inputs are wrong and near, random ones as far; groups keep inputs that belong together side by side."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from tests.adversarial.small import digits, network
from whence._errors import ArgumentError, AttackError, ShapeError
from whence.adversarial import Groups, agreement, attack, outcomes, random_like
from whence.adversarial.groups import check_within
from whence.runs import Run


def test_adversarial_inputs_are_answered_wrongly_within_the_size_and_clean_ones_rightly(
    run: Run, groups: Groups
) -> None:
    found = outcomes(run, groups)["right"]
    assert found.sel(group="clean").all()
    assert not found.sel(group="adversarial").any()
    change = groups.change("adversarial")
    assert float(change.abs().max()) <= 0.2 + 1e-12
    assert float(groups.inputs["adversarial"].min()) >= 0
    assert float(groups.inputs["adversarial"].max()) <= 1
    inputs, labels = digits("test", 100)
    torch.testing.assert_close(groups.inputs["clean"], inputs[list(groups.ids)], rtol=0, atol=0)
    assert groups.labels.tolist() == labels[list(groups.ids)].tolist()


def test_a_seed_gives_the_same_attack_again(run: Run, groups: Groups) -> None:
    again = attack(run, digits("test", 100), count=4, epsilon=0.2, bounds=(0.0, 1.0))
    assert again.ids == groups.ids
    for name in groups.names:
        torch.testing.assert_close(again.inputs[name], groups.inputs[name], rtol=0, atol=0)


@pytest.mark.parametrize("method", ["l2-pgd", "linf-fgsm", "deepfool"])
def test_every_attack_by_name_finds_inputs_answered_wrongly(run: Run, method: str) -> None:
    found = attack(run, digits("test", 60), count=2, method=method, epsilon=2.0 if method == "l2-pgd" else 0.3)
    assert not outcomes(run, found)["right"].sel(group="adversarial").any()


def test_a_random_change_is_as_long_as_the_one_it_stands_beside() -> None:
    inputs, changes = torch.zeros(5, 2, 3, dtype=torch.float64), torch.arange(30.0, dtype=torch.float64).view(5, 2, 3)
    moved = random_like(inputs, changes, (-1e3, 1e3)) - inputs
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), changes.flatten(1).norm(dim=1), rtol=1e-12, atol=0)
    assert float((moved - changes).abs().max()) > 1


def test_groups_are_split_as_their_data_is_joined(groups: Groups) -> None:
    inputs, labels = groups.data
    values = xr.DataArray(inputs.numpy(), dims=("target", "pixel"))
    split = groups.split(values, "target")
    assert split.dims == ("group", "example", "pixel")
    for name in groups.names:
        np.testing.assert_array_equal(split.sel(group=name), groups.inputs[name])
    assert labels.tolist() == groups.labels.tolist() * 3


def test_a_change_taken_back_has_cosine_minus_one(groups: Groups) -> None:
    back = groups.with_group("back", groups.inputs["clean"])
    np.testing.assert_allclose(agreement(back, "adversarial", "back"), -1, rtol=1e-12)


def test_groups_that_do_not_fit_are_refused(groups: Groups) -> None:
    with pytest.raises(ArgumentError, match="a group 'random' already"):
        groups.with_group("random", groups.inputs["clean"])
    with pytest.raises(ShapeError, match=r"has the shape \(4, 64\)"):
        groups.with_group("new", groups.inputs["clean"][:2])
    with pytest.raises(ArgumentError, match="No group 'dirty'; the groups are clean, random, adversarial"):
        groups.only(["dirty"])
    with pytest.raises(ShapeError, match="have 12 entries along 'target'; got 5"):
        groups.split(xr.DataArray(np.zeros(5), dims="target"), "target")


def test_an_attack_that_finds_too_little_says_how_little_and_what_to_do(run: Run) -> None:
    with pytest.raises(AttackError, match=r"found 0 adversarial .* at most 1e-09, fewer than 3, in the 20 examples"):
        attack(run, digits("test", 20), count=3, epsilon=1e-9)


def test_examples_without_classes_cannot_be_attacked(run: Run) -> None:
    inputs, _ = digits("test", 10)
    with pytest.raises(ArgumentError, match="needs one class an example"):
        attack(run, (inputs, torch.rand(10)), count=1)
    words = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(ArgumentError, match="one floating-point tensor"):
        attack(words, (torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)), count=1)


def test_arguments_of_an_attack_are_checked(run: Run) -> None:
    data = digits("test", 10)
    with pytest.raises(ArgumentError, match=r"`method` is 'linf-pgd', .*; got 'magic'"):
        attack(run, data, count=1, method="magic")
    with pytest.raises(ArgumentError, match="`epsilon` is the largest change"):
        attack(run, data, count=1, epsilon=0.0)
    with pytest.raises(ArgumentError, match="`bounds` are the least and the greatest"):
        attack(run, data, count=1, bounds=(1.0, 0.0))
    for given, words in (
        ({"count": 0}, "at least 1; got 0"),
        ({"seed": -1}, "`seed` is a whole number"),
        ({"bounds": (0.0, 0.5)}, r"Inputs go from 0 to 1, which is not within the bounds \(0\.0, 0\.5\)"),
    ):
        with pytest.raises(ArgumentError, match=words):
            attack(run, data, **{"count": 1, **given})  # type: ignore[arg-type]


def test_inputs_without_labels_cannot_be_attacked_and_the_reason_is_told(run: Run) -> None:
    with pytest.raises(ArgumentError, match=r"no labels. An attack .*, so each needs one. Give \(inputs, labels\); to"):
        attack(run, digits("test", 10)[0], count=1)


def test_inputs_that_are_no_numbers_or_no_inputs_of_the_model_cannot_be_attacked(run: Run) -> None:
    inputs, labels = digits("test", 10)
    with pytest.raises(ArgumentError, match=r"Inputs go from nan to nan: .* no numbers, or all the same\. .* `bounds`"):
        attack(run, (torch.where(inputs > 0.9, float("nan"), inputs), labels), count=1)
    for wrong in (inputs[:, :7], inputs.float()):
        with pytest.raises(ArgumentError, match="The model cannot be called with these inputs"):
            attack(run, (wrong, labels), count=1)


class _Named(nn.Module):
    """A network whose output is a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return logits by name."""
        return {"logits": self.inner(inputs)}


def test_models_that_give_no_classes_cannot_be_attacked() -> None:
    data = digits("test", 10)
    for model, given in ((nn.Linear(64, 1).double(), r"\(1, 1\)"), (_Named(), "dict")):
        with pytest.raises(ArgumentError, match=rf"\(examples, classes\).* this one gives {given}\. Wrap it"):
            attack(model, data, count=1)
    with pytest.raises(ArgumentError, match="Identity to be attacked has no parameters"):
        attack(nn.Identity(), data, count=1)


def test_the_bounds_are_those_of_all_examples(run: Run) -> None:
    inputs, labels = (torch.cat([one] * 8) for one in digits("test", 100))
    inputs[np.random.default_rng(0).permutation(800)[-1]] *= 2
    assert attack(run, (inputs, labels), count=1, epsilon=0.3).bounds == (0.0, 2.0)
    assert attack(run, (inputs[:5], labels[:5].int()), count=1, epsilon=0.5).labels.dtype == torch.int64


def test_inputs_at_bounds_that_their_type_rounds_are_within_them() -> None:
    inputs = torch.tensor([0.6, 0.1], dtype=torch.float32)  # 0.60000002 and 0.10000000149
    check_within(inputs, (0.1, 0.6))
    check_within(inputs[:0], (0.1, 0.6))
    with pytest.raises(ArgumentError, match=r"Inputs go from nan to nan, which is not within"):
        check_within(inputs / 0 * 0, (0.1, 0.6))


def test_inputs_that_are_all_the_same_want_bounds(run: Run) -> None:
    inputs, labels = digits("test", 10)
    with pytest.raises(ArgumentError, match=r"Inputs go from 0 to 0: .* all the same\. Give .* `bounds`"):
        attack(run, (torch.zeros_like(inputs), labels), count=1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of scipy, when foolbox is imported
def test_an_attack_by_class_that_needs_a_size_asks_for_it_and_one_that_is_made_already_for_its_class(run: Run) -> None:
    foolbox = pytest.importorskip("foolbox")
    with pytest.raises(ArgumentError, match=r"LinfProjectedGradientDescentAttack makes .* Give `epsilon`"):
        attack(run, digits("test", 60), count=1, method=foolbox.attacks.LinfPGD)
    with pytest.raises(ArgumentError, match=r"`method` is called without arguments .* Give the attack's class"):
        attack(run, digits("test", 60), count=1, method=foolbox.attacks.LinfPGD())


def test_an_attack_without_a_size_that_finds_too_little_says_nothing_of_a_size(run: Run) -> None:
    with pytest.raises(AttackError, match=r"adversarial inputs, fewer than 20, in the 5 examples .*\. Give another"):
        attack(run, digits("test", 5), count=20, method="deepfool")


def test_a_model_that_is_attacked_stays_as_it_was() -> None:
    model = network().train()
    attack(model, digits("test", 100), count=1, epsilon=0.5)
    assert model.training
    assert all(one.grad is None and one.requires_grad for one in model.parameters())
