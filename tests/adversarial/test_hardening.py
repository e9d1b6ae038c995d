"""A network trained anew on adversarial inputs, beside one on clean inputs, is measured as table 3 has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.adversarial.small import digits, gradients, network
from whence._errors import ArgumentError
from whence.adversarial import Hardening, Pgd, compare_hardened, train_against
from whence.kernel import as_trained
from whence.runs import Run


def test_hardened_and_standard_networks_are_trained_and_measured_as_by_hand(run: Run) -> None:
    tests, made = digits("test", 60), Pgd(epsilon=0.1, steps=3)
    plan = Hardening(epochs=3, learning_rate=0.02, batch_size=20, attack=made, against=4, modes=12, examples=30)
    found = compare_hardened(run, tests, plan)
    for name, attack in (("standard", None), ("PGD-AT", made)):
        model = network()
        model.load_state_dict(run.state_at(0).parameters)
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        for _ in range(3):
            for rows in torch.randperm(len(run.examples), generator=generator).split(20):
                x, y = run.examples.batch(rows)
                optimizer.zero_grad()
                F.cross_entropy(model(x if attack is None else attack.changed(model, x, y)), y).backward()
                optimizer.step()
        torch.manual_seed(0)
        harder = Pgd(epsilon=0.1, steps=4).changed(model, *tests)
        trained = as_trained(model, run.examples, loss=F.cross_entropy)
        sizes = torch.linalg.svdvals(gradients(trained, *run.examples.batch(range(30)))).square()
        needed = [int((sizes.cumsum(0) / sizes.sum() < share).sum()) + 1 for share in (0.9, 0.95, 0.99)]
        energies = [gradients(trained, one, tests[1]).square().sum() for one in (tests[0], harder)]
        one = found.sel(network=name)
        assert float(one["accuracy"]) == pytest.approx(float((model(tests[0]).argmax(1) == tests[1]).double().mean()))
        assert float(one["robust"]) == pytest.approx(float((model(harder).argmax(1) == tests[1]).double().mean()))
        assert float(one["energy_ratio"]) == pytest.approx(float(energies[1] / energies[0]), rel=1e-6)
        np.testing.assert_array_equal(one["modes"], [each if each <= 12 else np.nan for each in needed])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"epochs": 0}, "`epochs` is a whole number, at least 1; got 0"),
        ({"learning_rate": 0.0}, r"`learning_rate` is a number above 0; got 0\.0"),
    ],
)
def test_a_hardening_that_is_none_is_refused_in_words(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Hardening(**given)


def test_an_optimizer_of_another_model_is_refused_in_words() -> None:
    with pytest.raises(ArgumentError, match="The optimizer has none of the model's parameters, so nothing learns"):
        train_against(network(), torch.optim.SGD(network().parameters(), 0.1), digits("train", 10), epochs=1)
