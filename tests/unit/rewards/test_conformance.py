"""check_reward finds every kind of broken reward and says which."""

import itertools
import math

import pytest

from reward_models.conformance import check_reward
from reward_models.errors import RewardError
from reward_models.rules import length

counter = itertools.count()


def too_short(prompts, completions, **columns):
    return [0.0] * (len(completions) - 1)


def not_finite(prompts, completions, **columns):
    return [math.nan if not c[0]["content"] else 0.0 for c in completions]


def random_like(prompts, completions, **columns):
    return [float(next(counter)) for _ in completions]


def batch_mean(prompts, completions, **columns):
    sizes = [float(len(c[0]["content"])) for c in completions]
    return [s - sum(sizes) / len(sizes) for s in sizes] if sizes else []


def shouting(prompts, completions, **columns):
    for completion in completions:
        completion[0]["content"] = completion[0]["content"].upper()
    return [0.0] * len(completions)


def fragile(prompts, completions, **columns):
    return [float(ord(c[0]["content"][0])) for c in completions]


def boolean(prompts, completions, **columns):
    return ["?" in c[0]["content"] for c in completions]


@pytest.mark.parametrize(
    ("reward", "complaint"),
    [
        (too_short, "'too_short' returned 12 scores for 13 replies"),
        (not_finite, "'not_finite' returned nan for the reply ''"),
        (random_like, "differently twice"),
        (batch_mean, "differently alone and in a batch"),
        (shouting, "'shouting' changed its arguments"),
        (fragile, "'fragile' raised IndexError.* on the reply ''"),
        (boolean, "returned bool"),
    ],
)
def test_a_broken_reward_is_named_with_what_is_wrong(reward, complaint):
    with pytest.raises(RewardError, match=complaint):
        check_reward(reward)


def test_a_sound_reward_passes_silently():
    assert check_reward(length) is None


def test_a_callable_without_a_name_is_told_to_get_one():
    class Nameless:
        def __call__(self, prompts, completions, **columns):
            return [0.0] * len(completions)

    with pytest.raises(RewardError, match="Nameless has none"):
        check_reward(Nameless())


def test_a_reward_that_needs_columns_is_checked_with_them():
    def labelled(prompts, completions, label, **columns):
        return [float(x) for x in label]

    ask, say = [[{"role": "user", "content": "a"}]], [[{"role": "assistant", "content": "b"}]]
    check_reward(labelled, ask, say, label=[1.0])
    with pytest.raises(RewardError, match="missing 1 required positional argument: 'label'"):
        check_reward(labelled, ask, say)
