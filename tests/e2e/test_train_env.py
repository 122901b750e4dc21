"""``dialog-rl train --env``: from the command to the verdict, with nobody's ratings."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from dialog_rl.cli import main
from dialog_rl.config import GateSettings
from dialog_rl.errors import ConfigError
from dialog_rl.registry import Q_FUNCTION, WEIGHTS, AdapterRegistry
from dialog_rl.runs import Run, list_runs
from dialog_rl.train.pipeline import train
from dialog_rl.train_settings import ENV_DEFAULTS, TrainSettings
from tests.fakes import save_tiny_model
from tests.unit.envs.conftest import cinema

SMALL = {
    "total_episodes": 48,
    "batch_size": 8,
    "num_generations": 2,
    "num_ppo_epochs": 1,
    "response_length": 12,
    "lora_r": 2,
    "save_steps": 2,
    "temperature": 1.0,
    "dtype": "float32",
    "num_threads": 1,
    "max_seconds": 1e6,
    "test_conversations": 6,
}
QUICK = GateSettings(num_prompts=6)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    path = tmp_path_factory.mktemp("domain") / "cinema.json"
    path.write_text(json.dumps(cinema()))
    return str(path)


def test_the_bundled_model_trains_with_simulated_users_and_is_judged_on_unseen_ones(tmp_path):
    torch.set_num_threads(1)
    changes = {**SMALL, "total_episodes": 16, "response_length": 32, "ptx_coef": 0.1}
    result = train(
        TrainSettings.with_env("concierge", **changes), tmp_path, show_progress=False, gate=QUICK
    )
    assert result.version is not None
    (info,) = AdapterRegistry(tmp_path).list()
    assert info.lineage["settings"]["env"] == "concierge"
    assert AdapterRegistry(tmp_path).current() == "base"
    records = [json.loads(x) for x in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [1, 2]
    assert {
        "rewards/env_turn/mean",
        "rewards/env_grounding/mean",
        "rewards/env_progress/mean",
        "rewards/env_idle/mean",
        "dialogues/success",
        "objective/kl",
        "loss/ptx_avg",
    } <= set(records[0])
    assert records[1]["turns"] > records[0]["turns"] >= 8  # replies said to simulated users
    verdict = json.loads((result.folder / "verdict.json").read_text())
    by_name = {m["name"]: m for m in verdict["measures"]}
    assert by_name["success"]["ok"] == (by_name["success"]["low"] > 0)
    assert by_name["success"]["candidate"] - by_name["success"]["incumbent"] == pytest.approx(
        by_name["success"]["difference"]
    )
    assert {"wrong facts per reply", "replies per conversation", "grounding"} <= set(by_name)
    assert by_name["perplexity on the held-out corpus"]["ok"] is not None
    assert verdict["p_value"] is None
    assert verdict["counts"]["conversations with unseen users"] == 6
    assert (result.folder / "plots" / "reward.png").is_file()
    assert (result.folder / "verdict.html").is_file()


def flags_of(home, model, domain):
    flags = [f"--{k}={v}" for k, v in SMALL.items()]
    return [f"--env={domain}", f"--home={home}", f"--model_name_or_path={model}", *flags]


def test_killed_in_training_and_resumed_gives_the_same_adapter(tmp_path, model, domain):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    torch.set_num_threads(1)
    expected = train(
        TrainSettings.with_env(domain, **SMALL),
        whole,
        model_name_or_path=model,
        show_progress=False,
        gate=QUICK,
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "dialog_rl", "train", *flags_of(cut, model, domain)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        folder = cut / "runs"
        runs = [Run(p) for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
        if any(len(r.metrics()) > 2 for r in runs):
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (status,) = list_runs(cut)
    assert status.state == "interrupted"
    resumed = train(
        TrainSettings(), cut, resume_run_id=status.run_id, show_progress=False, gate=QUICK
    )
    name = "adapter/adapter_model.safetensors"
    assert (resumed.folder / name).read_bytes() == (expected.folder / name).read_bytes()
    assert len(AdapterRegistry(cut).list()) == 1


def test_settings_that_would_do_nothing_are_refused(tmp_path, capsys):
    for flags, said in (
        (["--turn_lam", "0.9"], "turn_lam has no effect without env"),
        (["--max_turns", "5"], "max_turns has no effect without env"),
        (
            ["--env", "concierge", "--credit", "dialogue", "--turn_gamma", "0.9"],
            "turn_gamma has no effect with credit dialogue",
        ),
        (
            ["--env", "concierge", "--algo", "kto"],
            "env concierge needs algo ppo, grpo, rloo, sft, q",
        ),
        (["--env", "concierge", "--algo", "grpo", "--credit", "turn"], "credit has no effect with"),
        (["--env", "concierge", "--algo", "sft", "--turn_cost", "1"], "turn_cost has no effect"),
        (["--candidates", "4"], "candidates has no effect with ppo (only with q)"),
        (["--env", "concierge", "--env_reward_weight", "0"], "no reward"),
    ):
        assert main(["train", "--home", str(tmp_path), *flags]) == 3
        assert said in capsys.readouterr().err
    assert main(["compare", "--home", str(tmp_path), "--env", "concierge"]) == 3
    assert not (tmp_path / "runs").exists()


def test_an_unknown_domain_is_one_line(tmp_path, capsys):
    assert main(["train", "--home", str(tmp_path), "--env", "nowhere"]) == 1
    assert "there is no domain 'nowhere'" in capsys.readouterr().err


def test_settings_for_simulated_users_need_no_ratings_and_can_be_changed():
    settings = TrainSettings.with_env("concierge")
    assert settings.learned_reward_weight == 0
    assert settings.reward_funcs == ()
    assert not settings.sft
    assert (settings.credit, settings.num_generations) == ("branch", 8)
    by_turn = TrainSettings.with_env("concierge", credit="turn")
    assert (by_turn.num_generations, by_turn.progress_weight) == (4, 0.0)
    assert TrainSettings.with_env("concierge", algo="grpo").credit == "turn"
    mixed = TrainSettings.with_env("concierge", reward_funcs=("length",), learned_reward_weight=2.0)
    assert mixed.rule_weights() == {"length": 1.0}
    assert mixed.max_seconds == ENV_DEFAULTS["max_seconds"]
    with pytest.raises(ConfigError, match="no reward"):
        TrainSettings.with_env("concierge", env_reward_weight=0.0)


@pytest.mark.parametrize("algo", ["grpo", "rloo"])
def test_the_other_algorithms_learn_from_conversations_too(tmp_path, model, domain, algo):
    torch.set_num_threads(1)
    changes = {**SMALL, "algo": algo, "total_episodes": 16, "learning_rate": 0.01}
    result = train(
        TrainSettings.with_env(domain, **changes),
        tmp_path,
        model_name_or_path=model,
        show_progress=False,
        gate=QUICK,
    )
    (info,) = AdapterRegistry(tmp_path).list()
    assert info.lineage["algo"] == algo
    assert any(t.abs().max() > 0 for n, t in load_file(info.path / WEIGHTS).items() if "_B" in n)
    records = Run(result.folder).metrics()
    updates = [r for r in records if "reward" in r]
    assert len(updates) == 2
    assert all(r["dialogues/turns"] >= 1 for r in updates)


def test_a_q_function_is_learned_judged_registered_and_picks_the_replies(
    tmp_path, model, domain, capsys
):
    torch.set_num_threads(1)
    changes = {**SMALL, "algo": "q", "total_episodes": 40, "candidates": 3, "q_steps": 5}
    result = train(
        TrainSettings.with_env(domain, **changes, total_turns=40),
        tmp_path,
        model_name_or_path=model,
        show_progress=False,
        gate=QUICK,
    )
    (info,) = AdapterRegistry(tmp_path).list()
    assert info.lineage["algo"] == "q"
    assert (info.path / Q_FUNCTION).read_bytes() == (
        result.folder / "adapter" / Q_FUNCTION
    ).read_bytes()
    weights = load_file(info.path / WEIGHTS)  # the policy is the base's: nothing added
    assert all(t.abs().max() == 0 for n, t in weights.items() if "lora_B" in n)
    updates = [r for r in Run(result.folder).metrics() if r.get("stage") == "q"]
    assert updates[0]["q/epsilon"] == 1.0
    assert updates[-1]["turns"] >= 40 > (updates[-2]["turns"] if len(updates) > 1 else 0)
    verdict = json.loads((result.folder / "verdict.json").read_text())
    assert "success" in {m["name"] for m in verdict["measures"]}
    flags = ["--conversations", "4", "--max_turns", "3", "--num_threads", "1", "--temperature", "1"]
    folder = tmp_path / "talks"
    common = ["--home", str(tmp_path), "--model_name_or_path", model, "--domain", domain, *flags]
    both = ["--version", info.version, "--version", "base", "--output_dir", str(folder)]
    assert main(["simulate", *common, *both, "--decode", "q", "--candidates", "3"]) == 0
    talks = [json.loads(x) for x in (folder / "transcripts.jsonl").read_text().splitlines()]
    by_version = {
        v: [s["reply"] for t in talks if t["version"] == v for s in t["steps"]]
        for v in (info.version, "base")
    }
    assert by_version[info.version] != by_version["base"]  # the same policy, but picked
    capsys.readouterr()
    assert main(["simulate", *common, "--decode", "q"]) == 3
    assert "decode q needs a version with a Q-function, base has none" in capsys.readouterr().err
    assert main(["simulate", *common, "--candidates", "3"]) == 3
    assert "candidates has no effect with decode sample" in capsys.readouterr().err
    assert main(["simulate", *common, "--decode", "best_of"]) == 1
    assert "holds no reward model" in capsys.readouterr().err
