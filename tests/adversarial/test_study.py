"""A study from end to end: its parts fit together, its findings follow from its numbers, the page shows them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

import whence
from tests.adversarial.small import PLAN, digits, network
from tests.report.making import Reader, picture_case, read
from whence._errors import ArgumentError, AuditError
from whence.adversarial import Groups, Hardening, Plan, Recipe, Study, findings, outcomes, study, with_cure
from whence.report import save_study, study_run, write_report
from whence.report.attack_plots import attacked_figures
from whence.report.words import number
from whence.runs import Run


def test_the_audited_inputs_are_the_groups_and_then_the_path(studied: Study) -> None:
    inputs, labels = studied.targets
    three = studied.groups.only(["clean", "random", "adversarial"])
    torch.testing.assert_close(inputs[:9], three.data[0], rtol=0, atol=0)
    torch.testing.assert_close(inputs[9], three.inputs["clean"][0], rtol=0, atol=0)
    torch.testing.assert_close(inputs[11], three.inputs["adversarial"][0], rtol=0, atol=1e-15)
    assert len(labels) == studied.audit.influence.sizes["target"] == 12


def test_the_influences_of_the_path_are_those_of_its_ends(studied: Study) -> None:
    gross = studied.influences["cumulative_gross"].isel(example=0, epoch=-1)
    assert float(studied.path["total"][0]) == pytest.approx(float(gross.sel(group="clean")), rel=1e-9)
    assert float(studied.path["total"][-1]) == pytest.approx(float(gross.sel(group="adversarial")), rel=1e-9)


def test_the_last_loss_is_that_of_the_outcomes(run: Run, studied: Study) -> None:
    np.testing.assert_allclose(studied.losses.isel(time=-1), studied.outcomes["loss"], rtol=1e-12)
    np.testing.assert_array_equal(studied.outcomes["right"], outcomes(run, studied.groups)["right"])


def test_there_is_one_finding_a_claim_with_the_numbers_that_decide_it(studied: Study) -> None:
    told = findings(studied)
    assert len({one.claim for one in told}) == len(told) == 14
    assert all(np.isfinite(list(one.numbers.values())).all() for one in told)
    where = [one.where for one in told]
    assert where[:2] == ["figure 9", "figure 10"]
    assert where[-2:] == ["table 2", "control"]


@pytest.mark.parametrize(("cured", "control", "holds"), [(1.0, 0.0, True), (0.66, 0.0, False), (1.0, 0.34, False)])
def test_the_cure_holds_if_it_cures_and_chance_does_not(
    studied: Study, cured: float, control: float, holds: bool
) -> None:
    right = studied.outcomes["right"].astype(float)
    right.loc["cured adversarial"], right.loc["adversarial + random"] = cured, control
    other = replace(studied, outcomes=studied.outcomes.assign(right=right))
    assert findings(other)[-2].holds is holds


@pytest.mark.parametrize(("before", "after", "holds"), [(1.0, 1.0, True), (1.0, 0.66, False), (0.66, 0.66, True)])
def test_a_cure_is_harmless_if_as_many_random_inputs_are_right_as_before(
    run: Run, studied: Study, before: float, after: float, holds: bool
) -> None:
    right = studied.outcomes["right"].astype(float)
    right.loc["random"], right.loc["cured random"] = before, after
    told = findings(replace(studied, outcomes=studied.outcomes.assign(right=right)))[-3]
    assert told.holds is holds
    assert told.numbers == {"right, random": pytest.approx(before), "right, cured random": pytest.approx(after)}
    cured = with_cure(studied.groups.only(["clean", "random"]), studied.modes, run, of="random", recipe=PLAN.recipe)
    torch.testing.assert_close(studied.groups.inputs["cured random"], cured.inputs["cured random"], rtol=0, atol=0)


def test_the_claim_of_a_cure_says_what_its_recipe_aims_at(studied: Study) -> None:
    claims = [
        findings(replace(studied, plan=replace(PLAN, recipe=Recipe(aim=aim))))[-2].claim
        for aim in ("drive", "grow", "loss")
    ]
    assert [claim.split(" cures")[0].split("that ")[1] for claim in claims] == [
        "breaks the balance of modes",
        "strengthens what all modes together do",
        "raises the loss of the answer",
    ]


def test_a_loss_is_stuck_if_it_is_high_and_hardly_moves_at_the_end(studied: Study) -> None:
    def told(end: float, before: float) -> bool:
        gross = xr.zeros_like(studied.influences["gross"]) + 1
        gross.loc[{"group": "adversarial"}] = 5
        losses = xr.zeros_like(studied.losses) + 1
        losses.loc[{"group": "adversarial"}] = before
        losses.loc[{"group": "adversarial", "time": losses.time[-1]}] = end
        other = replace(studied, losses=losses, influences=studied.influences.assign(gross=gross))
        return next(one for one in findings(other) if one.where == "figure 12").holds

    assert told(4.0, 4.1)
    assert not told(4.0, 6.0)
    assert not told(1.5, 1.5)


def test_a_product_is_more_concentrated_than_either_and_not_than_one_of_two(studied: Study) -> None:
    def told(drive: float, change: float) -> bool:
        values = {"participation_product": 2.0, "participation_drive": drive, "participation_change": change}
        other = replace(studied, concentration={**studied.concentration, **values, "share_of_top_5": 0.9})
        return next(one for one in findings(other) if one.where == "section 6.3").holds

    assert told(3.0, 3.0)
    assert not told(1.0, 3.0)
    assert not told(3.0, 1.0)


def test_influence_of_the_first_of_few_epochs_is_not_late(studied: Study) -> None:
    gross = xr.zeros_like(studied.influences["gross"])
    gross[{"epoch": 0}] = 1
    layered = findings(replace(studied, influences=studied.influences.assign(gross=gross)))[1]
    assert layered.numbers["share of gross influence after a fifth of the epochs"] == 0
    assert not layered.holds


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"modes": 10}, "`modes` is a whole number, here at least 11; got 10"),
        ({"sensitive": 10}, "`sensitive` is a whole number, here at least 11; got 10"),
        ({"examples": 20}, "`examples` is a whole number, here at least 125; got 20"),
        ({"times": 1}, "`times` is a whole number, here at least 2; got 1"),
        ({"points": 2}, "`points` is a whole number, here at least 3; got 2"),
        ({"modes": 12, "recipe": Recipe(modes=13)}, "The recipe shifts 13 modes, and `modes` is 12"),
        ({"quadrature": "gauss9"}, "No quadrature 'gauss9'"),
        ({"tolerance": -0.01}, "`tolerance` is an error above 0 in the quantity's unit; got -0.01"),
    ],
)
def test_a_plan_that_would_fail_after_the_audit_is_refused_at_once(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Plan(**given)


def test_influences_that_grow_alike_hold_and_those_of_a_few_examples_do_not(studied: Study) -> None:
    def told(ratio: float, larger: float, correlation: float) -> bool:
        values = {"ratio": ratio, "fraction_larger": larger, "correlation": correlation, "slope": 1.0}
        agreement = xr.Dataset({name: ("example", [value] * 3) for name, value in values.items()})
        return findings(replace(studied, agreement=agreement))[0].holds

    assert told(2.0, 0.9, 0.8)
    assert not told(0.9, 0.9, 0.8)
    assert not told(2.0, 0.1, 0.8)
    assert not told(2.0, 0.9, 0.1)


def test_a_study_is_kept_whole_and_never_written_over(studied: Study, tmp_path: Path) -> None:
    save_study(studied, tmp_path / "tables")
    kept = xr.open_zarr(tmp_path / "tables" / "influences.zarr", chunks=None, consolidated=False)
    np.testing.assert_array_equal(kept["net"], studied.influences["net"])
    inputs = load_file(tmp_path / "tables" / "inputs.safetensors")
    torch.testing.assert_close(inputs["adversarial"], studied.groups.inputs["adversarial"], rtol=0, atol=0)
    told = json.loads((tmp_path / "tables" / "findings.json").read_text())
    assert [one["holds"] for one in told["findings"]] == [one.holds for one in findings(studied)]
    assert [one.name for one in tmp_path.iterdir()] == ["tables"]
    with pytest.raises(AuditError, match="Something stands at"):
        save_study(studied, tmp_path / "tables")


def test_a_run_is_studied_into_a_folder_whose_audit_serves_the_next_study(run: Run, tmp_path: Path) -> None:
    made = study_run(run, digits("test", 60), tmp_path / "out", plan=PLAN)
    assert made["right_adversarial"] == 0
    assert Path(made["page"]).is_file()
    again = study(run, digits("test", 60), plan=PLAN, path=tmp_path / "out" / "audit.zarr")
    assert again.audit.completeness.mean_error == made["audit_mean_error"]
    with pytest.raises(AuditError, match="of other inputs than this study's"):
        study(run, digits("test", 60), plan=replace(PLAN, seed=1), path=tmp_path / "out" / "audit.zarr")
    with pytest.raises(AuditError, match="or by another quadrature or tolerance"):
        study(run, digits("test", 60), plan=replace(PLAN, quadrature="gauss2"), path=tmp_path / "out" / "audit.zarr")


def test_a_study_audits_and_hardens_as_it_is_asked(run: Run, studied: Study, tmp_path: Path) -> None:
    hardening = Hardening(epochs=1, modes=2, examples=20)
    finer = study(run, digits("test", 60), plan=replace(PLAN, quadrature="gauss3", hardening=hardening))
    assert finer.audit.data.attrs["quadrature"] == "gauss3"
    assert finer.audit.completeness.mean_error < studied.audit.completeness.mean_error
    page = read(write_report(run, finer.audit, finer.targets, tmp_path / "p.html", adversarial=finer))
    text = " ".join(element.text for element in page.of("table"))
    assert "PGD-AT" in text
    assert "over 2" in text
    save_study(finer, tmp_path / "tables")
    assert (tmp_path / "tables" / "hardened.zarr").is_dir()


def test_the_page_says_what_came_out_and_each_claim(run: Run, studied: Study, tmp_path: Path) -> None:
    page = read(write_report(run, studied.audit, studied.targets, tmp_path / "p.html", adversarial=studied))
    assert page.wrong == []
    text = " ".join(element.text for element in page.of("section") if element.attributes.get("id") == "adversarial")
    for one in findings(studied):
        assert one.claim in text
    assert text.count("holds") >= 1
    keys = {element.attributes.get("data-figure") for element in page.of("div")}
    assert {"attacked-gross", "attacked-modes", "attacked-cancellation", "attacked-regime"} <= keys


def headings(page: Reader) -> list[str]:
    """Return the headings of the targets explained."""
    return [one.text for one in page.of("h3") if (one.attributes.get("id") or "").startswith("head-t")]


def test_every_adversarial_input_is_explained_under_its_name_beside_its_clean_twin(
    run: Run, studied: Study, tmp_path: Path
) -> None:
    page = read(write_report(run, studied.audit, studied.targets, tmp_path / "p.html", adversarial=studied))
    heads = [one.split(":")[0] for one in headings(page)]
    many, ids = len(studied.groups), studied.groups.ids
    attacked = [f"Target {2 * many + place} (adversarial, of example {one})" for place, one in enumerate(ids)]
    assert heads == [*attacked, *(f"Target {place} (clean, of example {one})" for place, one in enumerate(ids))]
    chosen, place = [many, len(studied.targets[1]) - 2], tmp_path / "p.html"
    page = read(write_report(run, studied.audit, studied.targets, place, chosen=chosen, adversarial=studied))
    heads = [one.split(":")[0] for one in headings(page)]
    points = studied.plan.points
    assert heads == [
        f"Target {many} (random, of example {ids[0]})",
        f"Target {3 * many + points - 2} ({number((points - 2) / (points - 1), 2)} of the way from example {ids[0]})",
    ]


def test_a_study_of_another_run_is_not_shown(studied: Study, tmp_path: Path) -> None:
    case = picture_case(tmp_path)
    with pytest.raises(AuditError, match="The study is of another run"):
        write_report(case.run, case.audit, case.targets, tmp_path / "p.html", adversarial=studied)


def test_a_study_beside_an_audit_of_other_inputs_leaves_the_choice_of_targets_as_it_is(
    run: Run, studied: Study, tmp_path: Path
) -> None:
    others = digits("test", 5)
    page = read(write_report(run, whence.audit(run, others), others, tmp_path / "p.html", adversarial=studied))
    heads = headings(page)
    assert heads
    assert not any("adversarial" in one or "of example" in one for one in heads)


def test_plots_of_a_study_count_epochs_from_1_as_the_rest_of_the_page_does(studied: Study) -> None:
    by_epoch = [one for one in attacked_figures(studied) if one.layout["xaxis"]["title"]["text"] == "epoch"]
    assert len(by_epoch) == 5
    for one in by_epoch:
        assert list(one.traces[0]["x"]) == list(range(1, studied.influences.sizes["epoch"] + 1))


def test_the_plot_of_twins_is_of_the_first_clean_input_and_its_adversarial_one(studied: Study) -> None:
    drawn = attacked_figures(studied)[0].traces[0]
    whole = studied.audit.influence.sum(["layer", "epoch"])
    np.testing.assert_allclose(drawn["x"], whole.isel(target=0), rtol=1e-2, atol=1e-9)
    np.testing.assert_allclose(drawn["y"], whole.isel(target=2 * len(studied.groups)), rtol=1e-2, atol=1e-9)


def test_a_study_of_too_short_a_run_is_refused(run: Run, groups: Groups, tmp_path: Path) -> None:
    model, data = network(), digits("train", 50)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with whence.record(tmp_path / "run", model, optimizer, data, loss=cross_entropy) as recorder:
        for x, y in recorder.batches(25):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
    short = whence.open_run(tmp_path / "run", network(), data, loss=cross_entropy)
    with pytest.raises(ArgumentError, match=r"compares epochs, at least 2; .* has 1"):
        study(short, digits("test", 20), plan=PLAN)


@pytest.mark.parametrize(("plainly", "holds"), [(0.0, True), (1.0, False)])
def test_a_cure_that_does_no_more_than_the_same_steps_without_modes_says_so(
    studied: Study, plainly: float, holds: bool
) -> None:
    right = studied.outcomes["right"].astype(float)
    right.loc["cured adversarial"], right.loc["cured adversarial, no modes"] = 1.0, plainly
    told = findings(replace(studied, outcomes=studied.outcomes.assign(right=right)))[-1]
    assert told.where == "control"
    assert told.holds is holds


def test_a_study_that_was_stopped_before_its_page_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("whence.report.studying.write_report", stop)
        with pytest.raises(KeyboardInterrupt):
            study_run(run, digits("test", 60), tmp_path / "out", plan=PLAN)
    made = study_run(run, digits("test", 60), tmp_path / "out", plan=PLAN)
    assert Path(made["page"]).is_file()
    with pytest.raises(AuditError, match="Something stands at"):
        study_run(run, digits("test", 60), tmp_path / "out", plan=PLAN)
