"""What is of the wrong kind, or of other data, is refused in words by every function of provenance networks."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.provenance.networks import body, separable
from whence._errors import ArgumentError, ChangedDataError, DataError, LabelError, ShapeError
from whence.provenance import (
    Branches,
    ClassIndex,
    CodeHead,
    CosineHead,
    GenerativeNetwork,
    MemoryBank,
    Mixture,
    Neighbours,
    Objective,
    Optimization,
    ProvenanceNetwork,
    Task,
    class_index,
    embeddings,
    generate,
    load_network,
    provenance_loss,
    retrieval_sheet,
    retrieve,
    retrieve_examples,
    save_network,
    train,
    train_generative,
    two_branches,
)
from whence.provenance.generative.checks import check_full
from whence.provenance.loss import compare
from whence.provenance.network import check_network
from whence.provenance.objective import neighbourhood_loss
from whence.provenance.retrieval import answered

DATA = separable()
QUICK = Optimization(batch_size=8)


def made(**more: Any) -> ProvenanceNetwork:
    return ProvenanceNetwork(body(), DATA, **more)


def pictures(seed: int) -> tuple[Tensor, Tensor]:
    inputs = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return inputs, torch.arange(8) % 2


def test_exemplars_are_not_drawn_from_other_data_of_the_same_size(tmp_path: Path) -> None:
    data, other = pictures(0), pictures(1)
    network = ProvenanceNetwork(nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), data)
    found = retrieve(network, data[0][:1], 2)
    assert retrieval_sheet(found, other, [0], data).size[0] > 0
    with pytest.raises(
        ChangedDataError, match=r"The exemplars are ids of .*Give the training data that the network was"
    ):
        retrieval_sheet(found, data, [0], other)
    with pytest.raises(ChangedDataError, match="The exemplars are ids of"):
        retrieve_examples(network, data, [0], other, 2, picture=tmp_path / "sheet.png")
    with pytest.raises(ArgumentError, match=r"`picture` is a file to write, .*; a folder stands at"):
        retrieve_examples(network, data, [0], data, 2, picture=tmp_path)


def test_a_distortion_that_returns_nothing_does_not_pass_for_none() -> None:
    with pytest.raises(ArgumentError, match="`distort` returned None"):
        train(made(), DATA, 1, optimization=QUICK, distort=lambda inputs, _: None)


def test_a_class_from_the_end_is_no_class() -> None:
    index = class_index([0, 1, 1])
    for label in (-1, 2):
        with pytest.raises(LabelError, match=f"No class {label}: the classes are 0 to 1"):
            index.ids(torch.tensor([label]), torch.tensor([0]))
    with pytest.raises(LabelError, match=r"No class 0\.5: the"):
        inspect.unwrap(ClassIndex.members)(index, 0.5)


@pytest.mark.parametrize("labels", [None, {"cat": 0}, torch.zeros(3, dtype=torch.complex64)], ids=str)
def test_labels_that_are_no_class_numbers_are_refused(labels: Any) -> None:
    with pytest.raises(DataError, match="Labels must be class numbers"):
        class_index(labels)


@pytest.mark.parametrize("head", [CosineHead, MemoryBank, CodeHead, Neighbours])
def test_heads_do_not_start_from_what_is_no_embedding(head: Any) -> None:
    network = made(head=head, branches=Branches(width=16))
    start, good = inspect.unwrap(head.initialise), torch.rand(24, 16, dtype=torch.float64)
    start(network.head, good.numpy())
    for wrong in (good[:3], good[:, :3], good[:, 0]):
        with pytest.raises(ShapeError, match="an embedding of 16 numbers for each of 24 examples; got"):
            start(network.head, wrong)
    good[5, 0] = float("nan")
    with pytest.raises(DataError, match="The embedding of example 5 is no finite number, as of 1 in all"):
        start(network.head, good)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda net: embeddings(net, DATA[0], chunk=0), "`chunk` is a whole number of inputs, at least 1; got 0"),
        (lambda net: inspect.unwrap(retrieve)(net, DATA[0], memory_budget=None), "`memory_budget` is a whole number"),
        (lambda net: embeddings(net, DATA[0], DATA[1][:3]), r"a class for each of 24 inputs; got shape \(3,\)"),
        (lambda net: embeddings(net, DATA[0], DATA[1] + 1), "No class 3: the classes are 0 to 2"),
        (lambda net: retrieve(net, {"pixels": DATA[0]}), "does not take these inputs, shape .* keyword argument"),
    ],
    ids=["chunk", "budget", "few labels", "other labels", "dict"],
)
def test_what_an_answer_does_not_take_is_said(ask: Callable[[ProvenanceNetwork], Any], words: str) -> None:
    with pytest.raises((ArgumentError, ShapeError, LabelError), match=words):
        ask(made(conditional=True))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"network": nn.Linear(6, 3)}, "provenance_loss takes a ProvenanceNetwork; got Linear"),
        ({"objective": "index"}, r"`objective` is an Objective, .*; got 'index'"),
        ({"inputs": DATA[0][:4].numpy()}, r"Inputs must be a batch .*; got ndarray\. torch\.as_tensor makes one"),
        ({"inputs": DATA[0][:4, :5]}, r"does not take these inputs, shape \(4, 5\), .*: mat1"),
        ({"labels": None}, "labels must be class numbers; torch makes no tensor of them"),
        ({"labels": ["cat"] * 4}, "labels must be class numbers; torch makes no tensor of them"),
        ({"ids": None}, "ids must be whole numbers; torch makes no tensor of them"),
    ],
    ids=["network", "objective", "array", "width", "no labels", "names", "no ids"],
)
def test_what_a_loss_does_not_take_is_said(changed: dict[str, Any], words: str) -> None:
    given = {"network": made(), "inputs": DATA[0][:4], "labels": DATA[1][:4], "ids": range(4)} | changed
    with pytest.raises((ArgumentError, DataError), match=words):
        inspect.unwrap(provenance_loss)(**given)


def test_the_neighbourhood_loss_is_refused_where_it_is_0_for_every_network() -> None:
    network = made(conditional=True)
    compared = compare(network, answered(network, DATA[0][:4], DATA[1][:4]).embedding, torch.arange(4), None)
    assert neighbourhood_loss(compared, network.index).item() == 0
    with pytest.raises(ArgumentError, match=r"examples of one class only, of which the neighbourhood loss is 0\."):
        provenance_loss(network, DATA[0][:4], DATA[1][:4], range(4), objective=Objective(neighbourhood=0.1))


def test_what_is_no_network_is_refused_by_all(tmp_path: Path) -> None:
    other: Any = nn.Linear(6, 3)
    calls: tuple[tuple[Any, tuple[Any, ...]], ...] = (
        (train, (DATA, 1)),
        (embeddings, (DATA[0],)),
        (retrieve, (DATA[0], 1)),
        (save_network, (tmp_path / "n",)),
        (load_network, (tmp_path / "n",)),
    )
    for call, more in calls:
        with pytest.raises(ArgumentError, match=f"{call.__name__} takes a ProvenanceNetwork; got Linear"):
            inspect.unwrap(call)(other, *more)
    for generative, more in ((generate, (1,)), (train_generative, (DATA, 1))):
        with pytest.raises(ArgumentError, match=f"{generative.__name__} takes a GenerativeNetwork; got Linear"):
            inspect.unwrap(generative)(other, *more)


def test_a_compiled_network_is_one_and_another_compiled_module_is_none() -> None:
    check_network(torch.compile(made(), backend="eager"), "retrieve")
    with pytest.raises(ArgumentError, match="retrieve takes a ProvenanceNetwork; got OptimizedModule"):
        check_network(torch.compile(nn.Linear(6, 3), backend="eager"), "retrieve")


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        (nn.BatchNorm2d(6).double(), r"does not take a batch of shape \(2, 6\): expected 4D input"),
        (nn.LSTM(6, 3).double(), "of two examples it gives tuple"),
        (nn.Flatten(0), r"The backbone must give .* of two examples it gives \(12,\)"),
        (nn.Unflatten(0, (1, 2)), r"The backbone must give"),
    ],
    ids=["dimensions", "tuple", "no axis", "more axes"],
)
def test_a_backbone_that_gives_no_vector_an_example_is_refused(backbone: nn.Module, words: str) -> None:
    with pytest.raises((ArgumentError, ShapeError), match=words):
        ProvenanceNetwork(backbone, DATA)


def test_a_branch_that_gives_no_vector_an_example_is_named() -> None:
    with pytest.raises(ShapeError, match=r"The index branch must give .* of two examples it gives \(2, 4, 4\)"):
        made(branches=Branches(index=nn.Unflatten(1, (4, 4))))
    with pytest.raises(ShapeError, match=r"The class branch must give"):
        made(branches=Branches(classes=nn.Unflatten(1, (4, 4))))


def test_a_task_of_another_kind_is_refused() -> None:
    make, branch = inspect.unwrap(Task.__init__), nn.Linear(16, 1)
    with pytest.raises(ArgumentError, match="`branch` of a Task is a torch module; got 'linear'"):
        make(Task.__new__(Task), "linear", nn.MSELoss(), DATA[1])
    with pytest.raises(ArgumentError, match="`loss` of a Task is a function of answer and labels; got None"):
        make(Task.__new__(Task), branch, None, DATA[1])
    network = inspect.unwrap(ProvenanceNetwork.__init__)
    with pytest.raises(ArgumentError, match=r"`task` is a Task\(branch, loss, groups\); got 'regression'"):
        network(ProvenanceNetwork.__new__(ProvenanceNetwork), body(), DATA, task="regression")


@pytest.mark.parametrize("text", ["[]", "null", '{"format": 2}', '{"format": 2, "history": "long"}'])
def test_a_checkpoint_without_a_history_is_refused(text: str, tmp_path: Path) -> None:
    train(made(), DATA, 1, optimization=QUICK, path=tmp_path)
    assert json.loads((tmp_path / "training.json").read_text())["history"]
    (tmp_path / "training.json").write_text(text)
    with pytest.raises(DataError, match=r"(holds no training|has no history)\. Delete the folder, or restore it"):
        train(made(), DATA, 1, optimization=QUICK, path=tmp_path)


def test_numbers_that_stand_alone_are_refused_where_several_belong() -> None:
    with pytest.raises(ArgumentError, match=r"`blur` is the smallest and the largest deviation, .*; got 3"):
        inspect.unwrap(Mixture.__init__)(Mixture.__new__(Mixture), blur=3)
    with pytest.raises(ArgumentError, match="`channels` are whole numbers, at least 1, one a convolution; got 3"):
        inspect.unwrap(two_branches)(pictures(0), channels=3)


def test_a_generative_network_of_another_kind_of_thing_is_refused() -> None:
    data = pictures(0)
    connected: Any = inspect.unwrap(GenerativeNetwork.fully_connected.__func__)  # type: ignore[attr-defined]
    with pytest.raises(ArgumentError, match=r"`index` is a ClassIndex, such as class_index\(labels\); got Tensor"):
        inspect.unwrap(check_full)(data[1])
    with pytest.raises(ArgumentError, match=r"`shape` is \(channels, height, width\) of a picture, .*; got 8"):
        connected(GenerativeNetwork, class_index(data[1]), 8)
    network = GenerativeNetwork.fully_connected(class_index(data[1]), np.array([1, 8, 8]).tolist(), latent=2)
    with pytest.raises(ArgumentError, match=r"`weights` are two numbers from 0, .*; got 3"):
        inspect.unwrap(train_generative)(network, data, 1, weights=3)
    for label in ("1", 1.5, True):
        with pytest.raises(LabelError, match=f"No class {label!r}: the network's classes are 0 to 1"):
            inspect.unwrap(generate)(network, 1, label=label)
