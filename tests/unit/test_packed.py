"""Packed products on processors with and without them."""

import pytest
import torch

from dialog_rl import packed


@pytest.mark.parametrize("has", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_product_is_right_whether_or_not_this_processor_can_pack(monkeypatch, dtype, has):
    if not has:
        monkeypatch.setattr(packed, "can_pack", lambda _: False)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 7, generator=generator)
    bias, x = torch.randn(5, generator=generator), torch.randn(3, 7, generator=generator)
    found = packed.packed_product(weight.to(dtype), bias.to(dtype))(x)
    assert found.dtype == dtype
    tolerance = 0.05 if dtype is torch.bfloat16 else 1e-5
    assert torch.allclose(found.float(), x @ weight.T + bias, atol=tolerance)
