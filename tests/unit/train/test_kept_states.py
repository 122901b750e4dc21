"""What decoding kept of a token is what the passes of training would compute."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dialog_rl.envs.domain import load_domain
from dialog_rl.packed import can_pack
from dialog_rl.policy import Policy
from dialog_rl.precision import make_runner
from dialog_rl.prompt_memory import PromptMemory, States, lay_out
from dialog_rl.rollout import TrainingPrompt, make_batch
from dialog_rl.train.actor import Actor
from dialog_rl.train.branches import collector_for
from dialog_rl.train.collect import Collector, LoggedPrompts
from dialog_rl.train.compute import Arithmetic
from dialog_rl.train.dialogues import SimulatedUsers
from dialog_rl.train.ppo import DialogPPOTrainer
from dialog_rl.train.ppo_state import recorded
from dialog_rl.train.sampling import sampler_for, training_sampler
from dialog_rl.train.team import ALONE
from dialog_rl.train_settings import TrainSettings
from reward_models.chat_template import render_ids
from reward_models.composite import CompositeReward
from tests.e2e.test_train_pipeline import SMALL as RUN
from tests.e2e.test_train_pipeline import fill
from tests.e2e.test_train_pipeline import run as run_pipeline
from tests.fakes import byte_tokenizer, family_policy, save_tiny_model, tiny_model
from tests.unit.train.test_architectures import wake
from tests.unit.train.test_dialogues import ROOM
from tests.unit.train.test_dialogues import settings_of as talking
from tests.unit.train.test_ppo import SMALL, low_bytes, weights

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05, "float16": 2e-3}
"""Mean error of what was kept, in parts of its size or spread."""
FROZEN = 2
"""Of four layers, the lower half."""
CPU = torch.device("cpu")


def policy_of(**changes):
    torch.set_num_threads(1)
    tokenizer = byte_tokenizer()
    model = tiny_model(
        len(tokenizer), layers=4, end_id=tokenizer.eos_token_id, max_positions=ROOM + 96, **changes
    )
    policy = Policy(model, tokenizer, name="t")
    policy.end_ids |= set(range(0, 256, 5))  # a random model seldom says the end token
    return policy


def actor_of(policy, dtype=None):
    actor = Actor(policy.model, lora_r=4, lora_layers="top_half", autocast_dtype=dtype)
    assert (actor.frozen_layers, actor.layers is not None) == (FROZEN, True)
    wake(actor)
    return actor


def logged(policy, settings):
    texts = ["one", "two words", "three", "a longer fourth prompt", "five"]
    chats = [({"role": "user", "content": text},) for text in texts]
    prompts = [
        TrainingPrompt(messages=c, ids=tuple(render_ids(policy.tokenizer, c))) for c in chats
    ]
    return LoggedPrompts(prompts, settings)


def users(policy, settings):
    return SimulatedUsers(load_domain("concierge"), policy.tokenizer, settings, ROOM)


CASES = {
    "logged prompts": (logged, TrainSettings(**{**SMALL, "num_generations": 4})),
    "conversations": (users, talking(num_generations=1)),
    "conversations, two a user": (users, talking(num_generations=2)),
    "branches": (users, talking(credit="branch", num_generations=2)),
}
LETTERS = CompositeReward([("letters", low_bytes, 1.0)])


def collected(policy, actor, case, kept, dtype="float32", *, drawn=False):
    talks, settings = CASES[case]
    sampler = training_sampler(policy, settings, dtype, kept, keep_drawn=drawn)
    collector = collector_for(talks(policy, settings), sampler, LETTERS, settings, ALONE)
    return collector(0, actor.decoder())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_states_of_every_token_that_was_read_are_the_trunks(case, dtype):
    if dtype == "float16" and not can_pack(torch.float16):
        pytest.skip("this processor has no float16 products")
    passes = torch.bfloat16 if dtype == "bfloat16" else None
    policy = policy_of()
    actor = actor_of(policy, passes)
    episodes = collected(policy, actor, case, FROZEN, dtype)
    assert len({len(e.ids) for e in episodes}) > 2
    if case.startswith("conversations"):
        assert max(len(e.turns) for e in episodes) > 1
    batch = make_batch(episodes, 4, CPU, pack=True)
    assert all(e.states is None for e in batch.episodes)  # held once
    for p in batch.passes:
        computed = actor.trunk(replace(p, states=None))
        read = torch.zeros(p.ids.shape, dtype=torch.bool)
        read[p.rows, p.sources] = True  # every token that predicts a sampled one, at least
        scale = computed.states[read].abs().mean()
        assert float((p.states - computed.states)[read].abs().mean()) < TOLERANCE[dtype] * scale
        assert actor.trunk(p).states is p.states
        with torch.no_grad():
            ours, theirs = (actor.score(t, p, 1.0) for t in (actor.trunk(p), computed))
        gap = (ours.logprobs - theirs.logprobs).abs()
        if dtype == "bfloat16":
            assert float(gap.mean()) < 0.2
        else:
            assert float(gap.max()) < (1e-3 if dtype == "float32" else 0.02)
    # What nobody read is nothing: each reply's last token and the padding.
    unread = sum(int((p.states == 0).all(-1).sum()) for p in batch.passes)
    padding = (
        sum(p.ids.numel() for p in batch.passes)
        - sum(len(e.ids) for e in episodes)
        - sum(len(prompt) for prompt in _prompts(batch, episodes))
    )
    assert unread == padding + len(episodes)


def _prompts(batch, episodes):
    """The prompt of every row of the passes."""
    firsts = [
        p.episodes[(p.rows == r).nonzero()[0, 0]] for p in batch.passes for r in p.rows.unique()
    ]
    return [episodes[int(first)].prompt.ids for first in firsts]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_a_token_was_drawn_from_is_what_a_pass_says(case, dtype):
    if dtype == "float16" and not can_pack(torch.float16):
        pytest.skip("this processor has no float16 products")
    policy = policy_of()
    actor = actor_of(policy)
    torch.nn.init.normal_(actor.value_head.weight)
    batch = make_batch(collected(policy, actor, case, FROZEN, dtype, drawn=True), 4, CPU, pack=True)
    heat, gaps, spreads = CASES[case][1].temperature, [], []
    for p, said in zip(batch.passes, recorded(batch, batch.drawn, actor.value_head), strict=True):
        with torch.no_grad():
            scored = actor.score(actor.trunk(replace(p, states=None)), p, heat)
        assert not any(part.requires_grad for part in said)
        gaps.append([(a - b).abs() for a, b in zip(said, scored, strict=True)])
        spreads.append(scored)
    for gap, scored in zip(zip(*gaps, strict=True), zip(*spreads, strict=True), strict=True):
        # Four layers on, the error of a state has grown.
        assert float(torch.cat(gap).mean()) < 5 * TOLERANCE[dtype] * float(torch.cat(scored).std())


def test_replies_are_the_same_whether_states_are_kept_or_not():
    policy = policy_of()
    actor = actor_of(policy)
    for case in CASES:
        plain = collected(policy, actor, case, 0)
        assert collected(policy, actor, case, FROZEN, drawn=True) == plain
        assert all(e.states is None for e in plain)
        assert {turn.drawn for e in plain for turn in e.turns} == {None}
        assert make_batch(plain, 4, CPU, pack=True).drawn is None


def test_updates_learn_the_same_from_what_was_recorded(tmp_path):
    found, passes = [], []
    for drawn in (False, True):
        policy = policy_of()
        actor = Actor(policy.model, lora_r=4, lora_layers="top_half")
        settings = TrainSettings(**{**SMALL, "num_generations": 4, "vf_coef": 0.5})
        trainer = DialogPPOTrainer(
            actor=actor,
            tokenizer=policy.tokenizer,
            collector=Collector(
                logged(policy, settings),
                training_sampler(policy, settings, "float32", FROZEN, keep_drawn=drawn),
                LETTERS,
                settings,
            ),
            settings=settings,
            folder=tmp_path / f"{drawn}",
        )
        start, read, asked = weights(trainer), trainer._read, []
        trainer._read = lambda *a, n=asked, f=read, **k: n.append(k) or f(*a, **k)
        for _ in range(3):
            batch = trainer.sample()
            scores = trainer.score(batch)
            assert trainer.check(batch, scores) is None
            trainer.improve(batch, scores)
            trainer.progress.update += 1
        passes.append(len(asked))
        found.append({n: t - start[n] for n, t in weights(trainer).items()})
    assert passes == [6, 4]  # policy and reference; the policy in the first update only
    for name, moved in found[0].items():
        gap = (found[1][name] - moved).abs().max()
        assert float(gap) <= 1e-3 * max(float(moved.abs().max()), 1e-8), name


WIDE = {"batch_size": 16, "num_generations": 1, "num_mini_batches": 1}


@pytest.mark.parametrize(
    "changes, dtypes, kept",
    [
        (WIDE, ("float32", "float32"), (FROZEN, True)),
        (WIDE, ("float32", "float16"), (FROZEN, True)),
        ({**WIDE, "batch_size": 8}, ("float32", "float32"), (FROZEN, False)),  # the step goes on
        ({**WIDE, "batch_size": 8, "num_mini_batches": 2}, ("float32",) * 2, (FROZEN, True)),
        (WIDE, ("bfloat16", "bfloat16"), (FROZEN, False)),
        (WIDE, ("float32", "bfloat16"), (0, False)),
        ({**WIDE, "algo": "grpo", "num_generations": 4}, ("float32", "float32"), (FROZEN, False)),
        ({"algo": "dpo"}, ("float32", "float32"), (0, False)),
    ],
)
def test_what_a_run_keeps_of_decoding(changes, dtypes, kept, monkeypatch):
    policy = policy_of()
    actor = actor_of(policy, torch.bfloat16 if dtypes[0] == "bfloat16" else None)
    asked = []
    monkeypatch.setattr(
        "dialog_rl.train.sampling.training_sampler",
        lambda _, __, dtype, frozen, *, keep_drawn: asked.append((dtype, frozen, keep_drawn)),
    )
    settings = TrainSettings(**changes)
    found = Arithmetic(dtype=dtypes[0], sampling_dtype=dtypes[1])
    sampler_for(actor, policy, settings, found)
    assert asked == [(dtypes[1], *kept)]
    assert actor.sampling_dtype == getattr(torch, dtypes[1])
    sampler_for(actor, policy, settings, found, SimpleNamespace(size=2))
    assert asked[1] == (dtypes[1], 0, False)


def test_an_update_learns_the_same_from_kept_states(tmp_path):
    found, asked = [], []
    for kept in (0, FROZEN):
        policy = policy_of()
        actor = Actor(policy.model, lora_r=4, lora_layers="top_half")
        # With seed 0 one gradient is all rounding, which Adam turns into a step.
        settings = TrainSettings(**{**SMALL, "num_generations": 4, "seed": 1})
        trainer = DialogPPOTrainer(
            actor=actor,
            tokenizer=policy.tokenizer,
            collector=Collector(
                logged(policy, settings),
                training_sampler(policy, settings, "float32", kept),
                LETTERS,
                settings,
            ),
            settings=settings,
            folder=tmp_path / f"{kept}",
        )
        start = weights(trainer)
        compute = actor.layers.trunk
        actor.layers.trunk = lambda *a, n=kept, f=compute: asked.append(n) or f(*a)
        batch = trainer.sample()
        trainer.improve(batch, trainer.score(batch))
        found.append({n: t - start[n] for n, t in weights(trainer).items()})
    assert set(asked) == {0}  # with kept states the frozen layers did not run again
    for name, moved in found[0].items():
        gap = (found[1][name] - moved).abs().max()
        assert float(gap) <= 1e-3 * max(float(moved.abs().max()), 1e-8), name


def test_a_run_of_the_command_computes_no_trunk_that_decoding_had(tmp_path, monkeypatch):
    fill(tmp_path)
    passes, trunk = [], Actor.trunk

    def note(self, p):
        passes.append(p)
        return trunk(self, p)

    def read(self, batch):
        passes.clear()
        found = score(self, batch)
        scored.extend(p.states is not None for p in passes)
        return found

    scored, score = [], DialogPPOTrainer.score
    monkeypatch.setattr(Actor, "trunk", note)
    monkeypatch.setattr(DialogPPOTrainer, "score", read)
    assert RUN["dtype"] == "float32"
    run_pipeline(tmp_path, str(save_tiny_model(tmp_path / "model")), sft=False)
    assert scored
    assert all(scored)


def test_another_decoder_keeps_nothing_and_the_trunk_is_computed():
    policy = family_policy("gpt2")
    actor = Actor(policy.model, lora_r=2, lora_layers="top_half")
    settings = TrainSettings(**{**SMALL, "num_generations": 4})
    sampler = training_sampler(policy, settings, "float32", actor.frozen_layers, keep_drawn=True)
    talks = logged(policy, settings)
    episodes = Collector(talks, sampler, LETTERS, settings)(0, actor.decoder())
    assert {e.states for e in episodes} == {None}
    assert {turn.drawn for e in episodes for turn in e.turns} == {None}
    assert {p.states for p in make_batch(episodes, 4, CPU).passes} == {None}


def test_a_memory_of_a_decoder_that_kept_nothing_is_read_again():
    policy, memory = policy_of(), PromptMemory()
    actor = actor_of(policy)
    sampling = TrainSettings(**SMALL).rollout_sampling()
    prompt, decoder = tuple(range(5, 30)), actor.decoder()
    (first,) = policy.generate([prompt], sampling, [0], model=decoder, memory=memory)
    longer = (*prompt, *first.ids, 7, 8)
    runner = make_runner(decoder, torch.float32, FROZEN)
    (second,) = policy.generate(
        [longer], sampling, [1], model=decoder, memory=memory, runner=runner
    )
    assert second.states.prompt.shape == (len(longer), 32)
    (fresh,) = policy.generate([longer], sampling, [1], model=decoder, runner=runner)
    assert torch.allclose(second.states.prompt, fresh.states.prompt, atol=1e-5)
    assert second.states.reply.shape == (len(second.ids) - 1, 32)


def test_states_are_laid_out_behind_the_prompt_that_replies_share():
    def marks(*values):
        return torch.tensor(values).float()[:, None]

    one = States(marks(1, 2), marks(3))  # a prompt of two tokens, a reply of two
    other = States(marks(1, 2, 4, 5), marks(6, 7))  # further turns stand before the last reply
    alone = States(marks(8), marks()[:, :0].reshape(0, 1))  # a reply of one token
    made = lay_out([(2, [one, other]), (1, [alone])], 9)
    assert made[..., 0].tolist() == [[1, 2, 3, 0, 4, 5, 6, 7, 0], [8, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert lay_out([(2, [one, None])], 9) is None
