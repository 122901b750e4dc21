"""Packed products on processors with and without them."""

import pytest
import torch

from dialog_rl import packed


@pytest.mark.parametrize("has", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float16])
def test_a_product_is_right_whether_or_not_this_processor_can_pack(monkeypatch, dtype, has):
    if not has:
        monkeypatch.setattr(packed, "can_pack", lambda _: False)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 7, generator=generator)
    bias, x = torch.randn(5, generator=generator), torch.randn(3, 7, generator=generator)
    found = packed.packed_product(weight.to(dtype), bias.to(dtype))(x)
    assert found.dtype == dtype
    tolerance = {torch.bfloat16: 0.05, torch.float16: 0.01}.get(dtype, 1e-5)
    assert torch.allclose(found.float(), x @ weight.T + bias, atol=tolerance)


needs_half = pytest.mark.skipif(
    not packed.can_pack(torch.float16), reason="this processor has no float16 products"
)


@needs_half
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_a_product_from_float16_weights_is_off_by_their_rounding_only(rows):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50, 70, generator=generator)
    bias, x = torch.randn(50, generator=generator), torch.randn(rows, 70, generator=generator)
    for given in (None, bias):
        found = packed.half_product(weight, given)(x)
        rounded = x @ weight.half().float().T + (0 if given is None else given)
        assert found.dtype is torch.float32
        torch.testing.assert_close(found, rounded, atol=1e-5, rtol=1e-5)


@needs_half
def test_weights_beyond_float16_are_cut_to_its_range():
    product = packed.half_product(torch.tensor([[1e6, -1e6]]).T.contiguous())
    found = product(torch.ones(1, 1))
    assert found.tolist() == [[65504.0, -65504.0]]


def test_other_quantised_engines_have_no_float16_products(monkeypatch):
    monkeypatch.setattr(torch.backends.quantized, "engine", "onednn")
    assert not packed.can_pack(torch.float16)
