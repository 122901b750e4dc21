"""Leading directions of a block: exact where it is small, repeatable where it is large."""

import torch

from reward_models.directions import principal


def test_all_directions_of_a_small_block_keep_every_inner_product():
    rows = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    centred = rows - rows.mean(0)
    turned = centred @ principal(rows, 10)
    assert torch.allclose(turned @ turned.T, centred @ centred.T, atol=1e-5)


def test_the_first_direction_is_the_one_of_most_variance():
    # Second column has standard deviation 2, the first 1, and they do not vary together.
    rows = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [1.0, -2.0], [-1.0, -2.0]])
    assert principal(rows, 1).abs().round(decimals=5).tolist() == [[0.0], [1.0]]


def test_a_large_block_gives_the_same_directions_every_time_and_leaves_the_random_state_alone():
    generator = torch.Generator().manual_seed(0)
    strong = torch.randn(900, 3, generator=generator) @ torch.randn(3, 850, generator=generator)
    rows = 10 * strong + torch.randn(900, 850, generator=generator)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = principal(rows, 3)
    assert torch.get_rng_state().equal(before)
    assert principal(rows, 3).equal(first)
    # What three directions explain is what was put in: almost everything.
    centred = rows - rows.mean(0)
    left = (centred - centred @ first @ first.T).square().sum() / centred.square().sum()
    assert left < 0.01


def test_equal_rows_give_one_direction_rather_than_none():
    assert principal(torch.ones(5, 4), 3).shape == (4, 1)
