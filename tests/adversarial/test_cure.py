"""The cure is projected gradient descent on coefficients: each step by hand, within its ball, without labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.adversarial.small import digits, gradients, network
from whence._errors import ArgumentError, ShapeError
from whence.adversarial import PAPER, SMALLEST, Groups, Pgd, Recipe, cure, outcomes, train_against, with_cure
from whence.kernel import Modes, as_trained, modes
from whence.runs import Run

STEP = Recipe(modes=3, shift=5.0, epsilon=10.0, steps=1, step_size=0.01)


@pytest.fixture(scope="module")
def found(run: Run) -> Modes:
    return modes(run, count=6)


def missed(run: Run, found: Modes, inputs: Tensor, start: Tensor, recipe: Recipe) -> Tensor:
    """Return ½‖c - c_tgt‖² of every input, its coefficients formed one example at a time (PLGK, algorithm 2)."""
    trained = as_trained(run)
    answers = trained.model(start).argmax(1)
    directions = found.directions[: recipe.modes]
    values = gradients(trained, inputs, answers) @ directions.T
    aim = gradients(trained, start, answers) @ directions.T
    aim = aim - recipe.shift * found.drive[: recipe.modes].sign()
    return 0.5 * (values - aim).square().sum(1)


def test_one_step_goes_down_the_steepest_slope_of_the_distance_to_the_aim(
    run: Run, groups: Groups, found: Modes
) -> None:
    start = groups.inputs["adversarial"][:2]
    moved = cure(found, run, start, recipe=STEP, bounds=(-9.0, 9.0)) - start
    slope = torch.zeros_like(start)
    for pixel in range(start.shape[1]):  # central differences
        aside = torch.zeros_like(start)
        aside[:, pixel] = 1e-5
        up, down = (missed(run, found, start + sign * aside, start, STEP) for sign in (1, -1))
        slope[:, pixel] = (up - down) / 2e-5
    expected = -0.01 * slope / slope.norm(dim=1, keepdim=True)
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-9)


def test_the_control_without_modes_raises_the_loss_of_the_answer(run: Run, groups: Groups, found: Modes) -> None:
    start, model = groups.inputs["adversarial"], as_trained(run).model
    moved = cure(found, run, start, recipe=replace(STEP, aim="loss"), bounds=(-9.0, 9.0)) - start
    x = start.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(F.cross_entropy(model(x), model(start).argmax(1), reduction="sum"), x)
    torch.testing.assert_close(moved, 0.01 * slope / slope.norm(dim=1, keepdim=True), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("aim", ["drive", "grow", "loss"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_cure_stays_in_its_ball_and_within_the_bounds(
    run: Run, groups: Groups, found: Modes, aim: Any, norm: Any
) -> None:
    start = groups.inputs["adversarial"]
    recipe = Recipe(aim=aim, norm=norm, modes=3, epsilon=0.05, steps=6, step_size=0.03)
    cured = cure(found, run, start, recipe=recipe, bounds=groups.bounds, reference=groups.change("adversarial"))
    change = cured - start
    size = change.norm(dim=1) if norm == "l2" else change.abs().amax(1)
    assert float(size.max()) <= 0.05 + 1e-12
    assert float(size.min()) > 0
    assert float(cured.min()) >= 0
    assert float(cured.max()) <= 1


def test_an_input_that_was_given_up_is_left_alone(run: Run, groups: Groups, found: Modes) -> None:
    start, model = groups.inputs["adversarial"], as_trained(run).model
    recipe = replace(SMALLEST, modes=5, steps=300, epsilon=50.0)
    cured = cure(found, run, start, recipe=recipe, bounds=groups.bounds)
    left = model(cured).argmax(1) != model(start).argmax(1)
    assert left.all()
    again = cure(found, run, start, recipe=replace(recipe, steps=600), bounds=groups.bounds)
    torch.testing.assert_close(again, cured, rtol=0, atol=0)


def test_a_change_at_right_angles_to_the_attack_is_asked_for_by_the_weight(
    run: Run, groups: Groups, found: Modes
) -> None:
    start, attack = groups.inputs["adversarial"], groups.change("adversarial")
    free, held = (
        cure(
            found,
            run,
            start,
            recipe=Recipe(modes=5, shift=5.0, epsilon=1.0, steps=40, align=weight),
            bounds=(-9.0, 9.0),
            reference=attack,
        )
        for weight in (0.0, 100.0)
    )
    along = [F.cosine_similarity(one - start, attack).square().mean() for one in (free, held)]
    assert float(along[1]) < 0.1 * float(along[0])


def test_chunks_give_the_cure_of_the_whole(run: Run, groups: Groups, found: Modes) -> None:
    start = groups.inputs["adversarial"]
    whole = cure(found, run, start, recipe=STEP)
    parts = cure(found, run, start, recipe=STEP, memory_budget=1)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-14)


def test_the_control_of_a_cure_is_as_long_as_the_cure(run: Run, groups: Groups, found: Modes) -> None:
    wide = replace(groups, bounds=(-1e3, 1e3))
    made = with_cure(wide, found, run, recipe=replace(STEP, steps=3), known_attack=True)
    assert made.names == ("clean", "random", "adversarial", "cured adversarial", "adversarial + random")
    ours, theirs = (made.inputs[name] - made.inputs["adversarial"] for name in made.names[3:])
    torch.testing.assert_close(ours.norm(dim=1), theirs.norm(dim=1), rtol=1e-9, atol=0)
    assert set(outcomes(run, made).group.values) == set(made.names)


def test_recipes_and_modes_that_do_not_fit_are_refused(run: Run, groups: Groups, found: Modes) -> None:
    with pytest.raises(ArgumentError, match=r"shifts 10 modes, and 6 were found. Ask modes\(\) for more"):
        cure(found, run, groups.inputs["clean"], recipe=PAPER)
    with pytest.raises(ArgumentError, match="at least 1 mode in at least 1 step"):
        Recipe(steps=0)
    with pytest.raises(ArgumentError, match=r"no negative weight; got .* align -1"):
        Recipe(align=-1.0)
    with pytest.raises(ArgumentError, match="at least 1 step within a change above 0"):
        Pgd(epsilon=0.0)
    with pytest.raises(ArgumentError, match="at least 1 epoch"):
        train_against(network(), torch.optim.SGD(network().parameters(), 0.1), digits("train", 10), epochs=0)


@pytest.mark.parametrize(
    "given",
    [
        {"modes": 0},
        {"epsilon": float("nan")},
        {"shift": float("inf")},
        {"align": float("nan")},
        {"step_size": -1.0},
    ],
)
def test_settings_that_are_no_numbers_or_turn_the_cure_around_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=rf"A cure shifts .*{next(iter(given.values()))!r}"):
        Recipe(**given)


@pytest.mark.parametrize("given", [{"epsilon": float("inf")}, {"step_size": 0.0}, {"bounds": (1.0, 1.0)}])
def test_settings_of_an_ascent_that_are_no_numbers_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="Projected gradient ascent makes at least 1 step within a change above 0"):
        Pgd(**given)


def test_inputs_outside_the_bounds_are_refused_and_not_cut(run: Run, groups: Groups, found: Modes) -> None:
    wide = 2 * groups.inputs["clean"] - 1
    with pytest.raises(ArgumentError, match=r"Inputs go from -1 to 1, .* bounds \(0\.0, 1\.0\)\. Give `bounds`"):
        cure(found, run, wide, recipe=STEP)
    with pytest.raises(ArgumentError, match="Inputs go from -1 to 1"):
        Pgd().changed(as_trained(run).model, wide, groups.labels)
    with pytest.raises(ShapeError, match=r"`reference` needs one change an input, of shape \(4, 64\); got \(4, 9\)"):
        cure(found, run, groups.inputs["clean"], recipe=STEP, reference=wide[:, :9])


def test_ascent_raises_the_loss_within_ball_and_bounds(run: Run) -> None:
    model, (x, y) = as_trained(run).model, digits("test", 30)
    torch.manual_seed(0)
    changed = Pgd(epsilon=0.1, steps=5).changed(model, x, y)
    assert float((changed - x).abs().max()) <= 0.1 + 1e-12
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1
    with torch.no_grad():
        before, after = (F.cross_entropy(model(one), y, reduction="none") for one in (x, changed))
    assert float((after - before).min()) > 0


def test_averages_of_a_normalisation_are_of_what_is_trained_on_and_not_of_the_way_there() -> None:
    torch.manual_seed(0)
    model, data = torch.nn.Sequential(torch.nn.BatchNorm1d(64), torch.nn.Linear(64, 10)).double(), digits("train", 100)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    train_against(model, optimizer, data, epochs=2, batch_size=50, attack=Pgd(epsilon=0.1, steps=5))
    assert int(model.get_buffer("0.num_batches_tracked")) == 4
    assert not model.training


def test_training_on_attacked_inputs_makes_the_same_attack_weaker() -> None:
    data, made = digits("train", 300), Pgd(epsilon=0.15, steps=4)
    rights = []
    for attack in (Pgd(epsilon=1e-6, steps=1), made):
        model = network()
        train_against(model, torch.optim.Adam(model.parameters(), 0.02), data, epochs=12, batch_size=50, attack=attack)
        torch.manual_seed(1)
        attacked = made.changed(model, *data)
        rights.append(float((model(attacked).argmax(1) == data[1]).float().mean()))
    assert rights[1] > rights[0] + 0.05
