"""A provenance network trained by Lightning: its loss is a function, and its head is filled when training ends.

    python examples/provenance_lightning.py

Lightning shuffles, steps and moves batches; the dataset gives each example with its id, so that the index stays the
same in every epoch. The head is a memory bank, which holds embeddings of the training data and takes them anew in
``on_train_end``.
"""

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import whence
from whence import provenance
from whence.datasets import load_digits

TRAIN, EPOCHS = 400, 10


class Traced(LightningModule):
    """Trains a provenance network by its loss, and its head on the embeddings in the end."""

    def __init__(self, network: provenance.ProvenanceNetwork, inputs: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.network, self.data = network, (inputs, labels)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Return the loss of a batch of inputs, labels and ids."""
        inputs, labels, ids = batch
        goal = provenance.Objective(smoothing=0.0)
        return provenance.provenance_loss(self.network, inputs, labels, ids, objective=goal).total

    def on_train_end(self) -> None:
        """Fill the head."""
        self.network.eval()
        inputs, labels = (one.to(self.device) for one in self.data)
        self.network.head.initialise(provenance.embeddings(self.network, inputs, labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the paper's optimizer, at a faster rate."""
        return torch.optim.AdamW(self.parameters(), lr=5e-3, weight_decay=2e-5)


def main() -> None:
    """Train, and say how often the class is right and a training picture names itself."""
    inputs, labels = whence.as_examples(load_digits("train")).batch(range(TRAIN))
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU())
    network = provenance.ProvenanceNetwork(backbone, (inputs, labels), head=provenance.MemoryBank)
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = DataLoader(TensorDataset(inputs, labels, torch.arange(TRAIN)), batch_size=50, shuffle=True)
    trainer.fit(Traced(network, inputs, labels), batches)
    own = provenance.retrieve(network, inputs, 1).exemplar.values[:, 0]
    tested, truth = whence.as_examples(load_digits("test")).batch(range(100))
    answers = provenance.retrieve(network, tested, 5)
    right = float((answers.predicted.values == truth.numpy()).mean())
    print(f"{float((own == range(TRAIN)).mean()):.2f} of the training pictures name themselves first")
    print(f"the class of {right:.2f} of the test pictures is right; one of them names {answers.exemplar.values[0]}")


if __name__ == "__main__":
    main()
