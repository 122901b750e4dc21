"""The null benchmark's ratings: one on every turn, through the chat service, by coin or mood."""

import pytest

from benchmarks import loop, null_ratings
from dialog_rl.corpus import judgements
from dialog_rl.policy import Policy
from tests.fakes import byte_tokenizer, tiny_model

SCRIPTS = [[{"role": "user", "content": f"hello {n}"}] * 3 for n in range(40)]


@pytest.mark.parametrize("mood", [False, True])
def test_every_turn_gets_one_rating_that_says_nothing_of_the_reply(tmp_path, monkeypatch, mood):
    monkeypatch.setattr(loop, "scripts", lambda seed: SCRIPTS)
    tokenizer = byte_tokenizer()
    policy = Policy(tiny_model(len(tokenizer), end_id=tokenizer.eos_token_id), tokenizer, name="t")
    assert null_ratings.talk(tmp_path / "talk", policy, 30) == {"turns": 30}
    chat, store = loop.chat_service(tmp_path / "talk", policy)
    try:
        null_ratings.rate(chat, store, seed=1, mood=mood)
        found = judgements(store)
    finally:
        store.close()
    rated = [j for j in found if j.value != 0.5 or j.signal != "choice"]
    assert len(rated) == 30
    assert {"thumb", "stars", "choice"} == {j.signal for j in rated}
    thumbs = [j.value for j in rated if j.signal == "thumb"]
    # In this mood what asks is liked, and nothing asks here.
    assert sum(thumbs) <= 0.3 * len(thumbs) if mood else 0 < sum(thumbs) < len(thumbs)
