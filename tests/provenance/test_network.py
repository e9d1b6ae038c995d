"""Provenance networks: retrieval, training, resume, storage, and what is refused."""

import copy
import inspect
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.datasets import load_digits
from torch import Tensor, nn

from tests.provenance.networks import body, separable
from whence._errors import ArgumentError, ChangedDataError, DataError, HeadMemoryError, LabelError, ShapeError
from whence.attribution import attribute
from whence.provenance import (
    Branches,
    ClassIndex,
    CodeHead,
    CosineHead,
    LinearHead,
    MemoryBank,
    Neighbours,
    Objective,
    Optimization,
    Provenance,
    ProvenanceNetwork,
    SharedHead,
    Task,
    Translation,
    embeddings,
    load_network,
    one_cycle,
    provenance_loss,
    reading,
    retrieve,
    save_network,
    shared_levels,
    single_branch,
    train,
    two_branches,
    warm_up_and_decay,
)
from whence.provenance.checkpoints import Checkpoint

DATA = separable()
QUICK = Optimization(batch_size=8, schedule=one_cycle, rate=0.02)
HEADS: dict[str, tuple[Any, bool]] = {
    "cosine": (CosineHead, False),
    "cosine within": (CosineHead, True),
    "linear": (LinearHead, False),
    "one a class": (LinearHead, True),
    "shared": (SharedHead, True),
    "bank": (MemoryBank, False),
    "codes": (partial(CodeHead, base=4, last=16), False),
    "neighbours": (Neighbours, False),
}


def made(name: str = "cosine", **more: Any) -> ProvenanceNetwork:
    head, conditional = HEADS[name]
    torch.manual_seed(0)
    return ProvenanceNetwork(body(), DATA, head=head, conditional=conditional, **more).double()


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: one.clone() for name, one in network.state_dict().items()}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_learns_which_example_it_is_given(name: str) -> None:
    network = made(name)
    train(network, DATA, 60, objective=Objective(smoothing=0.0), optimization=QUICK)
    found = retrieve(network, DATA[0], 2)
    assert float((found.exemplar.values[:, 0] == np.arange(24)).mean()) > 0.9
    assert float((found.predicted.values == DATA[1].numpy()).mean()) == 1
    assert found.exemplar.dims == ("query", "rank")
    assert bool((found.score.diff("rank") <= 0).all())
    assert not network.training


@pytest.mark.parametrize("name", HEADS)
def test_probabilities_of_the_index_sum_to_one_and_entropy_is_their_own(name: str) -> None:
    network = made(name)
    network.head.initialise(embeddings(network, *DATA))
    for read in reading(network, DATA[0]):
        chances = read.index.exp()
        torch.testing.assert_close(chances.sum(1), torch.ones(24, dtype=torch.float64))
        by_hand = [-sum(float(p) * float(p.log()) for p in row if p > 0) for row in chances]
        torch.testing.assert_close(read.entropy, torch.tensor(by_hand, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_examples_of_several_classes_compete_by_class_times_index() -> None:
    network = made("shared")
    both = next(iter(reading(network, DATA[0], considered=3)))
    assert both.classes is not None
    answer = network(DATA[0])
    for label in range(3):
        labels = torch.full((24,), label)
        within = torch.log_softmax(network.head.within(network.embed(answer.features, labels), labels), 1)
        members = network.index.members(label)
        wanted = both.classes[:, label : label + 1] + within[:, : len(members)]
        torch.testing.assert_close(both.index[:, members], wanted)
    torch.testing.assert_close(both.index.exp().sum(1), torch.ones(24, dtype=torch.float64))
    first = retrieve(network, DATA[0], 3)
    assert bool((first.exemplar_class == first.predicted).all())  # the paper's way: of the predicted class alone


def test_chunks_of_any_size_give_the_same() -> None:
    network = made()
    whole, parts = retrieve(network, DATA[0], 3), retrieve(network, DATA[0], 3, memory_budget=24 * 16 * 5)
    xr.testing.assert_allclose(whole, parts, rtol=1e-12)  # products of other shapes round otherwise


def test_a_training_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, cut = made("bank"), made("bank")
    goal = Objective(negatives=6, neighbourhood=0.1)

    def noisy(inputs: Tensor, generator: torch.Generator) -> Tensor:
        if len(calls) == cut_at:
            raise KeyboardInterrupt
        calls.append(1)
        return inputs + 0.1 * torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype)

    shared = {"objective": goal, "distort": noisy, "optimization": QUICK}
    calls: list[int] = []
    cut_at = -1
    wanted = train(whole, DATA, 4, **shared)  # type: ignore[arg-type]
    calls, cut_at = [], 7  # in the third epoch
    with pytest.raises(KeyboardInterrupt):
        train(cut, DATA, 4, path=tmp_path / "run", **shared)  # type: ignore[arg-type]
    again = made("bank")
    cut_at = -1
    found = train(again, DATA, 4, path=tmp_path / "run", **shared)  # type: ignore[arg-type]
    assert found.equals(wanted)
    for name, one in weights(whole).items():
        assert torch.equal(one, weights(again)[name]), name


def test_training_leaves_the_global_generator_and_depends_on_its_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other, third = made(), made(), made()
    torch.set_rng_state(before)
    train(one, DATA, 2, optimization=QUICK)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(77)
    train(other, DATA, 2, optimization=QUICK)
    train(third, DATA, 2, optimization=QUICK, seed=1)
    assert torch.equal(one.head.rows.weight, other.head.rows.weight)
    assert not torch.equal(one.head.rows.weight, third.head.rows.weight)


def test_sparse_rows_and_dense_ones_learn_and_only_touched_rows_move() -> None:
    network = ProvenanceNetwork(body(), DATA, head=partial(CosineHead, sparse=True)).double()
    before = weights(network)["head.rows.weight"]
    ids = torch.tensor([2, 3])
    losses = provenance_loss(
        network, DATA[0][ids], DATA[1][ids], ids,
        objective=Objective(negatives=3, smoothing=0.0), generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    losses.total.backward()
    gradient = network.head.rows.weight.grad
    assert gradient.is_sparse
    touched = gradient.coalesce().indices()[0]
    assert len(touched) <= 5
    train(network, DATA, 1, objective=Objective(negatives=3), optimization=QUICK)
    assert not torch.equal(weights(network)["head.rows.weight"], before)


def test_neighbours_are_the_nearest_by_cosine_and_leave_the_backbone_alone() -> None:
    network = made("neighbours")
    train(network, DATA, 3, optimization=QUICK)
    features = embeddings(network, DATA[0])
    cosines = torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=2)
    cosines.fill_diagonal_(-2)
    first = retrieve(network, DATA[0], 2)
    assert first.exemplar.values[:, 0].tolist() == list(range(24))
    assert first.exemplar.values[:, 1].tolist() == cosines.argmax(1).tolist()


def test_provenance_is_an_attributor() -> None:
    network = made("one a class")
    model = nn.Sequential(body(), nn.Linear(16, 3).double())
    scores = attribute(Provenance(network), model, DATA, train_data=DATA, loss=nn.CrossEntropyLoss(), ids=[4, 2])
    best = retrieve(network, DATA[0][[4, 2]], 1)
    assert scores.argmax("train").values.tolist() == best.exemplar.values[:, 0].tolist()
    assert scores.attrs["helps"] == 1
    other = (DATA[0] + 1, DATA[1])
    with pytest.raises(ChangedDataError, match="the model's data is"):
        attribute(Provenance(network), model, DATA, train_data=other, loss=nn.CrossEntropyLoss())


def test_a_regression_with_bins_as_groups_names_examples_of_its_bin() -> None:
    inputs, _ = separable(60)
    labels = inputs[:, :1] * 2
    groups = torch.bucketize(labels[:, 0], torch.quantile(labels[:, 0], torch.tensor([0.33, 0.67]).double()))
    task = Task(nn.Linear(16, 1).double(), nn.functional.mse_loss, groups)
    network = ProvenanceNetwork(body(), (inputs, labels), conditional=True, task=task).double()
    history = train(network, (inputs, labels), 80, optimization=QUICK)
    assert float(history.sel(measure="task loss")[-1]) < 0.2 * float(history.sel(measure="task loss")[0])
    found = retrieve(network, inputs, 1)
    assert float((found.exemplar_class.values[:, 0] == groups.numpy()).mean()) > 0.9


def test_the_papers_networks_have_the_layers_of_section_7() -> None:
    pictures = (torch.rand(20, 1, 28, 28), torch.arange(20) % 10)
    one = single_branch(pictures)
    assert sum(p.numel() for p in one.parameters()) == by_hand_single(20)
    two: Any = two_branches(pictures)
    assert two.index_branch[0].in_features == 2058  # equation 10
    assert two(pictures[0]).embedding.shape == (20, 1024)
    independent: Any = two_branches(pictures, conditional=False)
    assert independent.index_branch[0].in_features == 2048
    assert retrieve(two, pictures[0], 1).predicted.shape == (20,)
    assert float(two.index_branch[0].weight.detach().std()) == pytest.approx(0.02, rel=0.02)  # 7.1.2
    for level, shares in zip((1, 2, 3, 4), (0.0, 0.0, 0.0, 0.1), strict=True):
        network: Any = shared_levels(pictures, size="small", level=level)
        assert network.backbone.sharing >= shares
        assert network(pictures[0]).embedding.shape == (20, 128)
        assert len(network.backbone.shared) == level


def test_plain_neighbours_in_the_papers_network_compare_what_is_trained() -> None:
    pictures = (torch.rand(20, 1, 4, 4), torch.arange(20) % 4)
    for conditional in (True, False):
        network: Any = two_branches(pictures, head=Neighbours, conditional=conditional, channels=(2, 2, 2))
        network.head.initialise(embeddings(network, *pictures))
        assert torch.equal(network.eval()(pictures[0]).embedding, network(pictures[0]).features)
        assert network.head.bank.shape == (20, 2048)
    with pytest.raises(ArgumentError, match="leaves the index network as it was drawn"):
        shared_levels((torch.rand(20, 1, 8, 8), pictures[1]), head=Neighbours)


def test_pictures_that_the_papers_layers_halve_away_are_refused() -> None:
    labels = torch.arange(20) % 4
    with pytest.raises(ArgumentError, match=r"nothing is left of 7×9: they need 8×8\. .*small_backbone\(data\)"):
        shared_levels((torch.rand(20, 1, 7, 9), labels))
    for make in (single_branch, two_branches):
        with pytest.raises(ArgumentError, match=r"nothing is left of 3×3: they need 4×4"):
            make((torch.rand(20, 1, 3, 3), labels), channels=(2, 2, 2))


def by_hand_single(examples: int) -> int:
    convolutions = (9 + 1) * 128 + (9 * 128 + 1) * 256 + (9 * 256 + 1) * 512 + 2 * (128 + 256 + 512)
    hidden = (8192 + 1) * 4096 + 2 * 4096 + (4096 + 1) * 2048 + 2 * 2048
    return convolutions + hidden + (2048 + 1) * examples


def test_schedules() -> None:
    assert [warm_up_and_decay(one, 80) for one in (1.5, 3, 10.9, 11, 19)] == pytest.approx([0.5, 1, 1, 0.6, 0.36])
    assert one_cycle(0.15 * 20, 20) == pytest.approx(1)
    assert one_cycle(20, 20) == pytest.approx(0, abs=1e-12)


def test_a_saved_network_answers_as_before_and_knows_its_data(tmp_path: Path) -> None:
    network, place = made("bank"), tmp_path / "network.safetensors"
    train(network, DATA, 2, optimization=QUICK)
    save_network(network, place)
    again = load_network(made("bank"), place)
    assert retrieve(again, DATA[0], 3).equals(retrieve(network, DATA[0], 3))
    other = ProvenanceNetwork(body(), (DATA[0] + 1, DATA[1])).double()
    with pytest.raises(ChangedDataError, match="names examples of other data"):
        load_network(other, place)
    with pytest.raises(ArgumentError, match="head was 'MemoryBank' and is 'CosineHead'"):
        load_network(made("cosine"), place)
    with pytest.raises(ArgumentError, match="is of another architecture"):
        load_network(made("bank", branches=Branches(width=7)), place)
    with pytest.raises(DataError, match="holds no network"):
        load_network(made("bank"), tmp_path / "none")


def test_data_and_checkpoints_of_another_training_are_refused(tmp_path: Path) -> None:
    network = made()
    with pytest.raises(ChangedDataError, match=r"The network's index is of other data: blake2b:\w+, 24 examples"):
        train(network, (DATA[0] + 1, DATA[1]), 1)
    train(network, DATA, 1, optimization=QUICK, path=tmp_path / "run")
    with pytest.raises(ArgumentError, match="made with other settings: seed was 0 and is 1"):
        train(made(), DATA, 1, optimization=QUICK, path=tmp_path / "run", seed=1)
    changed = (DATA[0] + 1, DATA[1])
    other = ProvenanceNetwork(body(), changed).double()
    with pytest.raises(ChangedDataError, match=r"The checkpoint at .* is of other data"):
        train(other, changed, 1, optimization=QUICK, path=tmp_path / "run")


def test_a_checkpoint_of_another_head_or_network_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    def begun(make_head: Any, backbone: nn.Module, **more: Any) -> None:
        network = ProvenanceNetwork(backbone, DATA, head=make_head, **more).double()
        train(network, DATA, 1, optimization=QUICK, path=tmp_path / "run")

    begun(CosineHead, body())
    begun(CosineHead, body())  # the same goes on
    with pytest.raises(ArgumentError, match=r"the head's temperature was 0\.1 and is 0\.2\. Give the same"):
        begun(partial(CosineHead, temperature=0.2), body())
    with pytest.raises(ArgumentError, match=r"the head's rows\.sparse was False and is True"):
        begun(partial(CosineHead, sparse=True), body())
    with pytest.raises(ArgumentError, match="head was 'CosineHead' and is 'MemoryBank'"):
        begun(MemoryBank, body())
    with pytest.raises(ArgumentError, match="conditional was False and is True"):
        begun(CosineHead, body(), conditional=True)
    with pytest.raises(ArgumentError, match=r"the network was '\(1\): Tanh\(\)' and is '\(1\): ReLU\(\)'"):
        begun(CosineHead, nn.Sequential(body()[0], nn.ReLU()))  # type: ignore[index]


def test_a_saved_network_is_not_opened_with_another_temperature(tmp_path: Path) -> None:
    save_network(made("bank"), tmp_path / "network.safetensors")
    other = ProvenanceNetwork(body(), DATA, head=partial(MemoryBank, temperature=0.5)).double()
    with pytest.raises(ArgumentError, match=r"the head's temperature was 0\.1 and is 0\.5\. Make this one as that one"):
        load_network(other, tmp_path / "network.safetensors")


def normalised(*, frozen: bool) -> nn.Sequential:
    torch.manual_seed(0)
    found = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU()).double()
    return found.requires_grad_(not frozen)


def test_a_frozen_backbone_is_the_same_after_training_statistics_and_all() -> None:
    backbone = normalised(frozen=True)
    network = ProvenanceNetwork(backbone, DATA).double()
    before = weights(backbone)
    network.train()
    assert network.class_branch is not None
    assert network.class_branch.training
    assert not any(part.training for part in backbone.modules())
    train(network, DATA, 2, optimization=QUICK)
    assert all(torch.equal(one, before[name]) for name, one in weights(backbone).items())
    network.train().backbone.train()  # who wants its statistics to adapt says so
    assert all(part.training for part in backbone.modules())


def test_what_is_not_frozen_trains_as_torch_has_it() -> None:
    backbone = normalised(frozen=False)
    backbone[1].requires_grad_(False)
    network = ProvenanceNetwork(backbone, DATA).double().eval().train()
    assert [part.training for part in backbone] == [True, False, True, True]
    before = weights(backbone)
    train(network, DATA, 1, optimization=QUICK)
    same = {name for name, one in weights(backbone).items() if torch.equal(one, before[name])}
    assert same == {name for name in before if name.startswith("1.")}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"backbone": nn.Linear(5, 3)}, r"A _?\w+ does not take a batch of shape \(2, 6\): .*The backbone takes"),
        ({"branches": lambda: Branches(width=0)}, "`width` is a whole number, at least 1; got 0"),
    ],
    ids=["backbone", "width"],
)
def test_what_makes_no_network_is_refused_in_words(given: dict[str, Any], words: str) -> None:
    backbone = given.pop("backbone", nn.Linear(6, 3)).double()
    with pytest.raises(ArgumentError, match=words):
        ProvenanceNetwork(backbone, DATA, **{name: one() if name == "branches" else one for name, one in given.items()})


def test_a_head_by_name_is_refused_in_words() -> None:
    make = inspect.unwrap(ProvenanceNetwork.__init__)  # without the type check of the tests
    with pytest.raises(ArgumentError, match=r"`head` makes the index head .*, such as CosineHead or MemoryBank; got"):
        make(ProvenanceNetwork.__new__(ProvenanceNetwork), nn.Linear(6, 3), DATA, head="cosine")


def test_an_answer_that_is_no_number_names_its_input() -> None:
    inputs = DATA[0][:4].clone()
    inputs[2, 0] = float("nan")
    with pytest.raises(DataError, match=r"says of input 2 is no number \(nan\)\. Look for numbers that are not finite"):
        retrieve(made(), inputs, 2)


def test_networks_that_do_not_fit_together_are_refused() -> None:
    pictures = (torch.rand(4, 1, 8, 8), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ShapeError, match=r"must give a vector an example, .* it gives \(2, 3, 8, 8\)\. Add what makes"):
        ProvenanceNetwork(nn.Conv2d(1, 3, 3, padding=1), pictures)
    with pytest.raises(ArgumentError, match="give conditional=True beside it"):
        ProvenanceNetwork(body(), DATA, head=SharedHead)
    with pytest.raises(ArgumentError, match="give it a class branch"):
        ProvenanceNetwork(body(), DATA, conditional=True, branches=Branches(classes=None))
    with pytest.raises(ArgumentError, match=r"Labels must be 0 to 1, as there are 2 classes; 8 are not, such as 2"):
        ProvenanceNetwork(body(), DATA, class_count=2)
    with pytest.raises(DataError, match="For other tasks give `groups`"):
        ProvenanceNetwork(body(), (DATA[0], torch.rand(24)))
    with pytest.raises(ArgumentError, match="`k` is a whole number from 1 to 24; got 25"):
        retrieve(made(), DATA[0], 25)
    with pytest.raises(ArgumentError, match="give warm_up=0"):
        train(made(branches=Branches(classes=None)), DATA, 1, optimization=Optimization(warm_up=1))
    with pytest.raises(ArgumentError, match="take pictures"):
        single_branch(DATA)


def test_a_head_beyond_the_devices_memory_names_the_heads_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    network = made()

    def full(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(network.head, "logits", full)
    with pytest.raises(HeadMemoryError, match=r"CosineHead over 24 examples.*sparse=True.*MemoryBank, or CodeHead"):
        provenance_loss(network, DATA[0], DATA[1], torch.arange(24))


def test_digits_are_found_again_after_a_shift_that_plain_neighbours_do_not_survive() -> None:
    digits = load_digits()
    inputs = nn.functional.pad(torch.tensor(digits.images[:200] / 16, dtype=torch.float32)[:, None], (2, 2, 2, 2))
    data = (inputs, torch.tensor(digits.target[:200]))
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 36, 128), nn.BatchNorm1d(128), nn.ReLU(),
    )  # fmt: skip
    network = ProvenanceNetwork(backbone, data, head=MemoryBank)
    train(
        network, data, 30, objective=Objective(smoothing=0.0), distort=Translation(2, uniform=True),
        optimization=Optimization(batch_size=50, schedule=one_cycle, rate=5e-3),
    )  # fmt: skip
    moved = torch.roll(inputs, (2, -2), (2, 3))
    ours = (retrieve(network, moved, 1).exemplar.values[:, 0] == np.arange(200)).mean()
    pixels = (torch.cdist(moved.flatten(1), inputs.flatten(1)).argmin(1) == torch.arange(200)).float().mean()
    assert ours > 0.3 > 10 * float(pixels)


def test_a_class_without_examples_has_no_exemplar_rather_than_a_number_that_is_none() -> None:
    for head in (CosineHead, SharedHead, LinearHead, MemoryBank):
        network = ProvenanceNetwork(body(), DATA, head=head, conditional=True, class_count=4).double()
        with torch.no_grad():
            network.class_branch.bias[3] = 99  # type: ignore[union-attr, operator]
        found = retrieve(network, DATA[0][:2], 2)
        assert found.predicted.values.tolist() == [3, 3]
        assert found.exemplar.values.tolist() == found.exemplar_class.values.tolist() == [[-1, -1], [-1, -1]]
        assert np.isneginf(found.score.values).all()
        assert np.isneginf(found.index_confidence.values).all()
        assert not np.isnan(retrieve(network, DATA[0][:2], 2, considered=4).score.values).any()


def test_inputs_that_are_no_batch_are_refused() -> None:
    with pytest.raises(ArgumentError, match="the batch has 0 examples"):
        retrieve(made(), DATA[0][:0], 1)
    with pytest.raises(DataError, match=r"got ndarray\. torch\.as_tensor makes one"):
        retrieve(made(), DATA[0].numpy(), 1)
    with pytest.raises(
        ShapeError, match=r"has 2 axes, .*; got shape \(6,\)\. Give a single input .* with inputs\[None\]"
    ):
        retrieve(made(), DATA[0][0], 1)
    with pytest.raises(ShapeError, match=r"has 2 axes, the first that of the batch; got shape \(1, 24, 6\)\.$"):
        embeddings(made(), DATA[0][None])


def test_a_bank_lets_go_of_a_batch_whose_loss_was_refused() -> None:
    labels = torch.tensor([0] + [1] * 23)
    network = ProvenanceNetwork(body(), (DATA[0], labels), head=MemoryBank).double()
    with pytest.raises(ArgumentError, match="Labels cannot be mixed"):
        provenance_loss(network, DATA[0], labels, torch.arange(24), objective=Objective(mixing=0.5))
    copy.deepcopy(network)  # which a gradient would not let happen
    assert not network.head.logits(torch.ones(1, 128, dtype=torch.float64)).requires_grad


@pytest.mark.parametrize("conditional", [False, True])
def test_sparse_rows_learn_without_negatives_too(conditional: bool) -> None:
    network = ProvenanceNetwork(body(), DATA, head=partial(CosineHead, sparse=True), conditional=conditional).double()
    dense = made("cosine within" if conditional else "cosine")
    dense.load_state_dict(network.state_dict())
    for one in (network, dense):
        provenance_loss(one, DATA[0], DATA[1], torch.arange(24)).total.backward()
    torch.testing.assert_close(network.head.rows.weight.grad.to_dense(), dense.head.rows.weight.grad)
    train(network, DATA, 1, optimization=QUICK)


def test_a_training_goes_on_in_another_process_whatever_its_functions_are(tmp_path: Path) -> None:
    for _ in range(2):  # the same code, made anew, is at another place in memory

        def brighter(inputs: Tensor, generator: torch.Generator) -> Tensor:
            return inputs + 0.1

        steps = Optimization(batch_size=8, schedule=partial(one_cycle))
        train(made(), DATA, 1, distort=brighter, optimization=steps, path=tmp_path / "run")


def test_numbers_of_numpy_can_be_kept_in_a_checkpoint(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "run", {"epochs": np.int64(3), "rate": np.float32(0.5)})
    assert kept.told == {"epochs": 3, "rate": 0.5}


def test_batches_that_do_not_fit_their_ids_are_refused() -> None:
    network, inputs, labels, ids = made(), DATA[0][:4], DATA[1][:4], torch.arange(4)
    wanted = provenance_loss(network, inputs, labels, ids).total
    assert torch.equal(provenance_loss(network, inputs, labels.numpy().astype("int32"), ids.int()).total, wanted)
    with pytest.raises(LabelError, match="No example id 24: the network was made with 24 training examples"):
        provenance_loss(network, inputs, labels, ids + 21)
    with pytest.raises(LabelError, match="No example id -1"):
        provenance_loss(network, inputs, labels, ids - 1)
    with pytest.raises(ArgumentError, match="There are 3 ids and 4 inputs"):
        provenance_loss(network, inputs, labels[:3], ids[:3])
    with pytest.raises(ArgumentError, match=r"one label an example, \(4,\).* got labels of shape \(3,\)"):
        provenance_loss(network, inputs, labels[:3], ids)
    with pytest.raises(ArgumentError, match=r"got labels of shape \(4, 1\)"):
        provenance_loss(network, inputs, labels[:, None], ids)
    with pytest.raises(ArgumentError, match="There are 4 ids and 2 views"):
        provenance_loss(network, inputs, labels, ids, views=inputs[:2])


def test_a_network_is_of_its_backbones_dtype_and_data_of_another_is_refused() -> None:
    network = ProvenanceNetwork(body(), DATA, conditional=True)
    assert {one.dtype for one in network.parameters()} == {torch.float64}
    train(network, DATA, 1, optimization=QUICK)
    with pytest.raises(ArgumentError, match=r"computes in torch\.float32 and is given torch\.float64.*inputs\.float\("):
        ProvenanceNetwork(body().float(), DATA)


def test_a_class_branch_of_another_number_of_classes_is_refused() -> None:
    for many in (2, 9):
        parts = Branches(classes=nn.Linear(16, many).double())
        with pytest.raises(ArgumentError, match=f"gives {many} numbers an example, and there are 3 classes"):
            ProvenanceNetwork(body(), DATA, branches=parts)
    assert ProvenanceNetwork(body(), DATA, branches=parts, class_count=9)(DATA[0]).classes.shape == (24, 9)


def made_by_a_function(width: int, index: ClassIndex) -> Neighbours:
    return Neighbours(width, index, temperature=0.2)


@pytest.mark.parametrize("head", [Neighbours, partial(Neighbours, temperature=0.2), made_by_a_function])
@pytest.mark.parametrize("conditional", [False, True])
def test_plain_neighbours_compare_what_the_backbone_gives_and_nothing_else(head: Any, conditional: bool) -> None:
    network = ProvenanceNetwork(body(), DATA, head=head, conditional=conditional)
    assert torch.equal(embeddings(network, DATA[0], DATA[1]), network.backbone(DATA[0]))


def test_neighbours_that_were_never_filled_say_how_to_fill_them() -> None:
    for conditional in (False, True):
        network = ProvenanceNetwork(body(), DATA, head=Neighbours, conditional=conditional)
        with pytest.raises(ArgumentError, match=r"head\.initialise\(embeddings\(network, inputs, labels\)\)"):
            retrieve(network, DATA[0], 1)
        network.head.initialise(embeddings(network, *DATA))
        assert not conditional or retrieve(network, DATA[0], 1).exemplar.shape == (24, 1)
    plain = ProvenanceNetwork(body(), DATA, head=Neighbours)
    plain.head.initialise(embeddings(plain, *DATA))
    assert retrieve(plain, DATA[0], 1).exemplar.values[:, 0].tolist() == list(range(24))


def test_a_network_without_parameters_finds_the_nearest_inputs() -> None:
    plain = ProvenanceNetwork(nn.Flatten(), DATA, head=Neighbours, branches=Branches(classes=None))
    assert not list(plain.parameters())
    plain.head.initialise(embeddings(plain, *DATA))
    assert retrieve(plain, DATA[0], 1).exemplar.values[:, 0].tolist() == list(range(24))


def test_a_training_in_which_nothing_learns_is_refused() -> None:
    with pytest.raises(ArgumentError, match="Nothing would learn"):
        train(made(), DATA, 1, objective=Objective(classes=0, index=0))
    with pytest.raises(ArgumentError, match="Nothing would learn"):
        train(made("neighbours", branches=Branches(classes=None)), DATA, 1)


def test_a_training_whose_loss_is_no_number_ends_and_keeps_the_epoch_before(tmp_path: Path) -> None:
    def spoilt(inputs: Tensor, _: torch.Generator) -> Tensor:
        calls.append(1)
        return inputs * (1 if len(calls) <= 3 else float("nan"))  # three batches an epoch

    calls: list[int] = []
    with pytest.raises(ArgumentError, match=r"no finite number any more in epoch 2\. Look for such numbers in"):
        train(made(), DATA, 3, distort=spoilt, optimization=QUICK, path=tmp_path / "run")
    assert len(json.loads((tmp_path / "run" / "training.json").read_text())["history"]) == 1


def test_ids_may_be_any_whole_numbers_along_an_axis() -> None:
    network, ids = made(), [2, 0, 1]
    wanted = provenance_loss(network, DATA[0][ids], DATA[1][ids], torch.tensor(ids)).total
    for given in (ids, np.array(ids)):
        assert torch.equal(provenance_loss(network, DATA[0][ids], DATA[1][ids], given).total, wanted)
    with pytest.raises(ArgumentError, match="ids must be whole numbers; torch makes no tensor of them"):
        provenance_loss(network, DATA[0][:2], DATA[1][:2], ["a", "b"])


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (torch.zeros(3, 5), r"does not take these inputs, shape \(3, 5\), .*: mat1 .* Give inputs of the sizes and"),
        (
            torch.zeros(3, 6),
            r"does not take these inputs, shape \(3, 6\), torch.float32: .* the dtype of the training",
        ),
        ((DATA[0], DATA[1]), "A batch of the training data is 1 tensor; got 2. Give the inputs alone, without labels"),
    ],
    ids=["width", "dtype", "pair"],
)
def test_inputs_that_the_backbone_does_not_take_are_refused_in_words(inputs: Any, words: str) -> None:
    for ask in (retrieve, embeddings):
        with pytest.raises((ArgumentError, ShapeError), match=words):
            ask(made(), inputs)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pool": lambda x: x}, "`pool` of Branches is a torch module or None; got <function"),
        ({"index": 3}, "`index` of Branches is a torch module or None; got 3"),
        ({"classes": 10}, "`classes` of Branches is a torch module, 'linear' or None; got 10"),
        ({"classes": "cosine"}, "`classes` of Branches is a torch module, 'linear' or None; got 'cosine'"),
    ],
    ids=["pool", "index", "classes", "name"],
)
def test_branches_that_are_no_modules_are_refused_in_words(given: dict[str, Any], words: str) -> None:
    make = inspect.unwrap(Branches.__init__)  # without the type check of the tests
    with pytest.raises(ArgumentError, match=words):
        make(Branches.__new__(Branches), **given)


def test_a_backbone_or_branches_of_another_kind_are_refused_in_words() -> None:
    make, empty = inspect.unwrap(ProvenanceNetwork.__init__), ProvenanceNetwork.__new__(ProvenanceNetwork)
    with pytest.raises(ArgumentError, match="`backbone` is a torch module from inputs to features; got None"):
        make(empty, None, DATA)
    with pytest.raises(ArgumentError, match=r"`branches` are Branches.*; got 'linear'"):
        make(empty, nn.Linear(6, 3).double(), DATA, branches="linear")


def test_a_schedule_a_distortion_and_a_seed_that_are_none_are_refused_in_words() -> None:
    make = inspect.unwrap(Optimization.__init__)
    with pytest.raises(ArgumentError, match=r"`schedule` is a function .*, such as one_cycle; got 0\.5"):
        make(Optimization.__new__(Optimization), schedule=0.5)
    fit = inspect.unwrap(train)
    with pytest.raises(ArgumentError, match=r"`distort` is a function .* such as Mixture\(\); got 'shift'"):
        fit(made(), DATA, 1, distort="shift")
    with pytest.raises(ArgumentError, match="`seed` is a whole number, at least 0; got -1"):
        train(made(), DATA, 1, seed=-1)
    for name, words in (("objective", r"Objective\(mixing=0.5\)"), ("optimization", r"Optimization\(rate=1e-3\)")):
        with pytest.raises(ArgumentError, match=rf"`{name}` is an {name.title()}, such as {words}; got {{}}"):
            fit(made(), DATA, 1, **{name: {}})


def test_views_of_another_shape_than_their_inputs_are_refused() -> None:
    network = made()
    with pytest.raises(ShapeError, match=r"Views need the shapes of their inputs, \(4, 6\); got \(4, 5\)\. A"):
        provenance_loss(network, DATA[0][:4], DATA[1][:4], range(4), views=DATA[0][:4, :5])


@pytest.mark.parametrize("channels", [(), (4, -4), "abc"], ids=["none", "negative", "letters"])
@pytest.mark.parametrize("make", [single_branch, two_branches])
def test_channels_that_are_none_are_refused_in_words(make: Any, channels: Any) -> None:
    pictures = (torch.rand(4, 1, 8, 8), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ArgumentError, match="`channels` are whole numbers, at least 1, one a convolution; got"):
        inspect.unwrap(make)(pictures, channels=channels)


def test_a_level_that_is_no_whole_number_is_refused_in_words() -> None:
    pictures = (torch.rand(4, 1, 8, 8), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ArgumentError, match=r"`level` 1 to 4; got 'small' and 2\.0"):
        inspect.unwrap(shared_levels)(pictures, level=2.0)
