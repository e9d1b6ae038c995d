"""A watched DataLoader gives the batches it would give, and their ids."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

from tests.runs.training import EXAMPLES, Recipe, adam, data, equal, noisy_model
from whence import _errors as errors
from whence.datasets import Augmented, as_examples
from whence.runs import Run, open_run, record


class Numbered(Dataset[Any]):
    """Items say who they are."""

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((5,), float(index)), index % 3


def own_generator(dataset: Dataset[Any]) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(2))


def weighted(dataset: Dataset[Any]) -> DataLoader[Any]:
    sampler = WeightedRandomSampler([1.0 + index for index in range(EXAMPLES)], 20)
    return DataLoader(dataset, batch_size=4, sampler=sampler, drop_last=True)


LOADERS: dict[str, Callable[[Dataset[Any]], DataLoader[Any]]] = {
    "shuffled": lambda d: DataLoader(d, batch_size=4, shuffle=True),
    "in order": lambda d: DataLoader(d, batch_size=4),
    "own generator": own_generator,
    "weighted": weighted,
    "batch sampler": lambda d: DataLoader(d, batch_sampler=[[3, 1], [0, 2, 5], [7, 8]]),
    "counted from the end": lambda d: DataLoader(d, batch_sampler=[[3, -1], [0, -EXAMPLES, -5], [7, 8]]),
    "workers": lambda d: DataLoader(d, batch_size=4, shuffle=True, num_workers=2),
    "workers that stay": lambda d: DataLoader(d, batch_size=4, shuffle=True, num_workers=2, persistent_workers=True),
}


def train(path: Path, loader: DataLoader[Any], dataset: Dataset[Any], *, epochs: int = 2) -> nn.Module:
    recipe = Recipe(model=noisy_model)
    model = recipe.model()
    optimizer = adam(model)
    torch.manual_seed(11)
    with record(path, model, optimizer, dataset, loss=F.cross_entropy, snapshot_every=4) as recorder:
        watched = recorder.watch(loader)
        recipe.train(model, optimizer, (watched for _ in range(epochs)))
    return model


def train_plainly(loader: DataLoader[Any], *, epochs: int = 2) -> nn.Module:
    recipe = Recipe(model=noisy_model)
    model = recipe.model()
    torch.manual_seed(11)
    recipe.train(model, adam(model), (loader for _ in range(epochs)))
    return model


def open_noisy(path: Path, dataset: Any) -> Run:
    return open_run(path, noisy_model(), dataset, loss=F.cross_entropy)


@pytest.mark.parametrize("name", LOADERS)
def test_training_on_a_watched_loader_equals_the_unrecorded_training_bit_by_bit(name: str, tmp_path: Path) -> None:
    dataset = TensorDataset(*data())
    recorded = train(tmp_path / "run", LOADERS[name](dataset), dataset)
    assert equal(recorded, train_plainly(LOADERS[name](dataset)))
    verification = open_noisy(tmp_path / "run", dataset).verify()
    assert verification.exact == verification.snapshots


@pytest.mark.parametrize("name", ["shuffled", "weighted", "batch sampler", "workers"])
def test_the_ids_recorded_are_those_of_the_items_in_the_batch(name: str, tmp_path: Path) -> None:
    dataset = Numbered()
    model = noisy_model()
    optimizer = adam(model)
    seen: list[list[int]] = []
    with record(tmp_path / "run", model, optimizer, dataset, loss=F.cross_entropy) as recorder:
        watched = recorder.watch(LOADERS[name](dataset))
        assert len(watched) == len(LOADERS[name](dataset))
        for inputs, labels in watched:
            seen.append(inputs[:, 0].long().tolist())
            Recipe().train(model, optimizer, [[(inputs, labels)]])
    run = open_noisy(tmp_path / "run", dataset)
    assert [run.record_of(step).batches[0].tolist() for step in range(run.steps)] == seen


@pytest.mark.parametrize("beyond", [EXAMPLES, -EXAMPLES - 1])
def test_an_id_that_no_example_has_is_refused_when_it_is_drawn(beyond: int, tmp_path: Path) -> None:
    dataset = TensorDataset(*data())
    loader = DataLoader(dataset, batch_sampler=[[3, 1], [0, beyond]])
    with pytest.raises(errors.RecordingError, match=rf"drew the example {beyond}; .* 0 to {EXAMPLES - 1}"):
        train(tmp_path / "run", loader, dataset)
    assert open_noisy(tmp_path / "run", dataset).steps == 1


def jitter(inputs: Tensor) -> Tensor:
    return inputs + torch.randn(5)


@pytest.mark.parametrize("workers", [0, 2])
def test_augmented_data_is_drawn_anew_each_epoch_and_walked_again(workers: int, tmp_path: Path) -> None:
    dataset = Augmented(TensorDataset(*data()), jitter, seed=5)
    loader = DataLoader(dataset, batch_size=4, num_workers=workers, persistent_workers=workers > 0)
    train(tmp_path / "run", loader, dataset)
    run = open_noisy(tmp_path / "run", dataset)
    verification = run.verify()
    assert verification.exact == verification.snapshots >= 3
    first, second = (run.examples.batch([0], epoch=epoch)[0] for epoch in (0, 1))
    assert not torch.equal(first, second)


def accumulate_across_epochs(path: Path, workers: int, dataset: Any) -> Run:
    """Record a step at the fourth of an epoch's six batches; the last two go with the next epoch's."""
    recipe = Recipe(model=noisy_model, accumulate=4)
    model = recipe.model()
    optimizer = adam(model)
    torch.manual_seed(11)
    with record(path, model, optimizer, dataset, loss=F.cross_entropy, snapshot_every=2) as recorder:
        loader = recorder.watch(DataLoader(dataset, batch_size=4, num_workers=workers)) if workers else None
        recipe.train(model, optimizer, (loader or recorder.batches(4) for _ in range(4)))
    return open_noisy(path, dataset)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_a_step_that_spans_two_epochs_are_drawn_as_in_their_own_epoch(workers: int, tmp_path: Path) -> None:
    run = accumulate_across_epochs(tmp_path / "run", workers, Augmented(TensorDataset(*data()), jitter, seed=5))
    verification = run.verify()
    assert [run.record_of(step).epochs for step in range(2)] == [(0, 0, 0, 0), (0, 0, 1, 1, 1, 1)]
    assert run.epoch_of_steps().tolist() == [0, 1, 2, 3]
    assert verification.exact == verification.snapshots == 2


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from zip(*data(), strict=True)


class Twice(DataLoader[Any]):
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()
        yield from super().__iter__()


def collate(items: list[Any]) -> Any:
    return torch.stack([item[0] for item in items]), torch.tensor([int(item[1]) for item in items])


DATASET = TensorDataset(*data())
REFUSED: dict[str, tuple[Any, str]] = {
    "stream": (DataLoader(Stream(), batch_size=4), r"IterableDataset.*map-style"),
    "no batches": (DataLoader(DATASET, batch_size=None), r"batch_size=None.*Give it a batch_size"),
    "overtaking": (DataLoader(DATASET, in_order=False), r"in_order=False"),
    "another dataset": (DataLoader(Subset(DATASET, [1, 2])), r"its dataset \(a Subset\) is not the train_data"),
    "another collate": (DataLoader(DATASET, collate_fn=collate), r"collate_fn.*as_examples"),
    "own iteration": (Twice(DATASET), r"Twice iterates in its own way"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_loader_that_does_not_say_its_examples_is_refused_with_the_remedy(name: str, tmp_path: Path) -> None:
    loader, words = REFUSED[name]
    model = noisy_model()
    with (
        record(tmp_path / "run", model, adam(model), DATASET, loss=F.cross_entropy) as recorder,
        pytest.raises(errors.UnsupportedLoaderError, match=words),
    ):
        recorder.watch(loader)


class Collation:
    def collate(self, items: list[Any]) -> Any:
        return collate(items)


def test_a_bound_method_is_the_same_collate_function_each_time(tmp_path: Path) -> None:
    collation, model = Collation(), noisy_model()
    examples = as_examples(DATASET, collate_fn=collation.collate)
    with record(tmp_path / "run", model, adam(model), examples, loss=F.cross_entropy) as recorder:
        loader: DataLoader[Any] = DataLoader(DATASET, batch_size=8, collate_fn=collation.collate)
        assert len(recorder.watch(loader)) == 3


def test_a_collate_function_given_with_the_data_is_watched(tmp_path: Path) -> None:
    examples = as_examples(DATASET, collate_fn=collate)
    model = noisy_model()
    optimizer = adam(model)
    with record(tmp_path / "run", model, optimizer, examples, loss=F.cross_entropy) as recorder:
        loader: DataLoader[Any] = DataLoader(DATASET, batch_size=8, collate_fn=collate)
        Recipe().train(model, optimizer, [recorder.watch(loader)])
    assert open_noisy(tmp_path / "run", examples).verify().deviation == 0.0


@pytest.mark.parametrize("name", ["shuffled", "own generator", "workers"])
@pytest.mark.parametrize("stop", [2, 6, 8])
def test_a_resumed_loader_goes_on_in_the_same_order(name: str, stop: int, tmp_path: Path) -> None:
    dataset = TensorDataset(*data())
    whole = train_plainly(LOADERS[name](dataset), epochs=3)

    def halt(_model: nn.Module, _optimizer: Any, step: int) -> None:
        if step == stop:
            raise KeyboardInterrupt

    def go(recipe: Recipe, seed: int) -> nn.Module:
        model = noisy_model()
        optimizer = adam(model)
        torch.manual_seed(seed)
        with record(tmp_path / "run", model, optimizer, dataset, loss=F.cross_entropy, resume=True) as recorder:
            watched = recorder.watch(LOADERS[name](dataset))
            recipe.train(model, optimizer, (watched for _ in range(recorder.epoch, 3)))
        return model

    with pytest.raises(KeyboardInterrupt):
        go(Recipe(after_step=halt), seed=11)
    assert equal(go(Recipe(), seed=99), whole)
