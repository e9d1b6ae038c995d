"""Losses over the index: their formulas against a slow reading of the paper, in float64."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.provenance.networks import body, separable
from whence._errors import ArgumentError
from whence.provenance import (
    Branches,
    CodeHead,
    CosineHead,
    LinearHead,
    MemoryBank,
    Objective,
    ProvenanceNetwork,
    SharedHead,
    class_index,
    index_loss,
    neighbourhood_loss,
    provenance_loss,
)
from whence.provenance.objective import Compared, candidates

DATA = separable()
INDEX = class_index(DATA[1])
IDS = torch.tensor([3, 0, 7, 8, 3])


def all_columns(seed: int = 0) -> Compared:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(IDS), len(INDEX), generator=generator, dtype=torch.float64)
    return Compared(logits, torch.arange(len(INDEX)), IDS)


@pytest.mark.parametrize("mixing", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.05])
def test_expected_mixed_loss_is_cross_entropy_with_the_soft_target_of_section_3_1(
    mixing: float, smoothing: float
) -> None:
    compared, many = all_columns(), len(INDEX)
    wanted = torch.zeros((), dtype=torch.float64)
    for row, one in zip(compared.logits, IDS.tolist(), strict=True):
        target = torch.zeros(many, dtype=torch.float64)
        target[one] = 1 - mixing
        others = [j for j in range(many) if INDEX.labels[j] == INDEX.labels[one] and j != one]
        target[others] += mixing / len(others)
        target = (1 - smoothing) * target + smoothing / many
        wanted += -(target * torch.log_softmax(row, 0)).sum() / len(IDS)
    found = index_loss(compared, INDEX, Objective(mixing=mixing, smoothing=smoothing))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_mean_of_drawn_mixed_losses_is_the_expected_one() -> None:
    compared, generator, many = all_columns(), torch.Generator().manual_seed(0), 600
    drawn = torch.stack(
        [index_loss(compared, INDEX, Objective(mixing=0.4, smoothing=0, drawn=True), generator) for _ in range(many)]
    )
    expected = index_loss(compared, INDEX, Objective(mixing=0.4, smoothing=0))
    error = float(drawn.std()) / many**0.5
    assert abs(float(drawn.mean() - expected)) < 4 * error  # four standard errors: 6 in 100,000


def test_neighbourhood_loss_is_the_leave_one_out_chance_of_the_class() -> None:
    compared, wanted = all_columns(), torch.zeros((), dtype=torch.float64)
    for row, one in zip(compared.logits, IDS.tolist(), strict=True):
        others = [j for j in range(len(INDEX)) if j != one]
        chances = torch.softmax(row[others], 0)
        same = torch.tensor([bool(INDEX.labels[j] == INDEX.labels[one]) for j in others])
        wanted += -chances[same].sum().log() / len(IDS)
    torch.testing.assert_close(neighbourhood_loss(compared, INDEX), wanted, rtol=1e-12, atol=1e-12)


def test_neighbourhood_loss_of_a_class_of_one_is_nothing() -> None:
    index = class_index([0, 1, 1])
    logits = torch.randn(1, 3, dtype=torch.float64)
    assert float(neighbourhood_loss(Compared(logits, torch.arange(3), torch.tensor([0])), index)) == 0


def test_candidates_hold_the_batch_once_and_say_where() -> None:
    columns, target = candidates(IDS, 24, 10, torch.Generator().manual_seed(0))
    assert columns is not None
    assert columns[target].tolist() == IDS.tolist()
    assert len(set(columns.tolist())) == len(columns) <= 10 + 4
    assert candidates(IDS, 24, None) == (None, IDS)


def heads() -> dict[str, Any]:
    """Return a maker of each head that has a logit of its own for each example."""
    return {
        "linear": LinearHead,
        "cosine": CosineHead,
        "bank": MemoryBank,
        "codes": partial(CodeHead, base=3, levels=2, last=8),
    }


@pytest.mark.parametrize("name", heads())
def test_logits_within_a_class_are_those_of_its_examples(name: str) -> None:
    torch.manual_seed(0)
    head = heads()[name](5, INDEX)
    embedding, labels = torch.randn(7, 5), torch.tensor([2, 0, 1, 1, 0, 2, 2])
    within, whole = head.within(embedding, labels), head.logits(embedding)
    for row, label in enumerate(labels.tolist()):
        members = INDEX.members(label)
        torch.testing.assert_close(within[row, : len(members)], whole[row, members])
        assert bool(torch.isneginf(within[row, len(members) :]).all())
    some = torch.tensor([4, 1, 9])
    torch.testing.assert_close(head.logits(embedding, some), whole[:, some])


def test_shared_head_masks_beyond_the_end_of_a_class() -> None:
    index = class_index([0, 0, 0, 1])
    head = SharedHead(4, index)
    embedding = torch.randn(2, 4)
    within = head.within(embedding, torch.tensor([0, 1]))
    torch.testing.assert_close(within[0], head.linear(embedding)[0])
    assert torch.isneginf(within[1]).tolist() == [False, True, True]


def test_codes_tell_all_examples_apart() -> None:
    index = class_index(torch.zeros(200, dtype=torch.int64))
    head = CodeHead(4, index, base=4, levels=2, last=64)
    assert len(head.codes.unique(dim=0)) == 200
    head.initialise(torch.randn(200, 4, generator=torch.Generator().manual_seed(0)))
    assert len(head.codes.unique(dim=0)) == 200
    with pytest.raises(ArgumentError, match=r"of 200 examples share all digits but the last, which tells 1 apart"):
        CodeHead(4, index, base=2, levels=1, last=1)


def test_gradient_of_the_memory_bank_reaches_both_sides_of_the_batch() -> None:
    head = MemoryBank(3, class_index([0, 0, 1]))
    keys, ids = torch.randn(2, 3, requires_grad=True), torch.tensor([0, 2])
    head.remember(ids, keys)
    query = torch.randn(2, 3, requires_grad=True)
    head.logits(query, torch.tensor([0, 1, 2])).square().sum().backward()
    assert keys.grad is not None
    assert query.grad is not None
    assert bool((keys.grad.abs().sum(1) > 0).all())
    head.forget()
    torch.testing.assert_close(head.bank[ids], torch.nn.functional.normalize(keys, dim=1).detach())


@pytest.mark.parametrize("conditional", [False, True])
def test_total_is_the_weighted_sum_of_the_branches(conditional: bool) -> None:
    network = ProvenanceNetwork(body(), DATA, head=LinearHead, conditional=conditional).double()
    ids = torch.tensor([0, 1, 2, 3])
    found = provenance_loss(network, DATA[0][ids], DATA[1][ids], ids, objective=Objective(smoothing=0))
    answer = network(DATA[0][ids], DATA[1][ids])
    assert answer.classes is not None
    classes = torch.nn.functional.cross_entropy(answer.classes, DATA[1][ids])
    index: Tensor = torch.zeros((), dtype=torch.float64)
    for row, one in enumerate(ids.tolist()):  # by hand: over all examples, or those of the class
        over = INDEX.members(int(DATA[1][one])) if conditional else torch.arange(24)
        logits = network.head.logits(answer.embedding[row : row + 1], over)[0]
        index = index - torch.log_softmax(logits, 0)[over.tolist().index(one)] / 4
    torch.testing.assert_close(found.total, 0.3 * classes + 0.7 * index, rtol=1e-12, atol=1e-12)


def test_mixing_labels_of_a_class_with_one_example_is_refused() -> None:
    data = (torch.eye(3), torch.tensor([0, 0, 1]))
    network = ProvenanceNetwork(torch.nn.Linear(3, 4), data, branches=Branches(classes=None))
    with pytest.raises(ArgumentError, match="class 1 has a single example, which no other can stand for"):
        provenance_loss(network, *data, torch.arange(3), objective=Objective(mixing=0.5))


def test_ids_that_change_between_epochs_are_found_by_their_labels() -> None:
    network = ProvenanceNetwork(body(), DATA).double()
    with pytest.raises(ArgumentError, match=r"Example 0 has the label 1; it had 0 .* must stay the same in all epochs"):
        provenance_loss(network, DATA[0][[1, 0]], DATA[1][[1, 0]], torch.tensor([0, 1]))


def test_objectives_outside_their_bounds_are_refused() -> None:
    with pytest.raises(ArgumentError, match="`mixing` is a share between 0 and 1; got 2"):
        Objective(mixing=2.0)
    with pytest.raises(ArgumentError, match="`index` is a weight"):
        Objective(index=-1.0)
    with pytest.raises(ArgumentError, match="`negatives` is a whole number"):
        Objective(negatives=0)


def test_drawing_all_examples_compares_with_all_within_classes_or_without() -> None:
    ids = torch.arange(24)
    for conditional in (False, True):
        network = ProvenanceNetwork(body(), DATA, conditional=conditional).double()
        whole, drawn = (
            provenance_loss(network, *DATA, ids, objective=Objective(negatives=negatives)).index
            for negatives in (None, 5)  # the batch itself is all there is
        )
        torch.testing.assert_close(whole, drawn, rtol=1e-12, atol=1e-12)


def test_views_count_like_the_inputs_in_one_pass() -> None:
    network, ids = ProvenanceNetwork(body(), DATA).double(), torch.tensor([4, 5, 6])
    inputs, labels = DATA[0][ids], DATA[1][ids]
    views = inputs + 0.1
    one, other = (provenance_loss(network, part, labels, ids).total for part in (inputs, views))
    both = provenance_loss(network, inputs, labels, ids, views=views).total
    torch.testing.assert_close(both, (one + other) / 2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("goal", [Objective(), Objective(mixing=0.3, neighbourhood=0.5)])
def test_the_index_loss_is_in_full_precision_whatever_the_logits_are_computed_in(goal: Objective) -> None:
    compared = all_columns()
    half = compared._replace(logits=compared.logits.bfloat16())
    full = compared._replace(logits=half.logits.float())
    for loss in (index_loss(half, INDEX, goal), neighbourhood_loss(half, INDEX)):
        assert loss.dtype == torch.float32
    torch.testing.assert_close(index_loss(half, INDEX, goal), index_loss(full, INDEX, goal))
    torch.testing.assert_close(neighbourhood_loss(half, INDEX), neighbourhood_loss(full, INDEX))
