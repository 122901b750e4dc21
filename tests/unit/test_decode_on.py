"""Replies that lead to further prompts: each as if it had been asked alone."""

import random

import pytest

from dialog_rl.conversation import SamplingParams
from dialog_rl.decode import decode_batch
from dialog_rl.decode_on import Ask, decode_on
from dialog_rl.llama_runner import LlamaRunner
from tests.fakes import tiny_model

PARAMS = SamplingParams(temperature=1.0, max_new_tokens=12)
END = frozenset({1, 2, 3, 4, 5, 6, 7, 8})
"""Many of a random model's tokens, so that replies differ in length."""


def alone(runner, prompt, seed):
    return decode_batch(runner, [prompt], PARAMS, [seed], END)[0]


def heard(key, turn, said):
    """What the other side of conversation ``key`` says: now little, now a great deal."""
    rng = random.Random(key * 100 + turn)
    return [rng.randrange(10, 60) for _ in range(rng.choice([1, 5, 150]))] + [int(said[-1]) % 50]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_conversations_that_go_on_side_by_side_are_those_held_one_by_one(count):
    runner = LlamaRunner(tiny_model())
    turns, prompts, found = 4, {}, {}

    def opening(key):
        return [10 + key, *range(20, 25 + 3 * (key % 4))]

    def ask(key):
        return Ask(key, prompts[key], key * 1000 + len(found[key]))

    def respond(key, said):
        found[key].append(said)
        prompts[key] = [*prompts[key], *said.ids, *heard(key, len(found[key]), said.ids)]
        if len(found[key]) < turns:
            return ask(key)
        following = key + count  # its place is taken by another conversation, if there is one
        if following >= 2 * count:
            return None
        prompts[following], found[following] = opening(following), []
        return ask(following)

    for key in range(count):
        prompts[key], found[key] = opening(key), []
    decode_on(runner, [ask(key) for key in range(count)], PARAMS, END, respond)

    assert sorted(found) == list(range(2 * count))
    lengths = set()
    for key, said in found.items():
        prompt = opening(key)
        for turn in range(turns):
            expected = alone(runner, prompt, key * 1000 + turn)
            assert said[turn].ids == expected.ids
            assert said[turn].finish_reason == expected.finish_reason
            assert said[turn].logprobs == pytest.approx(expected.logprobs, abs=1e-4)
            lengths.add(len(expected.ids))
            prompt = [*prompt, *expected.ids, *heard(key, turn + 1, expected.ids)]
    assert len(lengths) > 1


def test_nothing_asked_is_nothing_done():
    heard_of = []
    decode_on(LlamaRunner(tiny_model()), [], PARAMS, END, lambda key, said: heard_of.append(key))
    assert heard_of == []
