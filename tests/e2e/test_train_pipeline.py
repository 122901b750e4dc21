"""``dialog-rl train`` on a tiny model: every stage, every algorithm, kill and resume."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from dialog_rl.config import GateSettings
from dialog_rl.conversation import Conversation, Reply, SamplingParams
from dialog_rl.errors import NotEnoughFeedback, NotFound
from dialog_rl.feedback import FeedbackEvent
from dialog_rl.registry import AdapterRegistry
from dialog_rl.runs import Run, list_runs
from dialog_rl.store import FeedbackStore
from dialog_rl.train import standings
from dialog_rl.train.checkpoints import load_checkpoint
from dialog_rl.train.pipeline import train
from dialog_rl.train_settings import TrainSettings
from tests.fakes import save_tiny_model

SMALL = {
    "total_episodes": 48,
    "batch_size": 8,
    "num_ppo_epochs": 1,
    "response_length": 48,
    "lora_r": 2,
    "save_steps": 2,
    "temperature": 1.0,
    "sft_epochs": 1,
    "preference_epochs": 1,
    "dtype": "float32",
    "num_threads": 1,
    "max_seconds": 1e6,
}
LIKED = ["Sure, happy to help. Which area?", "Of course! For how many people?", "Gladly. When?"]
DISLIKED = ["no", "Whatever. I do not care about that at all.", "Look it up yourself."]


QUICK = GateSettings(num_prompts=6)


def fill(home, *, seed=0, conversations=40, noise=0.0):
    """A store with thumbs, votes and corrections of one person who likes polite questions."""
    home.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    store = FeedbackStore(home / "feedback.db")
    for k in range(conversations):
        cid = f"c{k}"
        store.add_conversation(
            Conversation(
                conversation_id=cid, owner="ann", system_prompt="s", title="t", created_at=float(k)
            )
        )
        store.add_user_turn(cid, 0, f"hello {k}", float(k))
        good = rng.random() < 0.5
        for which, text in enumerate((rng.choice(LIKED), rng.choice(DISLIKED))):
            store.add_reply(reply(cid, f"r{k}-{which}", text, k))
        shown, other = (f"r{k}-0", f"r{k}-1") if good else (f"r{k}-1", f"r{k}-0")
        up = good if rng.random() >= noise else not good
        store.add_event(event(k, 0, kind="thumb", reply_id=shown, value=float(up)))
        if k % 3 == 0:
            first, second = (shown, other) if good else (other, shown)
            store.add_event(
                event(k, 1, kind="choice", reply_id=first, other_reply_id=second, value=1.0)
            )
        if k % 5 == 0 and not good:
            store.add_event(event(k, 2, kind="correction", reply_id=shown, text=rng.choice(LIKED)))
    store.close()


def reply(cid, reply_id, text, k):
    messages = ({"role": "system", "content": "s"}, {"role": "user", "content": f"hello {k}"})
    return Reply(
        reply_id=reply_id,
        conversation_id=cid,
        turn=0,
        prompt_messages=messages,
        prompt_ids=(1, 2, 3),
        reply_ids=(4, 5),
        logprobs=(-1.0, -1.0),
        text=text,
        sampling=SamplingParams(),
        seed=k,
        base_model="tiny",
        adapter_version="base",
        finish_reason="stop",
        created_at=float(k),
    )


def event(k, n, **fields):
    return FeedbackEvent(
        event_id=f"e{k}-{n}", conversation_id=f"c{k}", rater="ann", created_at=float(k), **fields
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


def run(home, model, **changes):
    torch.set_num_threads(1)
    settings = TrainSettings(**{**SMALL, **changes})
    return train(settings, home, model_name_or_path=model, show_progress=False, gate=QUICK)


def test_ppo_from_a_store_ends_in_a_verdict_an_adapter_plots_and_metrics(tmp_path, model):
    fill(tmp_path)
    told, others_see = [], set()

    def tell(*a):
        told.append(a)
        others_see.update((run.run_id, run.state) for run in list_runs(tmp_path))

    result = train(
        TrainSettings(**SMALL),
        tmp_path,
        model_name_or_path=model,
        progress=tell,
        show_progress=False,
        gate=QUICK,
    )
    assert others_see == {(result.run_id, "running")}
    assert result.version is not None
    assert AdapterRegistry(tmp_path).current() == "base"
    (info,) = AdapterRegistry(tmp_path).list()
    assert info.version == result.version
    assert info.lineage["run_id"] == result.run_id
    assert info.lineage["reward_beats_chance"] is True
    assert len(info.lineage["feedback_sha256"]) == 64
    folder = result.folder
    written = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {
        "settings.json",
        "status.json",
        "metrics.jsonl",
        "log.txt",
        "verdict.json",
        "verdict.html",
        "plots/reward.png",
        "plots/kl.png",
        "plots/length.png",
        "adapter/adapter_model.safetensors",
        "reward_model/reward.safetensors",
    } <= written
    assert not [w for w in written if w.endswith((".bin", ".pt", ".pth", ".pkl"))]
    records = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    ppo = [r for r in records if r["stage"] == "ppo"]
    assert [r["step"] for r in ppo] == [1, 2, 3, 4, 5, 6]
    assert {
        "objective/kl",
        "objective/scores",
        "policy/clipfrac_avg",
        "rewards/learned/mean",
    } <= set(ppo[0])
    (status,) = list_runs(tmp_path)
    assert (status.state, status.version, status.ship) == ("finished", result.version, result.ship)
    shares = [share for _, share, _ in told]
    assert shares == sorted(shares)
    assert list(dict.fromkeys(t[0] for t in told)) == ["snapshot", "reward", "sft", "ppo", "gate"]


def test_the_test_conversations_are_never_trained_on(tmp_path, model):
    fill(tmp_path)
    result = run(tmp_path, model, algo="sft")
    data = json.loads((result.folder / "data.json").read_text())
    held_out = {j["group"] for j in data["test"]}
    assert held_out
    assert not held_out & {j["group"] for j in data["train"]}
    said = {j["prompt"][-1]["content"] for j in data["test"]}
    assert not said & {prompt[-1]["content"] for prompt in data["prompts"]}
    (info,) = AdapterRegistry(tmp_path).list()
    assert not held_out & set(info.lineage["trained_on"])


@pytest.mark.parametrize("algo", ["grpo", "rloo", "kto", "dpo", "sft"])
def test_the_siblings_run_on_the_same_rails(tmp_path, model, algo):
    fill(tmp_path, conversations=80)
    result = run(tmp_path, model, algo=algo)
    assert result.version is not None
    assert result.verdict is not None
    records = [json.loads(x) for x in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert {r["stage"] for r in records} - {"sft"} == {algo} - {"sft"}
    assert not list(result.folder.rglob("*.pt*")) + list(result.folder.rglob("*.bin"))


def test_algorithms_are_compared_on_the_same_ratings_and_none_is_promoted(tmp_path, model):
    fill(tmp_path, conversations=24)
    torch.set_num_threads(1)
    found = standings.compare(
        ["sft", "grpo", "dpo"],
        TrainSettings(**SMALL),
        tmp_path,
        model_name_or_path=model,
        show_progress=False,
        gate=QUICK,
    )
    by_algo = {s.algo: s for s in found}
    assert set(by_algo) == {"sft", "grpo", "dpo"}
    assert by_algo["dpo"].result is None
    assert "DPO needs at least 16 votes and corrections" in by_algo["dpo"].message
    split = {
        algo: json.loads((by_algo[algo].result.folder / "data.json").read_text())["test"]
        for algo in ("sft", "grpo")
    }
    assert split["sft"] == split["grpo"]
    assert AdapterRegistry(tmp_path).current() == "base"
    order = [(s.ship, s.preferred()) for s in found]
    assert order == sorted(order, reverse=True)
    lines = standings.table(found).splitlines()
    assert lines[0].split() == list(standings.COLUMNS)
    assert [line.split()[0] for line in lines[1:4]] == [s.algo for s in found]
    assert lines[4].startswith("dpo: DPO needs")
    assert (by_algo["grpo"].result.folder / "plots" / "reward.png").is_file()


def test_a_comparison_without_feedback_says_what_is_missing(tmp_path, model):
    with pytest.raises(NotEnoughFeedback, match="needs"):
        standings.compare(
            ["ppo", "kto"], TrainSettings(**SMALL), tmp_path, model_name_or_path=model
        )


def test_training_starts_from_the_adapter_in_service(tmp_path, model):
    fill(tmp_path)
    registry = AdapterRegistry(tmp_path)
    first = run(tmp_path, model, algo="sft")
    registry.promote(first.version)
    second = run(tmp_path, model, algo="sft")
    assert registry.info(second.version).lineage["parent"] == first.version
    assert second.verdict.incumbent == first.version
    fresh = run(tmp_path, model, algo="sft", init_from="base")
    assert registry.info(fresh.version).lineage["parent"] == "base"


def test_an_empty_store_says_what_is_missing_and_registers_nothing(tmp_path, model):
    with pytest.raises(NotEnoughFeedback, match="needs"):
        run(tmp_path, model)
    assert AdapterRegistry(tmp_path).list() == []
    (status,) = list_runs(tmp_path)
    assert status.state == "failed"


def test_ratings_without_a_preference_end_in_do_not_ship_without_a_candidate(tmp_path, model):
    fill(tmp_path, noise=0.5, seed=2)
    result = run(tmp_path, model)
    if result.version is None:  # refused before PPO
        assert "chance is 50 %" in result.message and "99 % interval" in result.message
        assert json.loads((result.folder / "verdict.json").read_text())["ship"] is False
    assert not result.ship


def test_resuming_an_unknown_run_is_an_error_that_lists_the_known_ones(tmp_path, model):
    with pytest.raises(NotFound, match="no run 'x'"):
        train(TrainSettings(), tmp_path, resume_run_id="x")


def test_killed_in_ppo_and_resumed_gives_the_same_adapter(tmp_path, model):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fill(whole)
    fill(cut)
    expected = run(whole, model)
    flags = [f"--{k}={v}" for k, v in SMALL.items() if k != "preference_epochs"]
    flags += [f"--home={cut}", f"--model_name_or_path={model}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dialog_rl", "train", *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(len(r.metrics()) > 3 for r in _runs(cut)):  # one of SFT, three of PPO
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (status,) = list_runs(cut)
    assert status.state == "interrupted"
    assert AdapterRegistry(cut).list() == []
    resumed = train(
        TrainSettings(), cut, resume_run_id=status.run_id, show_progress=False, gate=QUICK
    )
    name = "adapter/adapter_model.safetensors"
    assert (resumed.folder / name).read_bytes() == (expected.folder / name).read_bytes()
    mine, theirs = (load_checkpoint(r.folder / "checkpoints")[0] for r in (resumed, expected))
    assert set(mine) == set(theirs) >= {"value_head.weight", "value_head.bias"}
    assert bool(mine["value_head.weight"].any())
    assert all(torch.equal(mine[n], theirs[n]) for n in mine)  # critic and Adam's moments too
    assert len(AdapterRegistry(cut).list()) == 1


def _runs(home):
    from dialog_rl.runs import Run

    folder = home / "runs"
    found = folder.iterdir() if folder.is_dir() else []
    return [Run(p) for p in found if (p / "settings.json").is_file()]


def test_a_q_function_is_learned_from_logged_conversations_alone(tmp_path, model):
    fill(tmp_path)
    changes = {"algo": "q", "candidates": 2, "q_steps": 20, "total_episodes": 16}
    result = run(tmp_path, model, reward_funcs=("length",), learned_reward_weight=0.0, **changes)
    assert result.version is not None
    (info,) = AdapterRegistry(tmp_path).list()
    assert (info.path / "q_function.safetensors").is_file()
    learned = [r for r in list_runs_metrics(tmp_path) if r.get("stage") == "q"]
    assert len(learned) == 2
    assert learned[0]["turns"] == 16


def list_runs_metrics(home):
    (status,) = list_runs(home)
    return Run(home / "runs" / status.run_id).metrics()
