"""Recording through the Trainer of transformers, in one line."""

import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Subset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DefaultDataCollator,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import whence
from tests.runs.training import equal
from whence import _errors as errors
from whence.runs import Run, cross_entropy_of_logits, huggingface_recorder, open_run

WORDS, LENGTH, CLASSES, EXAMPLES = 20, 6, 3, 22
# Sums of some thousand float32 products, of size 1 or less, in two orders.
ROUNDING = 1e3 * float(np.finfo(np.float32).eps)


@pytest.fixture(autouse=True, scope="module")
def _frozen() -> Iterator[None]:
    """Spare the imported modules the collection of garbage with which every training by accelerate begins."""
    gc.freeze()
    yield
    gc.unfreeze()


class Sentences(Dataset[dict[str, Any]]):
    """Random words, each sentence another; as lists of different lengths, or as tensors."""

    def __init__(self, *, ragged: bool = False, label: str = "labels") -> None:
        generator = torch.Generator().manual_seed(7)
        self.words = torch.randint(1, WORDS, (EXAMPLES, LENGTH), generator=generator)
        self.labels = torch.randint(0, CLASSES, (EXAMPLES,), generator=generator)
        self.ragged = ragged
        self.label = label

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> dict[str, Any]:
        words = self.words[index]
        if self.ragged:
            return {"input_ids": words[: 3 + index % 4].tolist(), self.label: int(self.labels[index])}
        return {"input_ids": words, "attention_mask": torch.ones_like(words), self.label: self.labels[index]}


def padded(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Pad to the longest sentence of the batch."""
    words = pad_sequence([torch.tensor(item["input_ids"]) for item in items], batch_first=True)
    labels = torch.tensor([item["labels"] for item in items])
    return {"input_ids": words, "attention_mask": (words > 0).long(), "labels": labels}


DATA = Sentences()
RAGGED = whence.as_examples(Sentences(ragged=True), collate_fn=padded)


class Bert(BertForSequenceClassification):  # type: ignore[misc]  # transformers is not followed: its types are Any
    """A classifier that notes the words of each step."""

    seen: list[Tensor]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
        if torch.is_grad_enabled():
            self.seen.append(input_ids)
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels)


def bert(**options: Any) -> Any:
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=LENGTH,
        **{"num_labels": CLASSES} | options,
    )
    model = Bert(config)
    model.seen = []
    return model


def trainer(model: nn.Module, folder: Path, *callbacks: Any, train_dataset: Any = DATA, **options: Any) -> Trainer:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
    parts = {key: options.pop(key) for key in ("data_collator", "eval_dataset") if key in options}
    arguments = TrainingArguments(**settings | options)
    return Trainer(model, arguments, train_dataset=train_dataset, callbacks=list(callbacks), **parts)


def recorder(path: Path, train_data: Any = DATA, *, resume: bool = False, **options: Any) -> Any:
    return huggingface_recorder(path, train_data, snapshot_every=3, resume=resume, **options)


def opened(path: Path, train_data: Any = DATA) -> Run:
    return open_run(path, bert(), train_data, loss=cross_entropy_of_logits)


def ids_of(words: Tensor) -> list[int]:
    """Return which sentences the rows of a batch are, by looking for each."""
    found = []
    for row in words:
        kept = row[row > 0]
        found.append(int((DATA.words[:, : len(kept)] == kept).all(1).nonzero()))
    return found


@dataclass(frozen=True)
class Recipe:
    """What differs between trainings."""

    options: dict[str, Any] = field(default_factory=dict)
    data: Any = DATA
    accumulate: int = 1
    exact: bool = True

    def train(self, folder: Path, *callbacks: Any) -> Any:
        model = bert()
        dataset = getattr(self.data, "source", self.data)
        options = {"train_dataset": dataset, "gradient_accumulation_steps": self.accumulate} | self.options
        trainer(model, folder, *callbacks, **options).train()
        return model


EVALUATED = {"eval_strategy": "steps", "eval_steps": 2, "eval_dataset": DATA}
RECIPES = {
    "plain": Recipe(),
    "evaluated, warmed up": Recipe({"warmup_steps": 4, "weight_decay": 0.1, **EVALUATED}),
    "accumulate, clip": Recipe({"max_grad_norm": 0.3}, accumulate=4, exact=False),
    "not clipped, sgd, worker": Recipe({"max_grad_norm": 0.0, "optim": "sgd", "dataloader_num_workers": 1}),
    "padded": Recipe({"data_collator": padded, "remove_unused_columns": False}, RAGGED),
    "collator of transformers": Recipe({"data_collator": DefaultDataCollator()}, Sentences(label="label")),
}


@pytest.mark.parametrize("name", RECIPES)
def test_training_is_the_same_with_the_callback_and_can_be_walked_again(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    plain = recipe.train(tmp_path / "out")
    recorded = recipe.train(tmp_path / "out", recorder(tmp_path / "run", recipe.data))
    assert equal(plain, recorded)
    run = opened(tmp_path / "run", recipe.data)
    batches = [ids.tolist() for step in range(run.steps) for ids in run.record_of(step).batches]
    assert batches == [ids_of(words) for words in recorded.seen]
    assert max(len(run.record_of(step).batches) for step in range(run.steps)) == recipe.accumulate
    assert run.epochs == 2
    verification = run.verify()
    assert verification.steps == run.steps > 2
    assert verification.deviation == 0.0 or not recipe.exact
    assert verification.deviation < 1e-4


@pytest.mark.parametrize("name", ["accumulate, clip", "padded"])
def test_influences_and_residuals_add_up_to_what_the_quadrature_explains(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    recipe.train(tmp_path / "out", recorder(tmp_path / "run", recipe.data))
    run = opened(tmp_path / "run", recipe.data)
    targets = whence.as_examples(Subset(run.examples.source, [0, 4, 8]), collate_fn=run.examples.collate_fn)
    audit = whence.audit(run, targets)
    explained = audit.data["explained"].isel(point=-1).values
    assert np.abs(explained).max() > 1e-2
    np.testing.assert_allclose(audit.completeness.reconstructed.values, explained, rtol=0, atol=ROUNDING)


def test_the_loss_given_instead_is_the_one_of_the_steps(tmp_path: Path) -> None:
    def smooth(outputs: Any, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs.logits, labels, reduction="none", label_smoothing=0.2)

    hooked = recorder(tmp_path / "run", loss=smooth)
    trainer(bert(), tmp_path, hooked, num_train_epochs=1, label_smoothing_factor=0.2).train()
    run = open_run(tmp_path / "run", bert(), DATA, loss=smooth)
    assert run.verify().deviation < 1e-4


class Stopping(TrainerCallback):  # type: ignore[misc]
    """End the training after a step of an epoch."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if state.global_step == 4:
            control.should_training_stop = True
            control.should_save = True
        return control


def test_continued_from_a_checkpoint_inside_an_epoch_the_run_is_the_one_never_interrupted(tmp_path: Path) -> None:
    options = {"gradient_accumulation_steps": 2, "warmup_steps": 3}
    whole = bert()
    trainer(whole, tmp_path, recorder(tmp_path / "whole"), **options).train()
    trainer(bert(), tmp_path / "out", Stopping(), recorder(tmp_path / "parts"), **options).train()
    assert opened(tmp_path / "parts").steps == 4
    model = bert()
    again = trainer(model, tmp_path / "out", recorder(tmp_path / "parts", resume=True), **options)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert equal(model, whole)
    runs = [opened(tmp_path / "whole"), opened(tmp_path / "parts")]
    for step in range(6):
        records = [run.record_of(step) for run in runs]
        assert records[0].position == records[1].position
        assert records[0].epoch == records[1].epoch
        assert records[0].settings == records[1].settings
        assert [ids.tolist() for ids in records[0].batches] == [ids.tolist() for ids in records[1].batches]
    assert runs[1].steps == 6
    assert runs[1].verify().deviation == 0.0


def test_a_checkpoint_of_another_step_is_refused(tmp_path: Path) -> None:
    trainer(bert(), tmp_path, Stopping(), recorder(tmp_path / "run")).train()
    other = {"num_train_epochs": 1, "seed": 1}
    trainer(bert(), tmp_path / "o", recorder(tmp_path / "run", resume=True), **other).train()
    again = trainer(bert(), tmp_path, recorder(tmp_path / "run", resume=True))
    with pytest.raises(errors.RecordingError, match="not of the run's last step: the run has 10 steps"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    run = opened(tmp_path / "run")
    assert run.epoch_of_steps().tolist() == [0] * 4 + [1] * 6
    assert run.verify().deviation == 0.0


class Failing(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.armed = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.armed and state.global_step == 4:
            self.armed = False
            raise OSError("stop")


def test_after_an_error_the_run_is_whole_and_training_again_goes_on(tmp_path: Path) -> None:
    model = bert()
    found = trainer(model, tmp_path, Failing(), recorder(tmp_path / "run", resume=True), num_train_epochs=1)
    with pytest.raises(OSError, match="stop"):
        found.train()
    assert opened(tmp_path / "run").steps == 4
    found.train()
    run = opened(tmp_path / "run")
    assert run.epoch_of_steps().tolist() == [0] * 4 + [1] * 6
    assert run.verify().deviation == 0.0
    assert not model._forward_pre_hooks
    assert not model._forward_hooks


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], type[Exception], str]] = {
    "mixed precision": (bert, {"bf16": True}, errors.RecordingError, "bf16=True .*Train in full precision"),
    "noise": (bert, {"neftune_noise_alpha": 1.0}, errors.RecordingError, "neftune_noise_alpha"),
    "label smoothing": (bert, {"label_smoothing_factor": 0.1}, errors.UnsupportedLossError, "smoothing_factor=0.1"),
    "regression": (lambda: bert(num_labels=1), {}, errors.UnsupportedLossError, "a model for regression.*Give loss="),
    "optimizer": (bert, {"optim": "adafactor"}, errors.UnsupportedOptimizerError, "Adafactor"),
    "other data": (bert, {"train_dataset": Sentences()}, errors.UnsupportedLoaderError, "is not train_data"),
    "other collator": (
        bert,
        {"data_collator": padded},
        errors.UnsupportedLoaderError,
        r"batches with padded, .* with default_collate.*as_examples\(dataset, collate_fn=",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_recorded_is_refused_by_name_before_the_first_step(name: str, tmp_path: Path) -> None:
    make, options, error, words = REFUSED[name]
    model = make()
    with pytest.raises(error, match=words):
        trainer(model, tmp_path, recorder(tmp_path / "run"), **options).train()
    assert not (tmp_path / "run").exists()
    assert not model._forward_pre_hooks
    assert model.seen == []


def test_default_collators_that_make_different_batches_are_refused(tmp_path: Path) -> None:
    lists = [{"input_ids": [1, 2, 3], "attention_mask": [1, 1, 1], "labels": index % 3} for index in range(8)]
    with pytest.raises(errors.UnsupportedLoaderError, match=r"with default_data_collator, .* with default_collate"):
        trainer(bert(), tmp_path, recorder(tmp_path / "run", lists), train_dataset=lists).train()


def test_without_transformers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(errors.MissingExtraError, match=r'pip install "whence\[huggingface\]"'):
        recorder(tmp_path / "run")
