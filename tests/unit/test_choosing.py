"""Several candidates, one said: what is read of them, who picks, and what the chat stores."""

from dataclasses import replace

import pytest
import torch

from dialog_rl.candidates import LIKELIHOOD, CandidateReader, Choice
from dialog_rl.choosing import BestByQ, BestByReward, QChoosers, candidate_seeds, choosers
from dialog_rl.conversation import SamplingParams
from dialog_rl.errors import ConfigError, PolicyError, RegistryError
from dialog_rl.manager import DialogManager
from dialog_rl.q_function import QCard, QFunction, load_q_function
from dialog_rl.registry import Q_FUNCTION, AdapterRegistry
from dialog_rl.service import ChatService
from dialog_rl.store import FeedbackStore
from reward_models.textual import CONTEXT_FEATURES, REPLY_FEATURES, reply_features
from tests.fakes import family_policy, save_tiny_adapter, tiny_policy

POLICY = tiny_policy()
PARAMS = SamplingParams(max_new_tokens=12, temperature=1.0)
HELLO = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}]
OTHER = [*HELLO, {"role": "assistant", "content": "Hi!"}, {"role": "user", "content": "A hotel?"}]


class Likes:
    """A reward: the number of times a letter occurs; no opinion on an empty reply."""

    __name__ = "likes"

    def __init__(self, letter):
        self.letter = letter

    def __call__(self, prompts, completions):
        return [c[0]["content"].count(self.letter) or None for c in completions]


def choice_of(policy, messages, count=3, seed=0, tokens=8):
    manager = DialogManager(policy, context_budget=200)
    prompt = manager.build_prompt(messages)
    params = SamplingParams(max_new_tokens=tokens, temperature=1.0)
    drawn = policy.generate([prompt.ids] * count, params, candidate_seeds(seed, count))
    return Choice(messages=prompt.messages, ids=prompt.ids, candidates=drawn)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "qwen2-sliding", "phi"])
def test_candidates_read_side_by_side_are_read_as_if_each_stood_alone(family):
    torch.set_num_threads(1)
    policy = family_policy(family)
    turns = [[HELLO[1]], [OTHER[1], OTHER[2], OTHER[3]]]  # of different lengths; Gemma: no system
    choices = [choice_of(policy, messages, seed=n) for n, messages in enumerate(turns)]
    reader = CandidateReader(policy.model)
    for choice, rows in zip(choices, reader.read(choices), strict=True):
        assert rows.shape == (3, reader.width)
        for reply, row in zip(choice.candidates, rows, strict=True):
            ids, start = [*choice.ids, *reply.ids], len(choice.ids)
            with torch.no_grad():
                out = policy.model(torch.tensor([ids]), output_hidden_states=True)
            last = out.hidden_states[-1][0]
            logprobs = out.logits[0, start - 1 : -1].log_softmax(-1)
            told = logprobs.gather(-1, torch.tensor(reply.ids)[:, None]).squeeze(-1)
            wanted = torch.cat([last[start:].mean(0), last[-1], last[start - 1]])
            assert torch.allclose(row[-len(wanted) :], wanted, atol=2e-4)
            assert row[:3].tolist() == pytest.approx(
                [float(told.sum()), float(told.mean()), float(told.min())], abs=2e-3
            )
            counted = row[len(LIKELIHOOD) : reader.counted].tolist()
            assert counted[: len(REPLY_FEATURES)] == pytest.approx(
                reply_features(choice.messages, reply.text), abs=1e-5
            )
            assert len(counted) == len(REPLY_FEATURES) + len(CONTEXT_FEATURES)


def test_a_text_that_was_drawn_twice_is_read_once_and_told_of_twice(monkeypatch):
    choice = choice_of(POLICY, HELLO)
    first, *others = choice.candidates
    cut = replace(first, finish_reason="length")
    both = replace(choice, candidates=[first, *others, cut])
    reader, read = CandidateReader(POLICY.model), []
    pooled = reader._pooled
    monkeypatch.setattr(reader, "_pooled", lambda *a: read.append(len(a[0])) or pooled(*a))
    (rows,) = reader.read([both])
    assert sum(read) == len({tuple(r.ids) for r in both.candidates}) < len(both.candidates)
    finished = LIKELIHOOD.index("finished")
    assert rows[-1, finished] == 0.0
    assert rows[0, finished] == float(first.finish_reason == "stop")
    same = [n for n in range(rows.shape[1]) if n != finished]
    assert torch.equal(rows[0, same], rows[-1, same])


def test_the_best_by_reward_is_said_and_one_without_a_score_only_if_none_has_any():
    class Text:
        def __init__(self, text):
            self.text = text

    best = BestByReward(Likes("o"), 3)
    choices = [
        Choice(messages=HELLO, ids=[1], candidates=[Text(t) for t in texts])
        for texts in (["", "o", "oo"], ["", "", ""], ["o", "x", "o"])
    ]
    assert best(choices) == [2, 0, 0]


def test_a_picked_reply_is_the_one_that_its_seed_draws_and_the_first_candidate_is_plain_sampling():
    plain, choosing = DialogManager(POLICY, params=PARAMS), DialogManager(POLICY, params=PARAMS)
    choosing.choosers = {"base": BestByReward(Likes("e"), 6)}
    seeds = [5, 9]
    picked = choosing.reply_batch([HELLO, OTHER], seeds=seeds)
    for draft, messages, seed in zip(picked, (HELLO, OTHER), seeds, strict=True):
        texts = [
            plain.reply_batch([messages], seeds=[s])[0].generation.text
            for s in candidate_seeds(seed, 6)
        ]
        counts = [text.count("e") for text in texts]
        assert draft.generation.text == texts[counts.index(max(counts))]
        again = plain.reply_batch([messages], seeds=[draft.seed])[0].generation
        assert again.ids == draft.generation.ids
        assert candidate_seeds(seed, 6)[0] == seed
    streamed = choosing.stream(HELLO, seed=5)
    assert list(streamed) == [picked[0].generation.text]
    assert streamed.draft.generation.ids == picked[0].generation.ids
    assert streamed.draft.seed == picked[0].seed


def test_a_picked_reply_that_nobody_waited_for_is_not_drawn():
    manager = DialogManager(POLICY, params=PARAMS)
    manager.choosers = {"base": BestByReward(Likes("e"), 2)}
    streamed = manager.stream(HELLO, seed=5)
    streamed.close()
    assert list(streamed) == []
    assert streamed.draft.generation.finish_reason == "cancelled"
    assert streamed.draft.generation.ids == ()


def trained_q(policy, seed=0):
    """A Q-function with weights of its own, and its card."""
    reader = CandidateReader(policy.model)
    q = QFunction(reader.width, seed=seed)
    torch.nn.init.normal_(q.layers[-1].weight, generator=torch.Generator().manual_seed(seed))
    return q, QCard(base_id=policy.base_id, width=reader.width, candidates=4, turns=10)


def version_with_q(folder, policy, registry, seed=0):
    save_tiny_adapter(folder, policy.model)
    q, card = trained_q(policy, seed)
    q.save(folder, card)
    return registry.register(folder, {"base_id": policy.base_id})


def test_a_q_function_comes_back_as_it_was_and_only_for_its_own_base(tmp_path):
    q, card = trained_q(POLICY)
    q.save(tmp_path, card)
    again, its_card = load_q_function(tmp_path, POLICY.base_id)
    assert its_card == card
    rows = CandidateReader(POLICY.model).read([choice_of(POLICY, HELLO)])[0]
    assert torch.equal(again(rows), q(rows).detach())
    assert q.pick([rows]) == [int(q(rows).argmax())]
    with pytest.raises(PolicyError, match=r"reads tiny@.*the base model here is other@1"):
        load_q_function(tmp_path, "other@1")
    (tmp_path / Q_FUNCTION).write_bytes(b"no tensors")
    with pytest.raises(PolicyError, match="damaged"):
        load_q_function(tmp_path, POLICY.base_id)
    with pytest.raises(PolicyError, match="has no Q-function"):
        load_q_function(tmp_path / "nowhere", POLICY.base_id)


def test_the_registry_keeps_the_q_function_and_notices_when_it_was_changed(tmp_path):
    registry = AdapterRegistry(tmp_path)
    first = version_with_q(tmp_path / "a", POLICY, registry, seed=1)
    second = version_with_q(tmp_path / "b", POLICY, registry, seed=2)
    assert first[3:] != second[3:]  # the digest covers it
    registry.promote(second)
    (registry.path(first) / Q_FUNCTION).write_bytes(b"other")
    with pytest.raises(RegistryError, match="have changed"):
        registry.promote(first)


def test_decode_q_wants_a_version_that_has_a_q_function(tmp_path):
    registry = AdapterRegistry(tmp_path)
    save_tiny_adapter(tmp_path / "plain", POLICY.model)
    plain = registry.register(tmp_path / "plain", {})
    known = {"policy": POLICY, "home": tmp_path, "registry": registry}
    assert choosers("sample", 4, versions=[plain], **known).get(plain) is None
    with pytest.raises(ConfigError, match="decode q needs a version with a Q-function"):
        choosers("q", 4, versions=[plain, "base"], **known)
    own = version_with_q(tmp_path / "own", POLICY, registry)
    found = choosers("q", 4, versions=[plain, own], **known)
    assert found.get(plain) is None
    assert found.get(own).candidates == 4
    assert QChoosers(POLICY, registry).get(own).candidates == 4  # as in training


def test_a_chat_that_picks_by_value_stores_the_reply_that_was_picked(tmp_path):
    registry = AdapterRegistry(tmp_path)
    version = version_with_q(tmp_path / "made", POLICY, registry)
    registry.promote(version)
    manager = DialogManager(POLICY, params=PARAMS)
    manager.choosers = choosers(
        "q", 3, policy=POLICY, home=tmp_path, registry=registry, versions=[version]
    )
    store = FeedbackStore(tmp_path / "feedback.db")
    try:
        chat = ChatService(store, manager, registry, PARAMS, default_system="Be kind.")
        talk = chat.start("ann")
        reply = chat.send("ann", talk.conversation_id, "hello", seed=7).read()
        assert reply.adapter_version == version
        assert reply.seed in candidate_seeds(7, 3)
        choice = choice_of_version(manager, version, reply.prompt_messages, 7, 3)
        assert isinstance(manager.choosers.get(version), BestByQ)
        (place,) = manager.choosers.get(version)([choice])
        assert choice.candidates[place].ids == reply.reply_ids
        gone = chat.send("ann", talk.conversation_id, "and now?", seed=8)
        gone.close()
        assert gone.reply is None
    finally:
        store.close()
        POLICY.drop_version(version)


def choice_of_version(manager, version, messages, seed, count):
    prompt = manager.build_prompt(list(messages))
    drawn = POLICY.generate(
        [prompt.ids] * count, PARAMS, candidate_seeds(seed, count), version=version
    )
    return Choice(messages=prompt.messages, ids=prompt.ids, candidates=drawn)
