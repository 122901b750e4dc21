"""Simulated raters: what they like, what they say, and how often they slip."""

import random

import pytest

from dialog_rl.errors import ConfigError
from dialog_rl.preferences import (
    HiddenPreference,
    improve,
    parse_preference,
    random_preference,
)
from dialog_rl.raters import Opinions, RaterSettings

SHOP = [{"role": "system", "content": "- restaurant: Golden Fork, 5 Mill Lane, phone 1234"}]


def words_preference():
    """Likes many words: 1, 2, 3 ... for one, two, three words."""
    return HiddenPreference("wordy", lambda prompt, reply: float(len(reply.split())))


def test_each_named_preference_orders_a_good_reply_above_a_bad_one():
    pairs = {
        "short": ("Try Golden Fork.", "There are many places and I could go on for a long while."),
        "polite": ("Certainly, happy to help!", "Whatever. Figure it out."),
        "grounded": ("I suggest Golden Fork, phone 1234.", "I suggest Blue Moon, phone 9876."),
        "asks_back": ("It is in Mill Lane. Shall I book?", "It is in Mill Lane."),
    }
    for name, (good, bad) in pairs.items():
        preference = parse_preference(name)
        assert preference.prefers(SHOP, good, bad) == 1.0
        assert preference.prefers(SHOP, bad, good) == 0.0
        assert preference.prefers(SHOP, good, good) == 0.5
        assert parse_preference("mixture").prefers(SHOP, good, bad) == 1.0


def test_a_preference_may_be_a_function_of_the_users_module_or_file(tmp_path, monkeypatch):
    (tmp_path / "my_taste.py").write_text("def vowels(prompt, reply): return reply.count('a')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert parse_preference("my_taste:vowels").utility([], "banana") == 3
    assert parse_preference(f"{tmp_path}/my_taste.py:vowels").utility([], "banana") == 3


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("shrot", "unknown preference 'shrot'"),
        ("mixture:shrot=1", "unknown preference 'shrot'"),
        ("mixture:short=much", "must be a number"),
        ("no_such_module:f", "cannot load preference"),
        ("nowhere.py:f", "cannot load preference"),
        ("math:pi", "must name a function"),
    ],
)
def test_a_bad_preference_is_one_line_that_says_what_is_wrong(spec, says):
    with pytest.raises(ConfigError, match=says):
        parse_preference(spec)


def test_standing_is_the_mid_rank_among_replies_read():
    head = Opinions(words_preference(), random.Random(0), noise=0.0)
    # 1 word alone: (0 + 1) / 2 / 1 = 0.5. Then 3 words: (1 + 2) / 2 / 2 = 0.75.
    assert head.read([], "one") == 0.5
    assert head.read([], "one two three") == 0.75
    # 1 word again: below 0, up to 2 of 3, (0 + 2) / 2 / 3.
    assert head.read([], "uno") == pytest.approx(1 / 3)


def test_thumbs_and_stars_follow_the_standing_without_noise():
    head = Opinions(words_preference(), random.Random(0), noise=0.0)
    assert [head.thumb(s) for s in (0.2, 0.5, 0.7)] == [False, None, True]
    assert [head.stars(s) for s in (0.05, 0.25, 0.5, 0.75, 0.99, 1.0)] == [1, 2, 3, 4, 5, 5]
    assert head.choice([], "a b", "a") == 1.0


def test_noise_turns_that_share_of_judgements_round():
    head = Opinions(words_preference(), random.Random(0), noise=0.1)
    slips = sum(head.thumb(0.9) is False for _ in range(2000))
    # Binomial(2000, 0.1): mean 200, standard deviation 13.4; five of them either side.
    assert 133 < slips < 267


def test_a_yes_or_no_preference_still_gives_both_thumbs():
    head = Opinions(parse_preference("asks_back"), random.Random(0), noise=0.0)
    replies = ["Which area?", "Here.", "There.", "Gone."] * 5
    thumbs = {text: head.thumb(head.read([], text)) for text in replies}
    assert thumbs == {"Which area?": True, "Here.": False, "There.": False, "Gone.": False}


def test_a_correction_is_what_the_rater_would_rather_have_read():
    reply = "Sure. The place is Golden Fork."
    assert improve(parse_preference("short"), SHOP, reply) == "Sure."
    assert improve(parse_preference("asks_back"), SHOP, reply).endswith("?")
    perfect = HiddenPreference("content", lambda prompt, text: 1.0)
    assert improve(perfect, SHOP, reply) is None


def test_a_rater_without_taste_prefers_either_reply_equally_often():
    preference = random_preference(0)
    wins = sum(preference.prefers([], "a", "b") for _ in range(1000))
    assert 421 < wins < 579  # Binomial(1000, 1/2): 500, five standard deviations of 15.8


@pytest.mark.parametrize("bad", [{"noise": 1.0}, {"abstain": -0.1}, {"mix": {}}, {"max_turns": 0}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ConfigError):
        RaterSettings(**bad)
