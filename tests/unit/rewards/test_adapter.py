"""Tuning the reader: it learns what frozen features lack, and nothing when there is nothing."""

import random

import torch

from reward_models.adapter import Offset, adapted, adapter_tensors, set_adapter_tensors, tune
from reward_models.base import Judgement
from reward_models.encoder import Backbone, Reader
from reward_models.evidence import gather
from reward_models.rating import RatingModel
from tests.fakes import byte_tokenizer, tiny_model


def _reader() -> Reader:
    tokenizer = byte_tokenizer()
    return Reader(Backbone(tiny_model(len(tokenizer)), tokenizer, "tiny"))


def _thumbs(value) -> list[Judgement]:
    prompt = ({"role": "user", "content": "hello"},)
    return [
        Judgement(
            signal="thumb",
            prompt=prompt,
            completion=f"{word} {number}",
            value=value(word, number),
            rater="a",
            group=f"g{number}",
        )
        for number in range(30)
        for word in ("zzz", "aaa")
    ]


def _tune(judgements):
    reader, evidence = _reader(), gather(judgements)
    rows = [reader.ids(p, r) for p, r in evidence.items]
    offset = Offset(torch.zeros(len(judgements)).double(), RatingModel.neutral(evidence))
    trunk = tune(
        reader,
        rows,
        reader.pooled(rows),
        evidence,
        offset,
        r=4,
        epochs=6,
        seed=0,
        progress=lambda share, text: None,
    )
    return reader, rows, trunk


def test_an_adapter_learns_what_the_offset_lacks_and_moves_the_states():
    reader, rows, trunk = _tune(_thumbs(lambda word, number: float(word == "zzz")))
    assert trunk is not None
    moved = (reader.with_trunk(trunk).pooled(rows) - reader.pooled(rows)).abs().mean()
    assert moved > 1e-3


def test_a_coin_is_not_learned():
    # Each word is liked in 15 of its 30 talks: what training talks show, kept-aside talks deny.
    heads = set(random.Random(0).sample(range(30), 15))
    assert (
        _tune(_thumbs(lambda word, number: float((word == "zzz") == (number in heads))))[2] is None
    )


def test_a_fresh_adapter_changes_nothing_and_its_tensors_can_be_put_back():
    reader = _reader()
    rows = [reader.ids([{"role": "user", "content": "hello"}], "yes")]
    trunk = adapted(reader, 2)
    assert torch.allclose(reader.with_trunk(trunk).pooled(rows), reader.pooled(rows), atol=1e-6)
    tensors = {name: t + 0.1 for name, t in adapter_tensors(trunk).items()}
    set_adapter_tensors(trunk, tensors)
    assert all(t.equal(tensors[name]) for name, t in adapter_tensors(trunk).items())
