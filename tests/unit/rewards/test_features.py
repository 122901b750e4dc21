"""What the learned reward reads of a conversation."""

import torch

from reward_models.encoder import Backbone, Reader
from reward_models.features import Featuriser
from reward_models.learned import LearnedReward
from reward_models.settings import RewardModelSettings
from reward_models.textual import Lexicon
from tests.fakes import byte_tokenizer, tiny_model
from tests.unit.rewards.taste import asking, rate


def backbone() -> Backbone:
    tokenizer = byte_tokenizer()
    return Backbone(tiny_model(len(tokenizer)), tokenizer, "tiny")


def test_what_was_heard_is_the_whole_conversation_and_its_length_does_not_count():
    talk = [
        {"role": "user", "content": "parking is what I need, please, parking for two"},
        {"role": "assistant", "content": "The Harbour Inn has it."},
        {"role": "user", "content": "thanks"},
    ]
    replies = [f"Reply number {k}." for k in range(8)]
    longer = [*talk, {"role": "assistant", "content": "Which day?"}, *talk]
    featuriser = Featuriser(
        Lexicon(()), Lexicon(("parking", "thanks", "which", "secret")), {}, None
    )
    system = {"role": "system", "content": "the secret"}
    for prompt, terms in ((talk, 2), ([system, *talk], 2), (longer, 3), ([], 0)):
        heard = featuriser.raw([(tuple(prompt), reply) for reply in replies])["heard"]
        expected = terms**-0.5 if terms else 0.0
        assert torch.allclose(heard[:, 0], torch.tensor(expected))
        assert torch.allclose(heard.norm(dim=1), torch.tensor(float(terms > 0)))
        assert (heard[:, 3] == 0).all()


def test_who_rates_is_read_from_their_own_words_alone():
    reader = Reader(backbone())
    featuriser = Featuriser(Lexicon(()), Lexicon(()), {}, reader)
    ask = {"role": "user", "content": "where can I eat"}
    said = {"role": "assistant", "content": "At the Copper Kettle."}
    prompts = [(ask,), (said, ask), ({"role": "system", "content": "Help."}, ask), (ask, said, ask)]
    items = [(prompt, reply) for prompt in prompts for reply in ("Yes.", "Which day?")]
    users = featuriser.raw(items)["user"]
    expected = reader.pooled([reader.ids([], "where can I eat")])[0]
    torch.testing.assert_close(users[:6], expected.expand(6, -1), atol=1e-5, rtol=1e-5)
    assert (users[6] - expected).abs().max() > 1e-3
    torch.testing.assert_close(users[6], users[7])
    empty = featuriser.raw([((), "Hello.")])["user"]
    assert empty.isfinite().all()


def test_what_the_user_is_like_explains_ratings_and_is_not_read_for_a_score():
    quick = RewardModelSettings(strength_search=False)
    model, report = LearnedReward.fit(rate(asking, 60), backbone=backbone(), settings=quick)
    assert report.strengths["user"] > 0
    prompt = ({"role": "user", "content": "hello"},)
    featuriser = model.featuriser
    known = featuriser.scaled(featuriser.raw([(prompt, "Which day?")]))
    unread = featuriser.scaled(featuriser.raw([(prompt, "Which day?")], who=False))
    assert not torch.equal(known["user"], unread["user"])
    free, spared = featuriser.of_reply(known), featuriser.of_reply(unread)
    assert all(torch.equal(free[name], spared[name]) for name in free)
    assert not free["user"].any()
    strict = model.logits([prompt], ["Which day?"])
    other = model.logits([({"role": "user", "content": "HELLO THERE"},)], ["Which day?"])
    assert strict != other
