"""A regression that names training examples: the mean brightness of a digit's picture, conditioned on its bin.

    python examples/provenance_regression.py

The task branch predicts a number; the index is one within the bin that the class branch predicts (Provenance Networks,
3.2, last paragraph).
"""

import torch
from torch import nn

import whence
from whence import provenance
from whence.datasets import load_digits

TRAIN, BINS = 400, 4


def main() -> None:
    """Train, and print the answer to a few inputs with their exemplars."""
    inputs, _ = whence.as_examples(load_digits("train")).batch(range(TRAIN))
    numbers = inputs.flatten(1).mean(1, keepdim=True)
    numbers = (numbers - numbers.mean()) / numbers.std()
    edges = torch.quantile(numbers[:, 0], torch.linspace(0, 1, BINS + 1)[1:-1])
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU())
    task = provenance.Task(nn.Linear(128, 1), nn.functional.mse_loss, groups=torch.bucketize(numbers[:, 0], edges))
    network = provenance.ProvenanceNetwork(backbone, (inputs, numbers), conditional=True, task=task)
    optimization = provenance.Optimization(batch_size=50, rate=5e-3, schedule=provenance.one_cycle)
    history = provenance.train(network, (inputs, numbers), 30, optimization=optimization)
    print(f"squared error {float(history.sel(measure='task loss')[-1]):.3f} of a variance of 1")
    found = provenance.retrieve(network, inputs[:3], 3)
    with torch.no_grad():
        answers = network(inputs[:3]).task[:, 0]
    for place, answer in enumerate(answers.tolist()):
        ids = found.exemplar.values[place]
        beside = ", ".join(f"{one} ({float(numbers[one]):+.2f})" for one in ids)
        print(f"{answer:+.2f}, truly {float(numbers[place]):+.2f}; exemplars {beside}")


if __name__ == "__main__":
    main()
