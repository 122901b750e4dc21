"""A simulated rater at the real chat service over a real store and a two-layer model."""

import random

import pytest

from dialog_rl.conversation import SamplingParams
from dialog_rl.corpus import judgements
from dialog_rl.errors import ConfigError
from dialog_rl.manager import DialogManager
from dialog_rl.policy import Policy
from dialog_rl.preferences import HiddenPreference, parse_preference
from dialog_rl.raters import RaterSettings, SimulatedRater
from dialog_rl.registry import AdapterRegistry
from dialog_rl.service import ChatService
from dialog_rl.store import FeedbackStore
from tests.fakes import byte_tokenizer, tiny_model

SCRIPTS = [
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"hello {n}"},
        {"role": "assistant", "content": "never sent"},
        {"role": "user", "content": "and?"},
    ]
    for n in range(60)
]


@pytest.fixture(scope="module")
def policy():
    tokenizer = byte_tokenizer()
    return Policy(tiny_model(len(tokenizer), end_id=tokenizer.eos_token_id), tokenizer, name="t")


@pytest.fixture
def store(tmp_path):
    store = FeedbackStore(tmp_path / "feedback.db")
    yield store
    store.close()


def service(tmp_path, store, policy):
    params = SamplingParams(max_new_tokens=8, temperature=1.0)
    return ChatService(
        store, DialogManager(policy, params=params), AdapterRegistry(tmp_path), params
    )


def test_a_rater_leaves_exactly_the_ratings_asked_for_in_its_own_name(tmp_path, store, policy):
    chat = service(tmp_path, store, policy)
    rater = SimulatedRater("rae", parse_preference("short"), seed=3)
    rater.rate(chat, SCRIPTS, 30)
    found = judgements(store)
    assert rater.total == 30 == sum(rater.given.values())
    # A vote between two equal replies and a correction that changes nothing are no judgements.
    assert 25 <= len(found) <= 30
    assert {j.rater for j in found} == {"rae"}
    assert len({j.signal for j in found}) >= 3
    assert all(j.prompt[0]["content"] == "Be brief." for j in found)
    assert len(chat.history("rae")) >= 10


def test_without_slips_every_judgement_agrees_with_the_hidden_preference(tmp_path, store, policy):
    chat = service(tmp_path, store, policy)
    letters = HiddenPreference("letters", lambda prompt, reply: float(len(reply)))
    SimulatedRater("rae", letters, 4, RaterSettings(noise=0.0)).rate(chat, SCRIPTS, 40)
    found = judgements(store)
    up = [len(j.completion) for j in found if j.signal == "thumb" and j.value == 1.0]
    down = [len(j.completion) for j in found if j.signal == "thumb" and j.value == 0.0]
    assert up and down and sum(up) / len(up) > sum(down) / len(down)
    pairs = [j for j in found if j.signal in ("choice", "correction") and j.value == 1.0]
    assert pairs and all(len(j.completion) > len(j.other) for j in pairs)


def test_scripts_that_run_out_are_one_clear_error(tmp_path, store, policy):
    rater = SimulatedRater("rae", parse_preference("short"), seed=random.randrange(9))
    with pytest.raises(ConfigError, match="ran out after"):
        rater.rate(service(tmp_path, store, policy), SCRIPTS[:2], 50)
