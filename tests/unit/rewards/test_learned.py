"""The learned reward finds a taste, says how well, survives bad input, and stays in bounds."""

import json
import math
import random
from dataclasses import replace

import pytest

from reward_models.base import Judgement
from reward_models.conformance import check_reward
from reward_models.encoder import Backbone
from reward_models.errors import ConfigError, NotEnoughFeedback, RewardError
from reward_models.learned import LearnedReward
from reward_models.settings import RewardModelSettings, RewardReport
from tests.fakes import byte_tokenizer, tiny_model
from tests.unit.rewards.taste import CORES, accuracy, asking, brief, prompt_of, rate, reply_of


@pytest.fixture(scope="module")
def backbone():
    tokenizer = byte_tokenizer()
    return Backbone(tiny_model(len(tokenizer)), tokenizer, "tiny")


@pytest.fixture(scope="module")
def fitted(backbone):
    return LearnedReward.fit(rate(asking, 120), backbone=backbone)


@pytest.mark.parametrize("taste", [brief, asking])
def test_it_finds_a_taste_from_120_mixed_noisy_judgements(taste):
    reward, report = LearnedReward.fit(rate(taste, 120))
    assert accuracy(reward.score, taste) > 0.85
    assert report.beats_chance
    assert report.agreement > 0.7


@pytest.mark.parametrize("signal", ["thumb", "stars", "choice", "correction", "end_rating"])
def test_every_signal_alone_teaches(signal):
    reward, report = LearnedReward.fit(rate(brief, 80, signals=(signal,), noise=0.0))
    assert accuracy(reward.score, brief) > 0.85
    assert sum(report.counts.values()) == 80


def test_retries_at_random_lose_their_strength_and_do_little_harm():
    few = rate(brief, 24, signals=("thumb",), noise=0.0)
    again = rate(brief, 80, signals=("retry",), noise=0.1, seed=7)
    rng = random.Random(3)
    # Who asks again at random gets a better reply as often as a worse one.
    coin = [
        replace(j, completion=j.other or "", other=j.completion) if rng.random() < 0.5 else j
        for j in again
    ]
    settings = RewardModelSettings(strength_search=False)
    _, told = LearnedReward.fit([*few, *again], settings=settings)
    misled, untold = LearnedReward.fit([*few, *coin], settings=settings)
    assert told.signal_strength["retry"] > untold.signal_strength["retry"] + 0.1
    assert accuracy(misled.score, brief) > 0.85


def test_retries_help_where_there_are_few_votes():
    votes = rate(brief, 20, signals=("choice",))
    again = rate(brief, 80, signals=("retry",), seed=7)
    settings = RewardModelSettings(strength_search=False)
    alone, _ = LearnedReward.fit(votes, settings=settings)
    helped, _ = LearnedReward.fit([*votes, *again], settings=settings)
    assert accuracy(helped.score, brief) > accuracy(alone.score, brief) + 0.02


def test_whoever_often_takes_the_first_reply_shows_in_the_lead_and_costs_less():
    votes = rate(brief, 120, signals=("choice",), noise=0.0)
    rng = random.Random(0)
    shown = [replace(j, shown_first=rng.random() < 0.5) for j in votes]
    # Of the votes for the second reply, two in five go to the first instead.
    lazy = [
        replace(j, completion=j.other or "", other=j.completion, shown_first=True)
        if not j.shown_first and rng.random() < 0.4
        else j
        for j in shown
    ]
    blind = [replace(j, shown_first=None) for j in lazy]
    settings = RewardModelSettings(strength_search=False)
    seeing, found = LearnedReward.fit(lazy, settings=settings)
    unaware, without = LearnedReward.fit(blind, settings=settings)
    assert without.position_lead == 0.0 and found.position_lead > 0.7
    assert accuracy(seeing.score, brief) > accuracy(unaware.score, brief) + 0.02


def test_random_ratings_do_not_beat_chance():
    # Four fits with a 2.5 % chance each: two or more by accident in 1 of 270 trials.
    rng = random.Random(5)
    beaten = 0
    for seed in range(4):
        values = {}
        report = LearnedReward.fit(
            rate(lambda reply, v=values: v.setdefault(reply, rng.random()), 60, seed=seed)
        )[1]
        beaten += report.beats_chance
        assert report.agreement_low < 0.6
    assert beaten <= 1


def test_a_learned_reward_keeps_the_contract_of_a_reward(fitted):
    check_reward(fitted[0])


def test_scores_are_bounded_whatever_the_reply(fitted):
    reward = fitted[0]
    for reply in ("", "?" * 5000, "Which day? " * 300, "\x00", "a" * 9999):
        assert abs(reward.score(prompt_of(random.Random(0)), reply)) <= 3.0


def test_saying_nothing_or_the_same_again_and_again_scores_below_the_usual_reply():
    reward, _ = LearnedReward.fit(rate(brief, 80))
    rng = random.Random(2)
    prompt = prompt_of(rng)
    usual = sorted(reward.score(prompt, reply_of(rng)) for _ in range(21))[10]
    for reply in ("", " ", "...", "?", "Thank you! " * 25, "the " * 60):
        assert reward.score(prompt, reply) < usual
    assert reward.score(prompt, "") == -reward.settings.bound


def test_a_reply_unlike_all_rated_ones_is_less_certain(fitted):
    reward = fitted[0]
    rng = random.Random(3)
    prompt = prompt_of(rng)
    _, usual = reward.moments([prompt] * 20, [reply_of(rng) for _ in range(20)])
    _, odd = reward.moments([prompt], ["(1) ??? !!! NO :: «x» 1234 5678 12:30 £9\n- a\n- b 🍕"])
    assert odd.item() > usual.mean().item()


def test_saving_and_loading_gives_the_same_scores(fitted, backbone, tmp_path):
    reward, report = fitted
    reward.save(tmp_path / "rm")
    again = LearnedReward.load(tmp_path / "rm", backbone=backbone)
    rng = random.Random(1)
    prompt = prompt_of(rng)
    replies = [reply_of(rng) for _ in range(5)]
    expected = [reward.score(prompt, reply) for reply in replies]
    assert [again.score(prompt, reply) for reply in replies] == pytest.approx(expected, abs=1e-9)
    assert again.report == report
    assert sorted(p.name for p in (tmp_path / "rm").iterdir()) == [
        "reward.json",
        "reward.safetensors",
    ]


def test_the_same_judgements_give_the_same_reward():
    judgements = rate(brief, 60)
    one, two = (LearnedReward.fit(judgements)[0] for _ in range(2))
    prompt = prompt_of(random.Random(0))
    assert one.score(prompt, "Yes.") == two.score(prompt, "Yes.")


def test_a_backbone_of_another_size_is_refused(fitted, tmp_path):
    fitted[0].save(tmp_path)
    tokenizer = byte_tokenizer()
    other = Backbone(tiny_model(len(tokenizer), hidden=16), tokenizer, "other")
    with pytest.raises(RewardError, match=r"hidden size 32, the given backbone has 16"):
        LearnedReward.load(tmp_path, backbone=other)


def test_an_empty_folder_and_an_older_format_are_one_sentence(tmp_path):
    with pytest.raises(RewardError, match="holds no reward model"):
        LearnedReward.load(tmp_path)
    LearnedReward.fit(rate(brief, 40))[0].save(tmp_path)
    card = json.loads((tmp_path / "reward.json").read_text())
    (tmp_path / "reward.json").write_text(json.dumps({**card, "format": 0}))
    with pytest.raises(RewardError, match="format 0"):
        LearnedReward.load(tmp_path)


def test_too_few_or_one_sided_ratings_are_counted_in_the_error():
    with pytest.raises(NotEnoughFeedback, match=r"has 0 ratings.*needs at least 20"):
        LearnedReward.fit([])
    ups = [replace(j, value=1.0) for j in rate(brief, 40, signals=("thumb",))]
    with pytest.raises(NotEnoughFeedback, match=r"40 thumbs up, 0 down.*there are 0"):
        LearnedReward.fit(ups)


def test_unusable_judgements_are_set_aside_and_counted():
    good = rate(brief, 60)
    star = next(j for j in good if j.signal == "stars")
    thumb = next(j for j in good if j.signal == "thumb")
    vote = next(j for j in good if j.signal == "choice")
    bad = [
        replace(thumb, value=math.nan),
        replace(thumb, value=0.5),
        replace(star, value=9.0),
        replace(star, scale=None),
        replace(vote, other=None),
        replace(vote, other=vote.completion),
    ]
    report = LearnedReward.fit(good + bad)[1]
    assert sum(report.counts.values()) == 60
    assert report.dropped == {
        "value is not a number": 1,
        "thumb is neither 0 nor 1": 1,
        "stars outside their scale": 1,
        "stars without a scale": 1,
        "choice without the other reply": 1,
        "choice between equal texts": 1,
    }


def test_contradictory_ratings_of_one_reply_cancel():
    rng = random.Random(0)
    prompt, reply = prompt_of(rng), "Perhaps, perhaps not, who can say."
    both = [
        Judgement(
            signal="thumb", prompt=prompt, completion=reply, value=v, rater="a", group=f"g{i}"
        )
        for i, v in enumerate((0.0, 1.0) * 5)
    ]
    reward, _ = LearnedReward.fit(rate(asking, 60) + both)
    score = reward.score(prompt, reply)
    assert math.isfinite(score) and abs(score) < 2


def test_a_generous_rater_shows_in_the_report_and_not_in_the_reward():
    strict = rate(brief, 60, signals=("thumb",), rater="strict")
    kind = [
        replace(j, value=1.0) for j in rate(brief, 60, seed=1, signals=("thumb",), rater="kind")
    ]
    reward, report = LearnedReward.fit(strict + kind)
    assert report.rater_bias["kind"] > report.rater_bias["strict"]
    assert accuracy(reward.score, brief) > 0.8


def test_the_generosity_of_people_not_named_is_not_taken_for_the_merit_of_replies():
    # "Enjoy!" is said to the generous most of the time and to the strict seldom; people like brief.
    def told(seed: int) -> list[Judgement]:
        rng, found = random.Random(seed), []
        for number, j in enumerate(rate(brief, 200, seed=seed, signals=("thumb",))):
            group = f"talk-{number // 8}"
            generous = random.Random(f"{group}{seed}").random() < 0.5
            enjoy = " Enjoy!" if rng.random() < (0.8 if generous else 0.2) else ""
            value = j.value if rng.random() < 0.4 else float(generous)
            said = replace(j, completion=j.completion + enjoy, value=value, group=group)
            found.append(said)
        return found

    def learned(crowd: bool) -> tuple[float, float]:
        prompt, right, worth = prompt_of(random.Random(0)), 0.0, 0.0
        for seed in range(3):
            reward, _ = LearnedReward.fit([replace(j, crowd=crowd) for j in told(seed)])
            plain, enjoy = reward.judge([prompt] * 2, [CORES[0], f"{CORES[0]} Enjoy!"])
            right += accuracy(reward.score, brief) / 3
            worth += (enjoy.mean - plain.mean) / 3
        return right, worth

    (as_one, by_one), (apart, by_many) = learned(crowd=False), learned(crowd=True)
    assert apart > as_one + 0.03
    assert by_many < 0.85 * by_one


@pytest.mark.parametrize("seed", range(3))
def test_thumbs_that_only_the_user_explains_teach_nothing_that_ppo_would_be_paid(seed):
    rng = random.Random(seed)
    thumbs = [
        replace(j, value=float(("hello" in j.prompt[-1]["content"]) == (rng.random() < 0.9)))
        for j in rate(brief, 200, seed=seed, signals=("thumb",))
    ]
    reward, report = LearnedReward.fit(thumbs)
    foreseen = reward.logits([j.prompt for j in thumbs], [j.completion for j in thumbs])
    up, down = ([z for z, j in zip(foreseen, thumbs, strict=True) if j.value == v] for v in (1, 0))
    assert sum(map(float.__gt__, *zip(*((a, b) for a in up for b in down), strict=True))) > (
        0.8 * len(up) * len(down)
    )
    assert not report.beats_chance


def test_a_report_survives_its_json(fitted):
    report = fitted[1]
    assert RewardReport.from_dict(json.loads(report.to_json())) == report


def test_settings_out_of_range_name_themselves():
    with pytest.raises(ConfigError, match="folds must be between 2 and 50, got 1"):
        RewardModelSettings(folds=1)


def test_a_missing_backbone_is_one_sentence(tmp_path):
    with pytest.raises(RewardError, match=r"cannot load .* as a reward backbone"):
        LearnedReward.fit(rate(brief, 40), backbone=tmp_path / "nothing")


def test_an_adapter_is_kept_only_if_it_helps_and_survives_saving(backbone, tmp_path):
    settings = RewardModelSettings(lora_r=2, lora_epochs=2)
    before = {name: p.clone() for name, p in backbone.model.named_parameters()}
    reward, _ = LearnedReward.fit(rate(asking, 60), backbone=backbone, settings=settings)
    assert all(p.equal(before[name]) for name, p in backbone.model.named_parameters())
    reward.save(tmp_path)
    again = LearnedReward.load(tmp_path, backbone=backbone)
    prompt = prompt_of(random.Random(0))
    replies = [reply_of(random.Random(i)) for i in range(4)]
    expected = [reward.score(prompt, reply) for reply in replies]
    assert [again.score(prompt, reply) for reply in replies] == pytest.approx(expected, abs=1e-6)
