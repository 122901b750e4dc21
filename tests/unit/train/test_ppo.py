"""PPO on a tiny random model: it learns, resumes to the bit, survives bad rewards, stops itself."""

import math

import pytest
import torch
from transformers import TrainerCallback

from dialog_rl.errors import TrainingError
from dialog_rl.policy import Policy
from dialog_rl.rollout import TrainingPrompt
from dialog_rl.train.actor import Actor
from dialog_rl.train.checkpoints import load_checkpoint
from dialog_rl.train.collect import Collector, LoggedPrompts
from dialog_rl.train.ppo import DialogPPOTrainer
from dialog_rl.train_settings import TrainSettings
from reward_models.composite import CompositeReward
from tests.fakes import byte_tokenizer, tiny_model

SMALL = {
    "total_episodes": 64,
    "batch_size": 16,
    "num_mini_batches": 2,
    "num_ppo_epochs": 2,
    "response_length": 6,
    "temperature": 1.0,
    "learning_rate": 5e-3,
    "lora_r": 4,
    "max_seconds": 1e6,
    "missing_eos_penalty": 0.0,
    "save_steps": 1,
    "dtype": "float32",
}


def low_bytes(prompts, completions, **columns):
    """Share of letters a-m among the reply's characters."""
    return [
        sum("a" <= c <= "m" for c in x[0]["content"]) / max(1, len(x[0]["content"]))
        for x in completions
    ]


class Recorder(TrainerCallback):
    """Keeps what is logged; raises where a kill is wanted."""

    def __init__(self, die_at=None):
        self.logs, self.die_at = [], die_at

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.die_at:
            raise KeyboardInterrupt


def make(folder, reward=low_bytes, callbacks=None, **changes):
    torch.set_num_threads(1)
    tokenizer = byte_tokenizer()
    policy = Policy(
        tiny_model(len(tokenizer), layers=2, end_id=tokenizer.eos_token_id), tokenizer, name="t"
    )
    settings = TrainSettings(**{**SMALL, **changes})
    sampling = settings.rollout_sampling()

    def sampler(prompts, seeds, model):
        return policy.generate(prompts, sampling, seeds, model=model)

    texts = ["one", "two words", "three", "a longer fourth prompt", "five"]
    prompts = [
        TrainingPrompt(
            messages=({"role": "user", "content": t},), ids=tuple(tokenizer(t)["input_ids"])
        )
        for t in texts
    ]
    return DialogPPOTrainer(
        actor=Actor(policy.model, lora_r=settings.lora_r, lora_layers="all", seed=settings.seed),
        tokenizer=tokenizer,
        collector=Collector(
            LoggedPrompts(prompts, settings),
            sampler,
            CompositeReward([("letters", reward, 1.0)]),
            settings,
        ),
        settings=settings,
        folder=folder,
        callbacks=callbacks,
    )


def weights(trainer):
    return {n: t.clone() for n, t in trainer.actor.tensors().items()}


def test_the_reward_rises_on_a_toy_task(tmp_path):
    gains = []
    for seed in range(3):
        seen = Recorder()
        trainer = make(
            tmp_path / str(seed),
            callbacks=[seen],
            seed=seed,
            total_episodes=640,
            batch_size=32,
            kl_coef=0.0,
            kl_target=0.0,
            save_steps=100,
            learning_rate=0.02,
            max_kl=1000.0,
        )
        trainer.train()
        scores = [log["objective/scores"] for log in seen.logs]
        gains.append(sum(scores[-3:]) / 3 - sum(scores[:3]) / 3)
        assert seen.logs[0]["objective/kl"] == 0.0
        assert seen.logs[0]["rewards/letters/mean"] == pytest.approx(scores[0])
    assert min(gains) > 0.1
    assert sum(gains) / 3 > 0.3


def test_a_prompt_whose_replies_were_all_paid_the_same_is_not_learned_from(tmp_path):
    def same_for_the_first(prompts, completions, **columns):
        first, letters = prompts[0], low_bytes(prompts, completions)
        return [1.0 if p == first else n for p, n in zip(prompts, letters, strict=True)]

    seen = Recorder()
    trainer = make(
        tmp_path,
        reward=same_for_the_first,
        callbacks=[seen],
        batch_size=8,
        total_episodes=8,
        num_mini_batches=1,
        num_generations=4,
    )
    trainer.per_pass, trainer.at_once = 4, 7  # a prompt a pass, and none handed to the first step
    score, count = trainer.actor.score, []
    trainer.actor.score = lambda *a, **k: (count.append(1), score(*a, **k))[1]
    trainer.train()
    assert len(count) == 2 * 2 + 2  # both are read under policy and reference; two epochs of one
    assert seen.logs[0]["frac_reward_zero_std"] == 0.5
    assert len(trainer.optimizer.state) > 0


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_killed_and_resumed_gives_the_same_weights_to_the_bit(tmp_path, killed_after):
    whole = make(tmp_path / "whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut", callbacks=[Recorder(die_at=killed_after)], save_steps=2).train()
    resumed = make(tmp_path / "cut", save_steps=2)
    resumed.train(resume_from_checkpoint=True)
    expected = weights(whole)
    assert all(torch.equal(t, expected[n]) for n, t in weights(resumed).items())
    assert resumed.progress.kl_coef == whole.progress.kl_coef
    names = {p.name for p in (tmp_path / "cut").rglob("*") if p.is_file()}
    assert names == {"CURRENT", "state.json", "state.safetensors"}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    runs = []
    for k, seed in enumerate((5, 5, 6)):
        trainer = make(tmp_path / str(k), seed=seed, total_episodes=32)
        trainer.train()
        runs.append(weights(trainer))
    assert all(torch.equal(t, runs[1][n]) for n, t in runs[0].items())
    assert any(not torch.equal(t, runs[2][n]) for n, t in runs[0].items())


def test_a_first_step_that_takes_over_the_scoring_pass_gives_the_bytes_of_one_that_repeats_it(
    tmp_path,
):
    taken = make(tmp_path / "a", batch_size=8, num_mini_batches=1, total_episodes=16)
    repeated = make(tmp_path / "b", batch_size=8, num_mini_batches=1, total_episodes=16)
    assert taken.at_once == 8
    repeated.at_once = 7  # as if the batch were too large to be in work at one time
    passes = []
    for trainer in (taken, repeated):
        score, count = trainer.actor.score, []
        trainer.actor.score = lambda *a, n=count, s=score, **k: (n.append(1), s(*a, **k))[1]
        trainer.train()
        passes.append(len(count))
    # one pass holds all 8: 2 updates x (2 readings + 1 or 2 epochs)
    assert passes == [6, 8]
    assert weights(taken).keys() == weights(repeated).keys()
    assert all(torch.equal(t, weights(repeated)[n]) for n, t in weights(taken).items())


def test_optimizer_steps_are_epochs_times_minibatches_times_updates(tmp_path):
    trainer = make(tmp_path, total_episodes=32, num_ppo_epochs=3, num_mini_batches=4)
    trainer.train()
    steps = {int(s["step"]) for s in trainer.optimizer.state_dict()["state"].values()}
    assert steps == {2 * 3 * 4}


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30, None])
def test_one_bad_reward_is_left_out_and_counted(tmp_path, bad):
    def broken(prompts, completions, **columns):
        scores = low_bytes(prompts, completions)
        if len(scores) > 1:
            scores[3] = bad
        return scores

    trainer = make(tmp_path, broken, total_episodes=32)
    trainer.train()
    assert trainer.progress.dropped == 2
    assert all(bool(t.isfinite().all()) for t in weights(trainer).values())


def test_all_rewards_bad_stops_the_run_and_leaves_the_checkpoint_whole(tmp_path):
    calls = []

    def breaks_later(prompts, completions, **columns):
        calls.append(1)
        return low_bytes(prompts, completions) if len(calls) < 3 else [math.nan] * len(completions)

    with pytest.raises(TrainingError, match="no reward gave a finite score to any of 16 replies"):
        make(tmp_path, breaks_later).train()
    resumed = make(tmp_path)
    resumed.load()
    assert resumed.progress.update == 2
    assert all(bool(t.isfinite().all()) for t in weights(resumed).values())


def test_a_reward_that_is_the_same_for_every_reply_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(TrainingError, match=r"all 16 first replies got the same reward \(1\)"):
        make(tmp_path, lambda prompts, completions, **c: [1.0] * len(completions)).train()


def test_a_reward_that_becomes_the_same_for_every_reply_stops_the_run(tmp_path):
    calls = []

    def goes_flat(prompts, completions, **columns):
        calls.append(1)
        flat = len(calls) in {2, 3} or len(calls) > 4  # two flat updates are not yet three
        return [1.0] * len(completions) if flat else low_bytes(prompts, completions)

    trainer = make(tmp_path, goes_flat, total_episodes=16 * 12, num_ppo_epochs=1)
    result = trainer.train()
    assert result.stopped == "48 episodes in a row got the same reward"
    assert len(calls) == 7 and result.updates == 6
    last, _ = load_checkpoint(tmp_path)
    assert all(torch.equal(t, last[n]) for n, t in trainer.actor.tensors().items())


def test_a_run_that_diverges_stops_and_goes_back_to_the_last_good_state(tmp_path):
    trainer = make(tmp_path, learning_rate=0.05, max_kl=0.5, total_episodes=640, kl_coef=0.0)
    result = trainer.train()
    assert result.stopped is not None
    assert "max_kl is 0.5" in result.stopped
    assert result.updates == trainer.progress.update < 40
    rolled_back = make(tmp_path)
    rolled_back.load()
    expected = weights(rolled_back)
    assert all(torch.equal(t, expected[n]) for n, t in weights(trainer).items())


def test_gradients_are_clipped_to_max_grad_norm(tmp_path):
    trainer = make(tmp_path, max_grad_norm=1e-3, total_episodes=16)
    seen = []
    trainer.optimizer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.append(
            math.sqrt(
                sum(
                    float(p.grad.square().sum())
                    for g in optimizer.param_groups
                    for p in g["params"]
                )
            )
        )
    )
    trainer.train()
    assert len(seen) == 4
    assert all(norm <= 1e-3 * 1.001 for norm in seen)


def test_scores_are_cut_at_score_clip_spreads(tmp_path):
    # one reply of sixteen gets 16, the rest 0: mean 1, spread 4, so 3.75 spreads and 15 times -0.25
    def one(prompts, completions, **columns):
        return [16.0 * (k == 0) for k in range(len(completions))]

    found = {}
    for clip in (5.0, 0.2):
        seen = Recorder()
        trainer = make(
            tmp_path / str(clip), one, [seen], total_episodes=16, score_clip=clip, batch_size=16
        )
        trainer.train()
        found[clip] = seen.logs[0]["objective/rlhf_reward"]
    assert found[5.0] == pytest.approx(0.0, abs=1e-6)
    assert found[0.2] == pytest.approx((0.2 - 15 * 0.2) / 16)


def test_metrics_also_go_where_report_to_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    make(tmp_path / "run", total_episodes=16, report_to=("tensorboard",)).train()
    assert list((tmp_path / "board").glob("events.out.tfevents.*"))
