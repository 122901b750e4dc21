"""What the frozen layers made of a token while it was decoded is what training would compute."""

from dataclasses import replace

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
from dialog_rl.train.dialogues import SimulatedUsers
from dialog_rl.train.ppo import DialogPPOTrainer
from dialog_rl.train.sampling import training_sampler
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


def collected(policy, actor, case, kept, dtype="float32"):
    talks, settings = CASES[case]
    sampler = training_sampler(policy, settings, dtype, kept)
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
    tolerance = {"float32": 1e-4, "bfloat16": 0.05, "float16": 2e-3}[dtype]
    for p in batch.passes:
        computed = actor.trunk(replace(p, states=None))
        read = torch.zeros(p.ids.shape, dtype=torch.bool)
        read[p.rows, p.sources] = True  # every token that predicts a sampled one, at least
        scale = computed.states[read].abs().mean()
        assert float((p.states - computed.states)[read].abs().mean()) < tolerance * scale
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


def test_replies_are_the_same_whether_states_are_kept_or_not():
    policy = policy_of()
    actor = actor_of(policy)
    for case in CASES:
        plain = collected(policy, actor, case, 0)
        assert collected(policy, actor, case, FROZEN) == plain
        assert all(e.states is None for e in plain)


def test_an_update_learns_the_same_from_kept_states(tmp_path):
    found, asked = [], []
    for kept in (0, FROZEN):
        policy = policy_of()
        actor = Actor(policy.model, lora_r=4, lora_layers="top_half")
        settings = TrainSettings(**{**SMALL, "num_generations": 4})
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
    sampler = training_sampler(policy, settings, "float32", actor.frozen_layers)
    talks = logged(policy, settings)
    episodes = Collector(talks, sampler, LETTERS, settings)(0, actor.decoder())
    assert {e.states for e in episodes} == {None}
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
