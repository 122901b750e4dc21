"""Who reads the replies is chosen by held-out ratings, and only where there is a choice."""

from dialog_rl.reward import choosing
from reward_models.base import Judgement
from reward_models.settings import RewardModelSettings
from tests.unit.rewards.taste import asking, rate


def _named(group: str) -> Judgement:
    return Judgement(
        signal="thumb", prompt=(), completion="Yes.", value=1.0, rater="a", group=group
    )


def test_a_sample_keeps_whole_conversations_in_the_order_they_came():
    judgements = [_named(group) for group in ("b", "a", "b", "a", "c")]
    assert [j.group for j in choosing.first_conversations(judgements, 3)] == ["b", "b", "a", "a"]
    assert [j.group for j in choosing.first_conversations(judgements, 2)] == ["b", "b"]


def test_a_name_is_taken_and_nothing_is_compared(monkeypatch, tmp_path):
    monkeypatch.setattr(choosing, "installed_encoder", lambda: tmp_path)
    monkeypatch.setattr(choosing, "prepare", lambda *a, **k: 1 / 0)
    assert choosing.reader_for("none", rate(asking, 40), RewardModelSettings()) is None


def test_the_reader_that_predicts_held_out_ratings_best_is_taken(monkeypatch, tmp_path):
    losses = {"bundled": 0.61, "encoder": 0.58}
    monkeypatch.setattr(choosing, "installed_encoder", lambda: tmp_path)
    monkeypatch.setattr(
        choosing, "load_backbone", lambda name: "bundled" if name is None else "encoder"
    )
    monkeypatch.setattr(choosing, "prepare", lambda sample, backbone, settings: backbone)

    class Held:
        def __init__(self, nll: float) -> None:
            self.nll = nll

    monkeypatch.setattr(
        choosing, "cross_validate", lambda backbone, say: (None, None, Held(losses[backbone]))
    )
    settings = RewardModelSettings()
    assert choosing.reader_for(None, rate(asking, 40), settings) == "encoder"
    losses["bundled"] = 0.5
    assert choosing.reader_for(None, rate(asking, 40), settings) == "bundled"
