"""The reader's batches: every row once, little padding, the same states as one row at a time."""

import doctest
import random

import pytest
import torch

from reward_models import encoder
from reward_models.encoder import Backbone, Reader, alike
from tests.fakes import byte_tokenizer, tiny_model


@pytest.mark.parametrize("batch_tokens, most_padding", [(1, 0), (60, 0), (60, 16), (10**6, 10**6)])
def test_every_row_is_in_one_batch_within_its_limits(batch_tokens, most_padding):
    rng = random.Random(0)
    lengths = [rng.randint(0, 50) for _ in range(200)]
    batches = alike(lengths, batch_tokens, most_padding)
    assert sorted(row for batch in batches for row in batch) == list(range(200))
    for batch in batches:
        padded = max(lengths[row] for row in batch) * len(batch)
        assert len(batch) == 1 or padded <= batch_tokens
        assert padded - sum(lengths[row] for row in batch) <= most_padding
    widest = [max(lengths[row] for row in batch) for batch in batches]
    assert widest == sorted(widest, reverse=True)


def test_equal_rows_share_a_pass_and_no_rows_need_none():
    assert alike([7, 7, 7], batch_tokens=21, most_padding=0) == [[0, 1, 2]]
    assert alike([], batch_tokens=21, most_padding=0) == []
    assert doctest.testmod(encoder).failed == 0


def test_states_do_not_depend_on_what_is_read_beside_them():
    tokenizer = byte_tokenizer()
    reader = Reader(Backbone(tiny_model(len(tokenizer)), tokenizer, "tiny"))
    prompt = ({"role": "user", "content": "hello"},)
    rows = [reader.ids(prompt, "word " * (k % 7)) for k in range(20)]
    alone = torch.cat([reader.states([row]) for row in rows])
    torch.testing.assert_close(reader.pooled(rows), alone, atol=1e-5, rtol=1e-5)
    assert alone[0].sub(alone[1]).abs().max() > 1e-3
