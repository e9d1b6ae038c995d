"""Recording through Lightning's own trainer, in one line."""

import ast
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

import whence
from tests.runs.training import CLASSES, FEATURES, data, equal
from whence import _errors as errors
from whence import runs
from whence.runs import Run, lightning_recorder, open_run
from whence.runs.lightning import _check_trainer

pytestmark = [  # Lightning's advice, and what it calls of torch
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
]

DATA = TensorDataset(*data())
# Sums of some hundred float32 products, of size 1 or less, in two orders.
ROUNDING = 1e3 * float(np.finfo(np.float32).eps)


class Net(LightningModule):
    """A classifier that notes the inputs of each step."""

    def __init__(self, *, decay: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(FEATURES, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, CLASSES)
        )
        self.seen: list[Tensor] = []
        self.decay = decay

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.layers(inputs)
        return found

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, labels = batch
        self.seen.append(inputs)
        return F.cross_entropy(self(inputs), labels)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        inputs, labels = batch
        self.log("validation", F.cross_entropy(self(inputs), labels) + torch.rand(()))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.02, weight_decay=self.decay)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


def net() -> Net:
    torch.manual_seed(3)
    return Net()


def trainer(*callbacks: Callback, epochs: int = 2, **options: Any) -> Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(max_epochs=epochs, callbacks=list(callbacks), **settings | options)


def recorder(path: Path, train_data: Any = DATA, *, resume: bool = False) -> Callback:
    return lightning_recorder(path, train_data, loss=F.cross_entropy, snapshot_every=3, resume=resume)


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(DATA, batch_size=4, shuffle=True, **options)


def opened(path: Path) -> Run:
    return open_run(path, Net(), DATA, loss=F.cross_entropy)


def ids_of(inputs: Tensor) -> list[int]:
    """Return which examples the rows of a batch are, by looking for each."""
    return [int((row == DATA.tensors[0]).all(1).nonzero()) for row in inputs]


@dataclass(frozen=True)
class Recipe:
    """What differs between trainings."""

    trainer: dict[str, Any] = field(default_factory=dict)
    loader: dict[str, Any] = field(default_factory=dict)
    validate: bool = False
    accumulate: int = 1
    exact: bool = True

    def fit(self, *callbacks: Callback) -> Net:
        model = net()
        torch.manual_seed(11)
        trainer(*callbacks, accumulate_grad_batches=self.accumulate, **self.trainer).fit(
            model, loader(**self.loader), DataLoader(DATA, 8) if self.validate else None
        )
        return model


RECIPES = {
    "plain": Recipe(),
    "validated": Recipe({"val_check_interval": 0.5}, validate=True),
    "clip by norm": Recipe({"gradient_clip_val": 0.3}),
    "clip by value": Recipe({"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"}),
    "accumulate, clip, validate": Recipe({"gradient_clip_val": 0.5}, validate=True, accumulate=4, exact=False),
    "autocast": Recipe({"precision": "bf16-mixed"}),
    "workers": Recipe(loader={"num_workers": 1, "persistent_workers": True}),
    "part of the epoch, new loaders": Recipe({"limit_train_batches": 3, "reload_dataloaders_every_n_epochs": 1}),
}


@pytest.mark.parametrize("name", RECIPES)
def test_training_is_the_same_with_the_callback_and_can_be_walked_again(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    plain = recipe.fit()
    recorded = recipe.fit(recorder(tmp_path / "run"))
    assert equal(plain, recorded)
    run = opened(tmp_path / "run")
    batches = [ids.tolist() for step in range(run.steps) for ids in run.record_of(step).batches]
    assert batches == [ids_of(inputs) for inputs in recorded.seen]
    assert max(len(run.record_of(step).batches) for step in range(run.steps)) == recipe.accumulate
    assert run.epochs == 2
    verification = run.verify()
    assert verification.steps == run.steps > 2
    assert verification.deviation == 0.0 or not recipe.exact
    assert verification.deviation < 1e-4
    end = run.state_at(run.steps).parameters
    assert all(torch.equal(value, end[key]) for key, value in recorded.named_parameters())


@pytest.mark.parametrize("name", ["plain", "clip by value", "accumulate, clip, validate"])
def test_influences_and_residuals_add_up_to_what_the_quadrature_explains(name: str, tmp_path: Path) -> None:
    RECIPES[name].fit(recorder(tmp_path / "run"))
    audit = whence.audit(opened(tmp_path / "run"), tuple(tensor[:3] for tensor in DATA.tensors))
    explained = audit.data["explained"].isel(point=-1).values
    assert np.abs(explained).max() > 1e-2
    np.testing.assert_allclose(audit.completeness.reconstructed.values, explained, rtol=0, atol=ROUNDING)


def test_everything_is_taken_back_at_the_end(tmp_path: Path) -> None:
    model, found, hooked = net(), loader(), trainer(recorder(tmp_path / "run"))
    sampler = found.batch_sampler
    hooked.fit(model, found)
    assert found.batch_sampler is sampler
    assert "process_dataloader" not in vars(hooked.strategy)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert len(list(found)) == 6


class Failing(Callback):
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 4:
            raise OSError("stop")


def test_after_an_error_the_run_is_whole_and_the_next_fit_begins_another_epoch(tmp_path: Path) -> None:
    model, found = net(), loader()
    sampler = found.batch_sampler
    with pytest.raises(OSError, match="stop"):
        trainer(Failing(), recorder(tmp_path / "run")).fit(model, found)
    assert found.batch_sampler is sampler
    assert not model._forward_hooks
    assert opened(tmp_path / "run").steps == 4
    other = net()
    trainer(recorder(tmp_path / "run", resume=True), epochs=1).fit(other, found)
    run = opened(tmp_path / "run")
    assert run.epoch_of_steps().tolist() == [0] * 4 + [1] * 6
    assert run.verify().deviation == 0.0
    assert all(torch.equal(value, run.state_at(10).parameters[key]) for key, value in other.named_parameters())


def test_continued_from_a_checkpoint_the_run_is_the_one_never_interrupted(tmp_path: Path) -> None:
    whole = net()
    torch.manual_seed(11)
    trainer(recorder(tmp_path / "whole"), epochs=3).fit(whole, loader())
    first, half = trainer(recorder(tmp_path / "parts"), epochs=2), net()
    torch.manual_seed(11)
    first.fit(half, loader())
    first.save_checkpoint(tmp_path / "last.ckpt")
    model = Net()
    trainer(recorder(tmp_path / "parts", resume=True), epochs=3).fit(model, loader(), ckpt_path=tmp_path / "last.ckpt")
    assert equal(model, whole)
    runs = [opened(tmp_path / "whole"), opened(tmp_path / "parts")]
    assert runs[1].epoch_of_steps().tolist() == [0] * 6 + [1] * 6 + [2] * 6
    for step in range(18):
        records = [run.record_of(step) for run in runs]
        assert torch.equal(records[0].batches[0], records[1].batches[0])
        assert records[0].settings == records[1].settings
    assert runs[1].verify().deviation == 0.0


def test_a_checkpoint_of_another_step_is_refused(tmp_path: Path) -> None:
    first = trainer(recorder(tmp_path / "run"), epochs=1)
    first.fit(net(), loader())
    first.save_checkpoint(tmp_path / "early.ckpt")
    trainer(recorder(tmp_path / "run", resume=True), epochs=1).fit(net(), loader())
    again = trainer(recorder(tmp_path / "run", resume=True), epochs=3)
    with pytest.raises(errors.RecordingError, match=r"not of the run's last step: the run has 12 steps"):
        again.fit(net(), loader(), ckpt_path=tmp_path / "early.ckpt")
    assert opened(tmp_path / "run").steps == 12


def test_a_second_fit_of_the_same_trainer_goes_on(tmp_path: Path) -> None:
    model, once = net(), trainer(recorder(tmp_path / "run", resume=True), epochs=1)
    once.fit(model, loader())
    once.fit_loop.max_epochs = 2
    once.fit(model, loader())
    run = opened(tmp_path / "run")
    assert run.epoch_of_steps().tolist() == [0] * 6 + [1] * 6
    assert run.verify().deviation == 0.0


class Manual(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), 0.1), torch.optim.Adam(self.parameters())]


class Partial(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.layers(batch[0]), batch[1])


class Scaling(Net):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] * 2, batch[1]


def collate(items: list[Any]) -> Any:
    return default_collate(items)


def other_data() -> DataLoader[Any]:
    return DataLoader(TensorDataset(*data()), batch_size=4)


REFUSED: dict[str, tuple[Callable[[], Net], Callable[[], Any], type[Exception], str]] = {
    "manual optimization": (Manual, loader, errors.RecordingError, "Manual has manual optimization.*SGD, Adam"),
    "a part of the module": (Partial, loader, errors.RecordingError, "was not called with gradients"),
    "another input": (Scaling, loader, errors.RecordingError, "called with other inputs"),
    "other data": (Net, other_data, errors.UnsupportedLoaderError, "its dataset .* is not train_data"),
    "another collate_fn": (
        Net,
        lambda: loader(collate_fn=collate),
        errors.UnsupportedLoaderError,
        r"batches with collate, .* with default_collate.*as_examples\(dataset, collate_fn=",
    ),
    "no batches": (
        Net,
        lambda: DataLoader(DATA, batch_size=None),
        errors.UnsupportedLoaderError,
        "cannot be recorded: batch_size=None",
    ),
    "no loader": (Net, lambda: [DATA[0]], errors.UnsupportedLoaderError, "Training on a "),
    "two loaders": (Net, lambda: [loader(), loader()], errors.RecordingError, "several DataLoaders"),
}

SEEN_IN_THE_FIRST_STEP = {"a part of the module", "another input", "two loaders"}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_recorded_is_refused_by_name_and_everything_is_taken_back(name: str, tmp_path: Path) -> None:
    make, make_loader, error, words = REFUSED[name]
    model, found = make(), make_loader()
    sampler = getattr(found, "batch_sampler", None)
    with pytest.raises(error, match=words):
        trainer(recorder(tmp_path / "run")).fit(model, found)
    assert getattr(found, "batch_sampler", None) is sampler
    assert not model._forward_pre_hooks
    assert (tmp_path / "run").exists() == (name in SEEN_IN_THE_FIRST_STEP)


def test_several_optimizers_and_strategies_of_several_devices_are_refused() -> None:
    found = trainer(strategy="ddp")
    found.strategy.optimizers = [torch.optim.SGD(net().parameters(), 0.1)]
    with pytest.raises(errors.RecordingError, match=r"strategy is DDPStrategy.*one device"):
        _check_trainer(found, net())
    found.strategy.optimizers *= 2
    with pytest.raises(errors.RecordingError, match=r"Net has 2 optimizers \(SGD, SGD\)"):
        _check_trainer(found, net())


def test_an_existing_path_is_refused_before_the_first_step(tmp_path: Path) -> None:
    model = net()
    (tmp_path / "run").mkdir()
    with pytest.raises(errors.RunExistsError, match="Choose another path"):
        trainer(recorder(tmp_path / "run")).fit(model, loader())
    assert equal(model, net())


def test_data_that_cannot_be_read_is_refused_when_the_callback_is_made(tmp_path: Path) -> None:
    with pytest.raises(errors.DataError, match="give the dataset it reads"):
        lightning_recorder(tmp_path / "run", loader(), loss=F.cross_entropy)
    assert not (tmp_path / "run").exists()


def test_without_lightning_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(errors.MissingExtraError, match=r'pip install "whence\[lightning\]"'):
        recorder(tmp_path / "run")


def test_importing_the_folder_imports_neither_library() -> None:
    modules = list(Path(runs.__file__).parent.glob("*.py"))
    nodes = [node for module in modules for node in ast.parse(module.read_text()).body]
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {"whence.runs.lightning", "torch"} <= imported
    assert not {"lightning", "transformers", "accelerate"} & {name.split(".")[0] for name in imported}
