"""What the learned reward reads of a conversation."""

import torch

from reward_models.features import Featuriser
from reward_models.textual import Lexicon


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
