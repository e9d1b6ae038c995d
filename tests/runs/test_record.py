"""Recording leaves the training as it is, and refuses what it cannot record."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks
from torch.utils.data import DataLoader, TensorDataset

from tests.runs.training import EXAMPLES, Recipe, adam, data, equal, noisy_model, own_norm_model, plain_model
from whence import _errors as errors
from whence.runs import Recorder, open_run, record, start_recording
from whence.runs.recorder import epoch_order


def hooks_of(model: nn.Module, optimizer: Optimizer) -> list[int]:
    return [
        len(model._forward_hooks),
        len(model._forward_pre_hooks),
        len(optimizer._optimizer_step_pre_hooks),
        len(optimizer._optimizer_step_post_hooks),
        len(_global_optimizer_post_hooks),
    ]


def test_a_recorded_training_equals_the_same_loop_unrecorded_bit_by_bit(tmp_path: Path) -> None:
    recipe = Recipe(model=noisy_model)
    recorded, _ = recipe.record(tmp_path / "run")
    inputs, labels = data()
    orders = [torch.split(epoch_order(EXAMPLES, 0, epoch), recipe.batch_size) for epoch in range(recipe.epochs)]
    plain = recipe.model()
    torch.manual_seed(11)
    recipe.train(plain, adam(plain), [[(inputs[ids], labels[ids]) for ids in order] for order in orders])
    assert equal(recorded, plain)


def test_an_epochs_batches_hold_every_example_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    _, run = Recipe(epochs=2).record(tmp_path / "run")
    orders = [torch.cat([run.record_of(s).batches[0] for s in range(e * 6, e * 6 + 6)]) for e in range(2)]
    assert all(order.sort().values.tolist() == list(range(EXAMPLES)) for order in orders)
    assert orders[0].tolist() != orders[1].tolist()
    assert (run.epochs, run.epoch_of_steps().tolist()) == (2, [0] * 6 + [1] * 6)


def test_batches_without_shuffling_and_without_the_last(tmp_path: Path) -> None:
    model = plain_model()
    with record(tmp_path / "run", model, adam(model), data(), loss=F.cross_entropy) as recorder:
        found = list(recorder.batches(5, shuffle=False, drop_last=True))
    assert [len(labels) for _, labels in found] == [5, 5, 5, 5]
    assert torch.equal(torch.cat([inputs for inputs, _ in found]), data()[0][:20])


def test_hooks_are_gone_after_the_block_also_after_an_error(tmp_path: Path) -> None:
    model = plain_model()
    optimizer = adam(model)
    with record(tmp_path / "first", model, optimizer, data(), loss=F.cross_entropy) as recorder:
        assert all(hooks_of(model, optimizer))
    with pytest.raises(ZeroDivisionError), record(tmp_path / "second", model, optimizer, data(), loss=F.cross_entropy):
        raise ZeroDivisionError
    assert not any(hooks_of(model, optimizer))
    with pytest.raises(errors.RecordingError, match="closed"):
        recorder.batches(4)


def test_batches_begun_in_the_block_end_with_it(tmp_path: Path) -> None:
    model, dataset = plain_model(), TensorDataset(*data())
    with record(tmp_path / "run", model, adam(model), dataset, loss=F.cross_entropy) as recorder:
        watched = recorder.watch(DataLoader(dataset, 4))
        begun: list[Iterator[Any]] = [recorder.batches(4), recorder.batches(4), iter(watched)]
        next(begun[1])
        next(begun[2])
    for batches in (*begun, iter(watched)):
        with pytest.raises(errors.RecordingError, match="The recorder is closed"):
            next(batches)


def test_a_run_ends_where_an_error_stopped_its_loop(tmp_path: Path) -> None:
    def fail(_model: nn.Module, _optimizer: Optimizer, step: int) -> None:
        if step == 7:
            raise ZeroDivisionError

    recipe = Recipe(after_step=fail)
    with pytest.raises(ZeroDivisionError):
        recipe.record(tmp_path / "run")
    run = recipe.open(tmp_path / "run")
    assert run.steps == 7
    assert run.verify().steps == 7


def test_a_recorder_without_a_block_is_closed_by_hand(tmp_path: Path) -> None:
    model = plain_model()
    optimizer = adam(model)
    recorder = start_recording(tmp_path / "run", model, optimizer, data(), loss=F.cross_entropy)
    Recipe().train(model, optimizer, [recorder.batches(8)])
    recorder.close()
    recorder.close()
    assert not any(hooks_of(model, optimizer))
    assert open_run(tmp_path / "run", plain_model(), data(), loss=F.cross_entropy).steps == 3


def test_a_step_with_a_closure_is_recorded_as_one_step(tmp_path: Path) -> None:
    model = plain_model()
    optimizer = SGD(model.parameters(), lr=0.1)
    with record(tmp_path / "run", model, optimizer, data(), loss=F.cross_entropy) as recorder:
        for inputs, labels in recorder.batches(8):

            def closure(inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(inputs), labels)
                loss.backward()
                return loss

            assert optimizer.step(closure) is not None
    verification = open_run(tmp_path / "run", plain_model(), data(), loss=F.cross_entropy).verify()
    assert (verification.steps, verification.deviation) == (3, 0.0)


def throw_away_after_backward(model: nn.Module, optimizer: Optimizer, batches: Any, *, to_none: bool = True) -> None:
    for number, (inputs, labels) in enumerate(batches):
        F.cross_entropy(model(inputs), labels).backward()
        if number != 2:  # as a gradient scaler skips a step
            optimizer.step()
        optimizer.zero_grad(set_to_none=to_none)


def throw_away_zeros(model: nn.Module, optimizer: Optimizer, batches: Any) -> None:
    throw_away_after_backward(model, optimizer, batches, to_none=False)


def throw_away_before_backward(model: nn.Module, optimizer: Optimizer, batches: Any) -> None:
    for number, (inputs, labels) in enumerate(batches):
        loss = F.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        if number not in {1, 2}:
            optimizer.step()


def throw_away_and_accumulate(model: nn.Module, optimizer: Optimizer, batches: Any) -> None:
    for number, (inputs, labels) in enumerate(batches):
        F.cross_entropy(model(inputs), labels).backward()
        if number in {1, 3}:
            optimizer.zero_grad()
        elif number in {0, 5}:
            optimizer.step()
            optimizer.zero_grad()


def call_without_backward(model: nn.Module, optimizer: Optimizer, batches: Any) -> None:
    """The calls that lead to no gradient come before, between and after those that do."""
    for number, (inputs, labels) in enumerate(batches):
        outputs = model(inputs)
        if number not in {0, 2, 5}:
            F.cross_entropy(outputs, labels).backward()
        if number in {3, 5}:
            optimizer.step()
            optimizer.zero_grad()


THROWN_AWAY: dict[str, tuple[Callable[..., None], list[int]]] = {
    # loop, microbatches of each step
    "after backward": (throw_away_after_backward, [1, 1, 1, 1, 1]),
    "after backward, zeros": (throw_away_zeros, [1, 1, 1, 1, 1]),
    "before backward": (throw_away_before_backward, [1, 1, 1, 1]),
    "accumulated": (throw_away_and_accumulate, [1, 2]),
    "without backward": (call_without_backward, [2, 1]),
}


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("make", [plain_model, noisy_model, own_norm_model])
@pytest.mark.parametrize("name", THROWN_AWAY)
def test_gradients_that_are_thrown_away_are_no_part_of_the_next_step(
    name: str, make: Callable[[], nn.Module], every: int, tmp_path: Path
) -> None:
    loop, sizes = THROWN_AWAY[name]
    model = make()
    optimizer = adam(model)
    with record(tmp_path / "run", model, optimizer, data(), loss=F.cross_entropy, snapshot_every=every) as recorder:
        loop(model, optimizer, recorder.batches(4))
        loop(model, optimizer, recorder.batches(4))
    run = open_run(tmp_path / "run", make(), data(), loss=F.cross_entropy)
    assert [len(run.record_of(step).batches) for step in range(run.steps)] == sizes * 2
    verification = run.verify()
    assert verification.exact == verification.snapshots >= run.steps // every


def step_without_batch(model: nn.Module, optimizer: Optimizer, recorder: Recorder) -> None:
    Recipe().train(model, optimizer, [recorder.batches(4)])
    F.cross_entropy(model(data()[0]), data()[1]).backward()
    optimizer.step()


def step_twice(model: nn.Module, optimizer: Optimizer, recorder: Recorder) -> None:
    for inputs, labels in recorder.batches(4):
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.step()


def call_twice(model: nn.Module, optimizer: Optimizer, recorder: Recorder) -> None:
    for inputs, labels in recorder.batches(4):
        F.cross_entropy(model(inputs) + model(inputs), labels).backward()
        optimizer.step()


def call_a_part(model: nn.Module, optimizer: Optimizer, recorder: Recorder) -> None:
    for inputs, labels in recorder.batches(4):
        F.cross_entropy(model[1:](model[0](inputs)), labels).backward()  # type: ignore[index]
        optimizer.step()


def change_the_batch(model: nn.Module, optimizer: Optimizer, recorder: Recorder) -> None:
    for inputs, labels in recorder.batches(4):
        F.cross_entropy(model(inputs / 2), labels).backward()
        optimizer.step()


def add_stranger(model: nn.Module, optimizer: Optimizer, recorder: Recorder) -> None:
    stranger = nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [stranger]})
    Recipe().train(model, optimizer, [recorder.batches(4)])


def train_with_another(model: nn.Module, optimizer: Optimizer, recorder: Recorder) -> None:
    critic = nn.Linear(3, 3)
    of_the_critic, other = SGD(critic.parameters(), lr=0.1), SGD(model.parameters(), lr=0.1)
    for number, (inputs, labels) in enumerate(recorder.batches(4)):
        (F.cross_entropy(model(inputs), labels) + critic(inputs[:, :3]).square().sum()).backward()
        of_the_critic.step()
        (optimizer if number < 3 else other).step()
        optimizer.zero_grad()


def alternate(model: nn.Module, optimizer: Optimizer, recorder: Recorder) -> None:
    passes = [recorder.batches(4), recorder.batches(4, seed=1)]
    for number in range(4):
        Recipe().train(model, optimizer, [[next(passes[number % 2])]])


REFUSED_LOOPS: dict[str, tuple[Callable[..., None], str]] = {
    "step without batch": (step_without_batch, r"Step 6 was made without a batch.*recorder\.batches"),
    "step twice": (step_twice, r"Step 1 was made without a batch"),
    "call twice": (call_twice, r"called twice with gradients on the batch for step 0.*no_grad"),
    "call a part": (call_a_part, r"Step 0 was made, but the model given to record\(\) was not called"),
    "change the batch": (
        change_the_batch,
        r"called with other inputs.*same shape .*but other values.*move it into the dataset",
    ),
    "train with another": (
        train_with_another,
        r"Another optimizer \(SGD\) changed 0\.weight, .* for step 3\. Only steps of the Adam .*a second run",
    ),
    "alternate": (
        alternate,
        r"Step 2 was made with batch 1 of epoch 0, after a step with batch 0 of epoch 1\..*finish one before the next",
    ),
    "add a stranger": (add_stranger, r"group holds parameters that are not in the model"),
}


@pytest.mark.parametrize("name", REFUSED_LOOPS)
def test_a_loop_that_cannot_be_recorded_is_told_so_and_the_steps_before_are_kept(name: str, tmp_path: Path) -> None:
    loop, words = REFUSED_LOOPS[name]
    model = plain_model()
    optimizer = adam(model)
    with (
        pytest.raises(errors.RecordingError, match=words),
        record(tmp_path / "run", model, optimizer, data(), loss=F.cross_entropy) as recorder,
    ):
        loop(model, optimizer, recorder)
    assert not any(hooks_of(model, optimizer))
    run = open_run(tmp_path / "run", plain_model(), data(), loss=F.cross_entropy)
    assert run.verify().steps == run.steps


class MyAdam(Adam):
    pass


def sparse_model() -> nn.Module:
    return nn.Sequential(nn.Embedding(4, 3, sparse=True), nn.Flatten(), nn.Linear(3, 3))


REFUSED_OPTIMIZERS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Optimizer], str]] = {
    "unknown": (plain_model, lambda m: torch.optim.Rprop(m.parameters()), r"Rprop is not one of .*SGD, RMSprop"),
    "subclass": (plain_model, lambda m: MyAdam(m.parameters()), r"MyAdam is not one of"),
    "option": (plain_model, lambda m: SGD(m.parameters(), lr=0.1, differentiable=True), r"SGD has differentiable=True"),
    "stranger": (plain_model, lambda m: adam(plain_model()), r"trains 4 parameters that are not in the model"),
    "half": (
        lambda: plain_model().to(torch.bfloat16),
        lambda m: SGD(m.parameters(), lr=0.1),
        r"parameter '0\.weight' is bfloat16; only float32 and float64 can be",
    ),
    "sparse": (sparse_model, lambda m: SGD(m.parameters(), lr=0.1), r"layer '0' gives sparse gradients"),
}


@pytest.mark.parametrize("name", REFUSED_OPTIMIZERS)
def test_an_optimizer_that_cannot_be_recorded_is_refused_by_name_at_the_start(name: str, tmp_path: Path) -> None:
    make, optimizer_of, words = REFUSED_OPTIMIZERS[name]
    model = make()
    with pytest.raises(errors.UnsupportedOptimizerError, match=words):
        start_recording(tmp_path / "run", model, optimizer_of(model), data(), loss=F.cross_entropy)
    assert not (tmp_path / "run").exists()


class Noisy(TensorDataset):
    def __getitem__(self, index: int) -> Any:
        return torch.rand(5), 1


def test_random_data_without_a_stored_seed_is_refused_at_the_start(tmp_path: Path) -> None:
    model = plain_model()
    with pytest.raises(errors.RandomDataError, match="Augmented"):
        start_recording(tmp_path / "run", model, adam(model), Noisy(*data()), loss=F.cross_entropy)
    assert not (tmp_path / "run").exists()


def test_an_existing_path_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    model = plain_model()
    (tmp_path / "thesis.tex").write_text("all of it")
    for resume, where in ((False, tmp_path), (False, tmp_path / "thesis.tex"), (True, tmp_path)):
        with pytest.raises(errors.RunExistsError, match=r"(?i)nothing .*touched"):
            start_recording(where, model, adam(model), data(), loss=F.cross_entropy, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert (tmp_path / "thesis.tex").read_text() == "all of it"


@pytest.mark.parametrize("wrong", [{"snapshot_every": 0}, {"disk_budget": 0}, {"snapshot_every": True}])
def test_wrong_arguments_are_refused_before_anything_is_made(wrong: dict[str, Any], tmp_path: Path) -> None:
    model = plain_model()
    with pytest.raises(errors.ArgumentError, match="got"):
        start_recording(tmp_path / "run", model, adam(model), data(), loss=F.cross_entropy, **wrong)
    assert not (tmp_path / "run").exists()


def test_the_disk_budget_widens_the_spacing_and_keeps_the_first_and_last_snapshot(tmp_path: Path) -> None:
    recipe = Recipe()
    model = recipe.model()
    optimizer = adam(model)
    path = tmp_path / "run"
    with record(path, model, optimizer, data(), loss=F.cross_entropy, snapshot_every=1, disk_budget=60_000) as recorder:
        recipe.train(model, optimizer, recipe.epochs_of(recorder))
    run = recipe.open(path)
    kept = run.snapshots.steps()
    assert run.snapshots.size() <= 60_000
    assert (kept[0], kept[-1]) == (0, run.steps)
    assert {b - a for a, b in pairwise(kept[:-1])} == {kept[1]}
    assert kept[1] > 1
    assert run.verify().deviation == 0.0


def test_a_model_changed_after_the_last_step_leaves_the_run_as_trained(tmp_path: Path) -> None:
    recipe = Recipe(epochs=1)
    model = recipe.model()
    optimizer = adam(model)
    with record(tmp_path / "run", model, optimizer, data(), loss=F.cross_entropy, snapshot_every=4) as recorder:
        recipe.train(model, optimizer, [recorder.batches(4)])
        trained = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(plain_model().state_dict())  # as early stopping does
    run = recipe.open(tmp_path / "run")
    assert run.verify().deviation == 0.0
    assert all(torch.equal(value, trained[name]) for name, value in run.state_at(run.steps).parameters.items())
