"""Multi-head attention gives what autograd gives, with every option of the layer."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.gradients.reference import assert_agree, backward, captured, one_by_one

HEADS, WIDTH = 2, 4


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_attention_with_every_option(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**16)))
    flags = {name: data.draw(st.booleans(), name) for name in ("bias", "batch_first", "add_bias_kv", "add_zero_attn")}
    kind = data.draw(st.sampled_from(["self", "cross", "shared key and value", "other widths"]), "kind")
    widths = {"kdim": 3, "vdim": 5} if kind == "other widths" else {}
    layer = nn.MultiheadAttention(WIDTH, HEADS, **flags, **widths).double()
    randomize(layer)
    examples = data.draw(st.integers(1, 4), "examples")
    query, key, value = inputs(kind, examples, widths)
    masked = torch.zeros(examples, key.shape[1], dtype=torch.bool)
    masked[0, 0] = data.draw(st.booleans(), "padding")
    mask = data.draw(st.sampled_from([None, "bool", "float", "by example"]), "mask")
    weights = data.draw(st.booleans(), "weights")

    def loss(model: nn.Module, rows: slice) -> Any:
        pad = masked[rows] if masked.any() else None
        attn = attention_mask(mask, query.shape[1], key.shape[1], examples, rows)
        if attn is not None and attn.dtype != torch.bool and pad is not None:
            pad = torch.zeros_like(pad, dtype=torch.double).masked_fill_(pad, -torch.inf)
        q, k, v = (query[rows], key[rows], value[rows]) if kind != "self" else (query[rows],) * 3
        if not layer.batch_first:
            moved = q.movedim(0, 1)
            q, k, v = (moved,) * 3 if kind == "self" else (t.movedim(0, 1) for t in (q, k, v))
        out, seen = model(q, k, v, key_padding_mask=pad, attn_mask=attn, need_weights=weights)
        total = (out * torch.arange(1.0, 1 + WIDTH)).sum()
        return total if seen is None else total + seen.square().sum()

    assert_agree(captured(layer, loss), one_by_one(layer, loss, examples), terms=512)


def randomize(layer: nn.Module) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))


def inputs(kind: str, examples: int, widths: dict[str, int]) -> tuple[Tensor, Tensor, Tensor]:
    query = torch.randn(examples, 3, WIDTH, dtype=torch.double)
    if kind == "self":
        return query, query, query
    key = torch.randn(examples, 5, widths.get("kdim", WIDTH), dtype=torch.double)
    value = torch.randn(examples, 5, widths.get("vdim", WIDTH), dtype=torch.double)
    return query, key, key if kind == "shared key and value" else value


def attention_mask(kind: str | None, rows: int, columns: int, examples: int, which: slice) -> Tensor | None:
    generator = torch.Generator().manual_seed(1)
    if kind is None:
        return None
    allowed = torch.rand(examples, rows, columns, generator=generator) < 0.6
    allowed[..., -1] = True
    if kind == "bool":
        return ~allowed[0]
    if kind == "float":
        return torch.rand(rows, columns, generator=generator, dtype=torch.double)
    return (~allowed)[which].repeat_interleave(HEADS, 0)


@pytest.mark.parametrize("weights", [True, False])
def test_dropout_is_drawn_again_as_it_was(weights: bool) -> None:
    layer = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.5, batch_first=True).double()
    x = torch.randn(6, 5, WIDTH, dtype=torch.double)
    e = torch.randn(6, 5, WIDTH, dtype=torch.double)
    coupled: dict[str, Any] = {}

    def loss(model: nn.Module, rows: slice) -> Any:
        out = model(x, x, x, need_weights=weights)[0]
        return (out * e)[rows].sum()

    torch.manual_seed(3)
    found = captured(layer, loss)
    after = torch.rand(1)
    for i in range(6):  # the same draw for the whole batch, one example's loss at a time
        torch.manual_seed(3)
        layer.zero_grad()
        backward(loss(layer, slice(i, i + 1)))
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None
            coupled.setdefault(name, []).append(parameter.grad.clone())
    assert_agree(found, {name: torch.stack(rows) for name, rows in coupled.items()}, terms=512)
    torch.manual_seed(3)
    loss(layer, slice(None))
    assert torch.equal(after, torch.rand(1)), "the capture must leave the generator as training would"
