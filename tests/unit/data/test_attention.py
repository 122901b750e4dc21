"""Training's attention by blocks gives what torch's own attention gives, gradients included."""

import pytest
import torch

from data.concierge.attention import BLOCK, blocks


@pytest.mark.parametrize("width", [1, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
def test_blocks_equal_scaled_dot_product_attention(width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    shapes = [(2, 4, width, 8), (2, 2, width, 8), (2, 2, width, 8)]
    mine = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
    theirs = [x.detach().clone().requires_grad_() for x in mine]
    got, weights = blocks(torch.nn.Module(), *mine, None)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        *theirs, is_causal=True, enable_gqa=True
    ).transpose(1, 2)
    assert weights is None
    torch.testing.assert_close(got, wanted)
    push = torch.randn(got.shape, generator=generator)
    got.backward(push)
    wanted.backward(push)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
