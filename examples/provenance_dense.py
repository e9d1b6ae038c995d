"""A dense task that names training examples: mark the pixels of a digit, conditioned on which digit it is.

    python examples/provenance_dense.py

Every pixel is ink or paper in a noisy picture; the task branch reads feature maps, class and index branch their mean
(Provenance Networks, 3.2, last paragraph: the image-level class is the signal that the index is conditioned on).
"""

import torch
from torch import nn

import whence
from whence import provenance
from whence.datasets import load_digits

TRAIN = 400


def main() -> None:
    """Train, and print how many pixels are right and which examples are named."""
    inputs, classes = whence.as_examples(load_digits("train")).batch(range(TRAIN))
    ink = (inputs > inputs.mean()).float()
    noisy = inputs + 0.5 * torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
    )  # fmt: skip
    task = provenance.Task(nn.Conv2d(32, 1, 1), nn.functional.binary_cross_entropy_with_logits, groups=classes)
    branches = provenance.Branches(pool=nn.Flatten())
    data = (noisy, ink)
    network = provenance.ProvenanceNetwork(backbone, data, conditional=True, task=task, branches=branches)
    optimization = provenance.Optimization(batch_size=50, schedule=provenance.one_cycle)
    provenance.train(network, data, 15, optimization=optimization)
    with torch.no_grad():
        right = ((network(noisy).task > 0) == (ink > 0)).float().mean()
    found = provenance.retrieve(network, noisy, 1)
    own = float((found.exemplar.values[:, 0] == range(TRAIN)).mean())
    print(f"pixels right {float(right):.3f}, digits {float((found.predicted.values == classes.numpy()).mean()):.3f}")
    print(f"the example named is the picture's own: {own:.3f}")


if __name__ == "__main__":
    main()
