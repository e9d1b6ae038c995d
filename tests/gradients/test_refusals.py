"""What cannot be told apart by example is refused, in words that help."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.gradients.reference import backward, captured
from whence._errors import GradientError
from whence.gradients import capture


def names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


class Wrapped(nn.Module):
    """Some layers, used by a function."""

    def __init__(self, use: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.use = use
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.use(self, *inputs)


def run(model: nn.Module, *inputs: Tensor) -> None:
    with capture(model, names(model)):
        backward(model(*inputs).sum())


def test_an_unknown_name_gives_the_neighbours() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(GradientError, match=r"no parameter '0.wieght' among its 2 \(similar: 0.weight\)\. Take"):
        captured(model, lambda model, rows: model(torch.ones(1, 2)).sum(), ["0.wieght"])


def test_examples_folded_into_a_longer_axis() -> None:
    model = Wrapped(lambda self, x: self.out(x.flatten(0, 1)).sum(1), out=nn.Linear(2, 2))
    text = r"Layer 'out' \(Linear\) saw a tensor of shape \(12, 2\) with 12 rows along axis 0, but the batch has 4 "
    with pytest.raises(
        GradientError, match=text + r"examples\. That is 3 times as many: .* folded .* Keep the examples"
    ):
        run(model, torch.ones(4, 3, 2))


def test_examples_moved_to_another_axis() -> None:
    model = Wrapped(lambda self, x: self.out(x.transpose(0, 1)), out=nn.Linear(2, 2))
    with pytest.raises(GradientError, match=r"with 3 rows along axis 0, but the batch has 4 .* moved to another axis"):
        run(model, torch.ones(4, 3, 2))


def test_a_layer_that_works_once_for_all_examples() -> None:
    model = Wrapped(lambda self, x: x + self.out(torch.ones(1, 2)), out=nn.Linear(2, 2))
    with pytest.raises(GradientError, match=r"1 rows along axis 0, but the batch has 4 .* works once for all examples"):
        run(model, torch.ones(4, 2))


@pytest.mark.parametrize("length", [3, 4])
def test_positions_looked_up_without_an_example_axis(length: int) -> None:
    model = Wrapped(lambda self, x: x + self.at(torch.arange(x.shape[1])), at=nn.Embedding(5, 2))
    text = "which may be positions or one index" if length == 4 else "works once for all examples"
    with pytest.raises(GradientError, match=rf"Layer 'at' \(Embedding\) .*{text}"):
        run(model, torch.ones(4, length, 2))


def test_no_example_axis_at_all() -> None:
    with pytest.raises(GradientError, match=r"called on a tensor of shape \(2,\), which has no axis for the examples"):
        run(nn.Sequential(nn.Linear(2, 2)), torch.ones(2))


def test_two_batches_of_different_sizes_in_one_block() -> None:
    model = nn.Linear(2, 1)

    def twice() -> None:
        with capture(model, ["weight"]):
            model(torch.ones(3, 2))
            model(torch.ones(4, 2))

    with pytest.raises(GradientError, match="called with 3 and then with 4 examples"):
        twice()


def test_max_norm() -> None:
    model = nn.Sequential(nn.Embedding(3, 2, max_norm=1.0))
    with pytest.raises(GradientError, match=r"Layer '0' \(Embedding\) has max_norm=1.0, .* max_norm=None"):
        run(model, torch.tensor([[0, 1]]))


def test_an_input_modified_after_the_layer_read_it() -> None:
    model = nn.Linear(2, 2)
    x = torch.ones(3, 2)

    def overwrite() -> None:
        with capture(model, ["weight"]):
            backward(model(x).sum())
            x.add_(1.0)

    with pytest.raises(GradientError, match=r"input of layer '\(the model\)' \(Linear\) was modified .*inplace=False"):
        overwrite()


@pytest.mark.parametrize("use", ["function", "forward", "both"])
def test_a_parameter_used_outside_its_module(use: str) -> None:
    ways: dict[str, Callable[..., Tensor]] = {
        "function": lambda self, x: F.linear(x, self.out.weight),
        "forward": lambda self, x: self.out.forward(x),
        "both": lambda self, x: F.linear(self.out(x).tanh(), self.out.weight),
    }
    model = Wrapped(ways[use], out=nn.Linear(2, 2, bias=False))
    why = "account for only a part" if use == "both" else "no layer that uses it was called"
    with pytest.raises(
        GradientError, match=rf"'out.weight' got a gradient, but .*{why}.* Call the module that owns it"
    ):
        run(model, torch.randn(4, 2))


def test_a_hook_that_changes_the_gradient() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    weight: Any = model[0].weight
    weight.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))
    with pytest.raises(GradientError, match="let no hook on the parameter change its gradient"):
        run(model, torch.randn(4, 2))


class Shift(nn.Module):
    """Owns a parameter and something that depends on more than one example's values."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.ones(2))
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(x + self.shift)
        assert isinstance(out, Tensor)
        return out


@pytest.mark.parametrize(
    ("inner", "why"),
    [(nn.Dropout(0.5), "draws random numbers"), (nn.BatchNorm1d(2), "mixes the examples of the batch")],
)
def test_dropout_and_batch_norm_inside_the_fallback_are_named(inner: nn.Module, why: str) -> None:
    model = nn.Sequential(Shift(inner))
    with pytest.raises(GradientError, match=rf"Layer '0' \(Shift\) .* '0.inner' .* {why} in training mode\. Move"):
        run(model, torch.randn(4, 2))
    assert set(captured(model.eval(), lambda model, rows: model(torch.randn(4, 2)).sum())) >= {"0.shift"}


@pytest.mark.parametrize("how", ["random", "mixing"])
def test_hidden_randomness_and_mixing_inside_the_fallback_are_found_out(how: str) -> None:
    ways: dict[str, Callable[..., Tensor]] = {"random": lambda x: F.dropout(x, 0.5), "mixing": lambda x: x - x.mean(0)}
    model = nn.Sequential(Shift(Wrapped(lambda _self, x: ways[how](x))))
    with pytest.raises(GradientError, match=r"Layer '0' \(Shift\) gives other outputs when it is computed again"):
        run(model, torch.randn(8, 2))


def test_a_module_that_cannot_run_on_one_example() -> None:
    model = nn.Sequential(Shift(Wrapped(lambda _self, x: x.view(4, 2))))
    with pytest.raises(GradientError, match=r"Layer '0' \(Shift\) has no rule and cannot be run on one example"):
        run(model, torch.randn(4, 2))


def test_parameters_that_change_before_the_block_is_left() -> None:
    model = nn.Sequential(nn.PReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step_inside() -> None:
        with capture(model, ["0.weight"]):
            backward(model(torch.randn(3, 2)).sum())
            optimizer.step()

    with pytest.raises(GradientError, match=r"A parameter of layer '0' \(PReLU\) changed .* before optimizer.step"):
        step_inside()


def test_gradients_of_gradients() -> None:
    model = nn.Linear(2, 1)
    with pytest.raises(GradientError, match="create_graph=True"), capture(model, ["weight"]):
        backward(model(torch.randn(3, 2)).square().sum(), create_graph=True)


def test_gradients_before_the_block_is_left_and_without_a_backward_pass() -> None:
    model = nn.Linear(2, 1)
    with capture(model, ["weight"]) as seen:
        with pytest.raises(GradientError, match=r"the capture block is open, .* Call gradients\(\) after"):
            seen.gradients()
        model(torch.randn(3, 2))
    with pytest.raises(GradientError, match=r"no gradient reached .* Call loss.backward\(\) inside the block"):
        seen.gradients()


def test_batch_norm_over_processes() -> None:
    model = nn.Sequential(nn.SyncBatchNorm(2))
    with pytest.raises(GradientError, match=r"Layer '0' is a SyncBatchNorm, .* Use BatchNorm1d"):
        run(model, torch.randn(3, 2))
