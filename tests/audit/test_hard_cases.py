"""Runs that an audit must not get wrong in silence."""

from __future__ import annotations

import copy
import importlib
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop

import whence
from tests.audit.training import blobs, tanh_net, trained
from whence._errors import ArgumentError, AuditError, GradientError, UnsupportedLossError
from whence.audit.chunks import chosen_ids
from whence.audit.identity import identity_of
from whence.audit.rounding import nobodys
from whence.gradients import Dense, Outer, PerExample, Sum

ROUNDING = 1e4 * np.finfo(np.float64).eps


def true_change(before: nn.Module, after: nn.Module, data: Any) -> np.ndarray:
    with torch.no_grad():
        first, last = (F.cross_entropy(one.eval()(data[0]), data[1], reduction="none") for one in (before, after))
    return (last - first).numpy()


def test_frozen_parameters_are_those_of_the_run_not_of_the_model_it_is_opened_with(tmp_path: Path) -> None:
    model = tanh_net()
    before = copy.deepcopy(model)
    trained(tmp_path / "run", model, SGD(list(model.parameters())[2:], 0.1), blobs())
    run = whence.open_run(tmp_path / "run", tanh_net(seed=99), blobs(), loss=F.cross_entropy)
    audit = whence.audit(run, blobs(seed=1), quadrature="gauss3")
    expected = true_change(before, model, blobs(seed=1))
    np.testing.assert_allclose(audit.completeness.true_change, expected, rtol=0, atol=ROUNDING)
    assert audit.completeness.mean_error < 1e-6


@pytest.mark.parametrize("peeks", [1, 3])
def test_epochs_without_a_step_change_nothing(peeks: int, tmp_path: Path) -> None:
    model = tanh_net()
    before = copy.deepcopy(model)
    optimizer = SGD(model.parameters(), 0.1)
    with whence.record(tmp_path / "run", model, optimizer, blobs(), loss=F.cross_entropy) as recorder:
        for _ in range(peeks):
            next(iter(recorder.batches(5)))
        for _ in range(2):
            for x, y in recorder.batches(5):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            next(iter(recorder.batches(5)))
    run = whence.open_run(tmp_path / "run", model, blobs(), loss=F.cross_entropy)
    audit = whence.audit(run, blobs(seed=1), quadrature="gauss3")
    expected = true_change(before, model, blobs(seed=1))
    np.testing.assert_allclose(audit.completeness.true_change, expected, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(audit.data["course"] - audit.data["course"][:, 0], audit.data["explained"], atol=1e-6)
    assert audit.completeness.mean_error < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_bias_before_batch_normalisation_is_rounding_and_nobodys_influence(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    def net(*, bias: bool) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 6, bias=bias), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)

    data, targets = blobs(20, dtype=dtype), blobs(seed=1, dtype=dtype)
    model = net(bias=True)
    run = trained(tmp_path / "run", model, Adam(model.parameters(), 0.01), data)
    audit = whence.audit(run, targets, quadrature="gauss3", by="layer")
    explained = audit.data["explained"].isel(point=-1).values
    size = float(np.abs(audit.influence.sum("layer")).max())
    assert size < 1.0  # shares that only cancel over the batch, blown up by Adam, were 1e5
    eps = torch.finfo(dtype).eps
    np.testing.assert_allclose(audit.completeness.reconstructed.values, explained, rtol=0, atol=1e3 * eps + 1e-4 * size)
    assert audit.completeness.mean_error < 1e-3


def test_examples_that_cancel_in_a_batch_keep_their_shares_under_sgd(tmp_path: Path) -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, -1.0], [2.0, 0.5], [-1.0, 1.0]])
    y = torch.tensor([0, 1, 0, 1])
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.5), (x, y), epochs=1, batch_size=4)
    influence = whence.audit(run, (x, y), quadrature="euler").influence
    error = torch.full((4, 2), 0.5) - F.one_hot(
        y, 2
    )  # of a zero model; its sum over the batch, the bias gradient, is 0
    inputs = torch.cat([x, torch.ones(4, 1)], 1)
    by_hand = -0.5 / 4 * (error @ error.T) * (inputs @ inputs.T)
    np.testing.assert_allclose(influence.values, by_hand.numpy(), rtol=1e-6, atol=1e-7)


def test_only_gradients_that_were_rounding_all_along_are_nobodys() -> None:
    shares = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, 0.5]], dtype=torch.float64)
    used = shares.sum(0) + torch.tensor([1e-15, 1e-15, 0.0], dtype=torch.float64)
    root = torch.tensor([1e-15, 0.1, 0.1], dtype=torch.float64)  # the second cancels in this batch only
    whole = torch.stack([shares, shares], 1)[:, :, :2]
    forms: list[tuple[PerExample, Tensor, Tensor]] = [
        (Dense(shares), used, root),
        (Dense(whole), torch.stack([used, used])[:, :2], torch.stack([root, root])[:, :2]),
        (Outer(shares[:, None], torch.ones(2, 1, 1, dtype=torch.float64), torch.Size((3, 1))), used[:, None], root),
        (Sum((Dense(shares), Dense(shares))), 2 * used, root),
    ]
    for one, gradient, size in forms:
        captured = [{"one": one}]
        mask = nobodys(captured, {"one": gradient}, {"one": size}, {"one": 1.0})["one"]
        assert mask.shape == gradient.shape
        assert torch.equal(mask.reshape(-1), size.reshape(-1) == 1e-15)
        assert nobodys(captured, {"one": gradient}, {"one": None}, {"one": 1.0}) == {}
        assert (
            nobodys(captured, {"one": gradient}, {"one": size}, {"one": 1e-4}) == {}
        )  # clipped: so are what it is held to


def test_one_small_share_alone_is_not_taken_for_rounding() -> None:
    rows = torch.tensor([[1.0], [1e-9]])  # the second example alone has an input, and is almost right
    one = Outer(rows[:, None], torch.tensor([[[0.0]], [[1.0]]]), torch.Size((1, 1)))
    tiny = torch.full((1, 1), 1e-9)
    assert nobodys([{"one": one}], {"one": tiny}, {"one": tiny}, {"one": 1.0}) == {}


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
def test_an_input_that_never_changes_before_batch_normalisation_moves_its_weights_by_rounding(
    precision: torch.dtype, tmp_path: Path
) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        layers = nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3)
        return nn.Sequential(*layers).to(precision)

    gross = []
    x, y = torch.randn(64, 6, generator=torch.Generator().manual_seed(1)).to(precision), torch.arange(64) % 3
    for number, column in enumerate((x[:, 0], torch.ones(64, dtype=precision))):
        data = (torch.cat([column[:, None], x[:, 1:]], 1), y)
        model = network()
        run = trained(tmp_path / str(number), model, Adam(model.parameters(), 0.01), data, batch_size=16)
        audit = whence.audit(run, data, ids=range(5), by="layer")
        gross.append(float(abs(audit.influence.sel(layer="0")).sum()))
    assert gross[1] < 3 * gross[0]  # a million times as much without the mend
    assert float(abs(audit.completeness.residual.sel(source="rounding")).max()) > 0


def test_under_autocast_rounding_is_that_of_its_type(tmp_path: Path) -> None:
    x, y = torch.randn(128, 6, generator=torch.Generator().manual_seed(1)), torch.arange(128) % 3
    gross = []
    for low in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3))
        optimizer = Adam(model.parameters(), 0.01)
        with whence.record(tmp_path / str(low), model, optimizer, (x, y), loss=F.cross_entropy) as recorder:
            for _ in range(3):
                for inputs, labels in recorder.batches(32):
                    optimizer.zero_grad()
                    with torch.autocast("cpu", torch.bfloat16, enabled=low):
                        loss = F.cross_entropy(model(inputs), labels)
                    loss.backward()
                    optimizer.step()
        run = whence.open_run(tmp_path / str(low), model, (x, y), loss=F.cross_entropy)
        influence = whence.audit(run, (x, y), ids=range(5), by="layer").influence
        gross.append(float(abs(influence.sel(layer="0")).sum()))
    assert gross[1] < 2 * gross[0]  # hundreds of times as much by float32's rounding


@pytest.mark.parametrize("given_up", [False, True])
@pytest.mark.parametrize("quadrature", ["trapezoid", "simpson", "gauss3"])
@pytest.mark.parametrize(
    "make",
    [lambda p: SGD(p, 0.05, momentum=0.9, weight_decay=0.1), lambda p: AdamW(p, 0.01), lambda p: RMSprop(p, 0.005)],
)
def test_a_group_that_is_added_or_given_up_midway_is_attributed(
    quadrature: str, make: Any, given_up: bool, tmp_path: Path
) -> None:
    model = tanh_net()
    before = copy.deepcopy(model)
    parameters = list(model.parameters())
    optimizer = make([{"params": parameters[4:]}])
    if given_up:
        optimizer.add_param_group({"params": parameters[:4]})
    with whence.record(tmp_path / "run", model, optimizer, blobs(), loss=F.cross_entropy, snapshot_every=4) as recorder:
        for epoch in range(3):
            if epoch == 1 and given_up:
                del optimizer.param_groups[1]
            elif epoch == 1:
                optimizer.add_param_group({"params": parameters[:4]})
            for x, y in recorder.batches(5):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
    run = whence.open_run(tmp_path / "run", model, blobs(), loss=F.cross_entropy)
    for subsample in (1, 3):
        audit = whence.audit(run, blobs(seed=1), quadrature=quadrature, subsample=subsample)
        expected = true_change(before, model, blobs(seed=1))
        np.testing.assert_allclose(audit.completeness.true_change, expected, rtol=0, atol=ROUNDING)
        explained = audit.data["explained"].isel(point=-1).values
        np.testing.assert_allclose(audit.completeness.reconstructed.values, explained, rtol=0, atol=ROUNDING)


def test_an_unfinished_audit_of_another_run_or_quantity_is_not_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = importlib.import_module("whence.audit.api")
    runs = []
    for seed in (0, 1):
        model = tanh_net(seed)
        runs.append(trained(tmp_path / str(seed), model, SGD(model.parameters(), 0.1), blobs()))

    walk_segment = api.walk_segment
    walked: list[int] = []

    def stop(*given: Any) -> int:
        if walked:
            raise KeyboardInterrupt
        walked.append(walk_segment(*given))
        return int(walked[0])

    with monkeypatch.context() as patch:
        patch.setattr(api, "walk_segment", stop)
        patch.setattr(api, "_SAVE_EVERY", 0.0)
        with pytest.raises(KeyboardInterrupt):
            whence.audit(runs[0], blobs(seed=1), quantity=lambda o, y: o[:, 0], path=tmp_path / "audit")
    with pytest.raises(AuditError, match=r"other arguments \(run differ\)"):
        whence.audit(runs[1], blobs(seed=1), quantity=lambda o, y: o[:, 0], path=tmp_path / "audit")
    with pytest.raises(AuditError, match=r"other arguments \(quantity differ\)"):
        whence.audit(runs[0], blobs(seed=1), quantity=lambda o, y: o[:, 1] ** 2, path=tmp_path / "audit")
    begun = tmp_path / ".audit.partial" / "work.json"  # of a walk on a GPU, whose blocks are larger
    begun.write_text(begun.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    with pytest.raises(AuditError, match=r"other arguments \(device differ\)"):
        whence.audit(runs[0], blobs(seed=1), quantity=lambda o, y: o[:, 0], path=tmp_path / "audit")
    begun.write_text(begun.read_text().replace('"device": "cuda"', '"device": "cpu"'))
    whence.audit(runs[0], blobs(seed=1), quantity=lambda o, y: o[:, 0], path=tmp_path / "audit")


def read_entry(outputs: Any, labels: Any, *, entry: int) -> Any:
    return outputs[:, entry]


class Entry:
    def __init__(self, entry: int) -> None:
        self.entry = torch.tensor(entry)

    def __call__(self, outputs: Any, labels: Any) -> Any:
        return outputs[:, self.entry]

    def read(self, outputs: Any, labels: Any) -> Any:
        return outputs[:, self.entry]


def closing_over(entry: int) -> Any:
    return lambda outputs, labels: outputs[:, entry]


def with_default(entry: int) -> Any:
    return lambda outputs, labels, entry=entry: outputs[:, entry]


@pytest.mark.parametrize(
    "make",
    [closing_over, with_default, lambda one: partial(read_entry, entry=one), Entry, lambda one: Entry(one).read],
    ids=["closure", "default", "partial", "object", "method"],
)
def test_functions_of_one_code_are_told_apart_by_what_they_bring_along(make: Any) -> None:
    assert identity_of(make(0)) == identity_of(make(0))
    assert identity_of(make(0)) != identity_of(make(1))


def test_targets_that_do_not_suit_the_model_are_refused_in_words(tmp_path: Path) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), blobs())
    with pytest.raises(ArgumentError, match=r"these inputs \(torch.float64 of shape \(1, 4\)\).* training data"):
        whence.audit(run, blobs(features=4))
    x, y = blobs(seed=1)
    with pytest.raises(UnsupportedLossError, match=r"\(12,\): Target 9 is out of bounds\. Give the loss"):
        whence.audit(run, (x, torch.full_like(y, 9)))


def test_targets_whose_loss_is_no_number_are_refused_before_the_walk(tmp_path: Path) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), blobs())
    x, y = blobs(seed=1)
    x[[3, 7]] = torch.nan
    for budget in (2**29, 2**12):  # in one chunk, and in several
        given: dict[str, Any] = {"memory_budget": budget, "path": tmp_path / "audit.zarr"}
        with pytest.raises(ArgumentError, match=r"The loss of 2 of 12 targets is nan or infinite\. Look for nan in"):
            whence.audit(run, (x, y), **given)
        assert sorted(one.name for one in tmp_path.iterdir()) == ["run"]  # nothing that other targets would not suit


def test_an_audit_that_could_not_begin_leaves_nothing_behind(tmp_path: Path) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), blobs())
    given: dict[str, Any] = {"path": tmp_path / "audit.zarr"}
    with pytest.raises(ArgumentError, match="does not depend on trained parameters") as caught:
        whence.audit(run, blobs(seed=1), quantity=lambda o, y: (o.argmax(1) == y).double(), **given)
    assert "__notes__" not in vars(caught.value)
    assert whence.audit(run, blobs(seed=1), **given).influence.sizes["target"] == 12


def test_a_quantity_that_cannot_be_differentiated_is_refused(tmp_path: Path) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), blobs())
    with pytest.raises(ArgumentError, match=r"does not depend on trained parameters in a way that can be differ"):
        whence.audit(run, blobs(seed=1), quantity=lambda o, y: (o.argmax(1) == y).double())


def test_labels_that_name_no_output_are_refused_unless_classes_are_named(tmp_path: Path) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), blobs())
    x, y = blobs(seed=1)
    with pytest.raises(ArgumentError, match=r"needs one class number each; labels are torch.float64 of shape \(12,\)"):
        whence.audit(run, (x, y.double()), quantity="logit")
    with pytest.raises(ArgumentError, match=r"Label 7 is none of the 3 outputs \(0\.\.2\)"):
        whence.audit(run, (x, torch.full_like(y, 7)), quantity="probability")
    assert whence.audit(run, (x, y.double()), quantity="logit", classes=[1]).influence.sizes["target"] == 12


def test_an_audit_with_a_lost_or_altered_file_is_not_believed(tmp_path: Path) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), blobs())
    for number, damage in enumerate(("lost", "cut", "variable")):
        path = tmp_path / str(number)
        whence.audit(run, blobs(seed=1)).save(path)
        chunk = next(one for one in sorted((path / "influence" / "c").rglob("*")) if one.is_file())
        if damage == "lost":
            chunk.unlink()
        elif damage == "cut":
            chunk.write_bytes(chunk.read_bytes()[:10])
        else:
            shutil.rmtree(path / "residual")
        with pytest.raises(AuditError, match=r"missing or altered|cannot be read|lacks residual"):
            whence.load_audit(path).helpful(0)
        with pytest.raises(AuditError, match=r"missing or altered|cannot be read|lacks residual"):
            _ = whence.load_audit(path).completeness.mean_error


class Rotary(nn.Module):
    """Turns pairs of features by angles kept as complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.leave = nn.Linear(3, 8), nn.Linear(8, 3)
        self.turn: Tensor
        self.register_buffer("turn", torch.polar(torch.ones(4), torch.arange(4.0) + 0.5))

    def forward(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(self.enter(x).unflatten(1, (4, 2))) * self.turn
        turned: Tensor = self.leave(torch.view_as_real(pairs).flatten(1).tanh())
        return turned


class Writing(nn.Module):
    """Normalises its input where it lies."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tanh_net()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x.sub_(0.3).div_(1.7))
        return found


@pytest.mark.parametrize(("make", "dtype"), [(Rotary, torch.float32), (Writing, torch.float64)])
def test_what_is_explained_is_the_change_of_the_model_itself(make: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    data, (x, y) = blobs(dtype=dtype), blobs(5, seed=1, dtype=dtype)
    model, before = make(), make()
    run = trained(tmp_path / "run", model, Adam(model.parameters(), 0.02), data)
    after = copy.deepcopy(model).eval()
    true = [F.cross_entropy(one.eval()(x.clone()), y, reduction="none").detach() for one in (after, before)]
    audit = whence.audit(run, (x.requires_grad_(), y), quadrature="simpson")
    np.testing.assert_allclose(audit.completeness.true_change.values, true[0] - true[1], rtol=0, atol=1e-6)
    assert audit.completeness.mean_error < 1e-4


def test_targets_that_a_layer_would_mix_are_refused(tmp_path: Path) -> None:
    mixing = nn.BatchNorm2d(2, track_running_stats=False)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), mixing, nn.Flatten(), nn.Linear(8, 3)).double()
    data = torch.randn(12, 1, 4, 4, dtype=torch.float64), torch.arange(12) % 3
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), data)
    with pytest.raises(GradientError, match=r"Layer '1' \(BatchNorm2d\) has no running averages .* GroupNorm"):
        whence.audit(run, data)


def test_a_targets_gradient_is_its_own_where_training_divides_by_frequencies(tmp_path: Path) -> None:
    torch.manual_seed(0)
    words, labels = torch.randint(0, 5, (12, 7)), torch.arange(12) % 3
    embedding = nn.Embedding(5, 4, scale_grad_by_freq=True)
    model = nn.Sequential(embedding, nn.Flatten(), nn.Tanh(), nn.Linear(28, 3)).double()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.3), (words, labels))
    audit = whence.audit(run, (words[:5], labels[:5]), tolerance=1e-9)
    assert audit.completeness.mean_error < 1e-8


def test_a_model_of_two_types_is_refused_in_words(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(3, 8), nn.Linear(8, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.leave(self.enter(x.float()).tanh().double())
            return found

    model = Two()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.3), blobs())
    with pytest.raises(ArgumentError, match=r"cannot be called with everything in torch.float32: .* in one type"):
        whence.audit(run, blobs(5, seed=1))


def test_ids_may_be_handed_out_one_by_one() -> None:
    assert chosen_ids(iter([0, 3]), 5).tolist() == [0, 3]


def test_functions_that_close_over_other_numbers_are_told_apart() -> None:
    def logit_of(value: Any) -> Any:
        return lambda outputs, labels: outputs[:, value]

    values = [0, np.int64(0), np.int64(2), np.float32(0), np.arange(3), np.arange(3) + 1, {1, 2}, frozenset({1})]
    assert len({identity_of(logit_of(value)) for value in values}) == len(values)
    assert identity_of(logit_of({"a", "b", "c"})) == identity_of(logit_of({"c", "b", "a"}))


class Remembering(nn.Module):
    """Keeps what it computed last, to be looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tanh_net()
        self.seen: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x)
        self.seen["last"] = [found]
        return found


def test_a_model_that_keeps_what_it_computed_is_asked_more_than_once(tmp_path: Path) -> None:
    model = Remembering()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), blobs())
    first, second = (whence.audit(run, blobs(5, seed=1)).influence for _ in range(2))
    np.testing.assert_array_equal(first, second)
    effects = whence.counterfactual(run, blobs(5, seed=1), smoothness=1)
    assert whence.check(effects, [[0, 1]], seeds=0, processes=1).data["retrained"].shape == (1, 5)
