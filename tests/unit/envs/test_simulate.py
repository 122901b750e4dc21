"""Simulated conversations: the same users for everybody, whatever the batch."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dialog_rl.cli import main
from dialog_rl.config import SimulateSettings
from dialog_rl.conversation import SamplingParams
from dialog_rl.envs.dialog_env import DialogEnv
from dialog_rl.envs.measures import MEASURES, Episode
from dialog_rl.errors import DataError
from dialog_rl.manager import DialogManager
from dialog_rl.simulate import converse, model_agent, scripted_agent, simulate
from tests.fakes import save_tiny_adapter, save_tiny_model, tiny_policy


def talk(cinema_file: Path, batch_size: int, count: int = 5, groups: int = 1) -> list[Episode]:
    params = SamplingParams(max_new_tokens=8, temperature=1.0)
    manager = DialogManager(tiny_policy(), params=params)
    return converse(
        model_agent(manager, "base"),
        lambda: DialogEnv(cinema_file, max_turns=3),
        range(10, 10 + count),
        batch_size=batch_size,
        version="base",
        groups=groups,
    )


def test_a_conversation_does_not_depend_on_the_batch_it_is_held_in(cinema_file: Path) -> None:
    together = talk(cinema_file, 5)
    assert together == talk(cinema_file, 2)
    assert [e.seed for e in together] == [10, 11, 12, 13, 14]
    assert len({e.steps[0].reply for e in together}) > 1
    assert {len(e.steps) for e in together} <= {1, 2, 3}
    assert "cut_off" in {e.ended for e in together}


def test_two_groups_at_once_share_the_queue_and_hold_the_same_conversations(
    cinema_file: Path,
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert talk(cinema_file, 4, 12, groups=2) == talk(cinema_file, 12, 12)
    finally:
        torch.set_num_threads(before)


def test_an_agent_that_fails_in_a_group_ends_the_call_with_its_error() -> None:
    def broken(envs: Any, seeds: Any, turn: Any) -> list[str]:
        raise DataError("no reply today")

    with pytest.raises(DataError, match="no reply today"):
        converse(broken, DialogEnv, range(8), batch_size=4, version="broken", groups=2)


def test_conversations_that_end_make_room_for_the_next() -> None:
    sizes = []
    agent = scripted_agent()

    def counted(envs: Any, seeds: Any, turn: Any) -> list[str]:
        sizes.append(len(envs))
        return agent(envs, seeds, turn)

    ended: list[Episode] = []
    episodes = converse(
        counted, DialogEnv, range(40), batch_size=8, version="scripted", ended=ended.append
    )
    assert sorted(e.seed for e in ended) == list(range(40))
    assert all(e.success for e in episodes)
    assert set(sizes[: len(sizes) // 2]) == {8}
    assert sum(sizes) == sum(len(e.steps) for e in episodes)


def test_versions_meet_the_same_users_and_everything_is_written(
    tmp_path: Path, cinema_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_tiny_model(tmp_path / "model")
    argv = f"simulate --home {tmp_path / 'home'} --model_name_or_path {model} --seed 3"
    argv += f" --domain {cinema_file} --conversations 6 --max_turns 2 --max_new_tokens 4"
    argv += f" --version base --version scripted --output_dir {tmp_path / 'out'}"
    assert main(argv.split()) == 0
    out = capsys.readouterr().out
    assert "success of scripted minus base" in out
    assert str(tmp_path / "out" / "transcripts.html") in out
    lines = (tmp_path / "out" / "transcripts.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    seeds = {v: [r["seed"] for r in records if r["version"] == v] for v in ("base", "scripted")}
    assert seeds["base"] == seeds["scripted"] == [3, 4, 5, 6, 7, 8]
    openings = {
        v: [r["messages"][:2] for r in records if r["version"] == v] for v in ("base", "scripted")
    }
    assert openings["base"] == openings["scripted"]
    for record in records:
        rewards = sum(sum(step["reward_parts"].values()) for step in record["steps"])
        assert record["return"] == pytest.approx(rewards)
    home = tmp_path / "rated"
    assert main(["import", "--home", str(home), str(tmp_path / "out" / "ratings.jsonl")]) == 0
    replies = sum(len(record["steps"]) for record in records)
    assert f"{replies} kept, 0 already there, 0 refused" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "measures.json").read_text())
    assert set(written["measures"]) == {"base", "scripted"}
    assert set(written["measures"]["base"]) == set(MEASURES)
    assert written["measures"]["base"]["distinct_1"]["low"] is None
    assert written["success_gains"]["scripted"]["value"] >= 0
    assert written["base_id"].startswith("model")


def test_a_registered_adapter_answers(tmp_path: Path, cinema_file: Path) -> None:
    from dialog_rl.policy import Policy
    from dialog_rl.registry import AdapterRegistry

    model = save_tiny_model(tmp_path / "model")
    policy = Policy.load(str(model))
    adapter = save_tiny_adapter(tmp_path / "adapter", policy.model)
    registry = AdapterRegistry(tmp_path / "home")
    version = registry.register(adapter, lineage={"base_id": policy.base_id})
    settings = SimulateSettings(
        version=("base", version),
        domain=str(cinema_file),
        conversations=3,
        max_turns=1,
        max_new_tokens=6,
        temperature=0,
    )
    done = simulate(settings, home=tmp_path / "home", model_name_or_path=str(model))
    replies = {v: [e.steps[0].reply for e in done.episodes[v]] for v in done.episodes}
    assert replies["base"] != replies[version]


def test_the_reference_agent_needs_no_model(tmp_path: Path) -> None:
    settings = SimulateSettings(version=("scripted",), conversations=30)
    done = simulate(settings, home=tmp_path, model_name_or_path="nowhere/at-all")
    assert done.measures["scripted"]["success"].value == 1.0
    assert done.base_id == ""


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ("--version v9-nothing", 1, "v9-nothing"),
        ("--domain opera --version scripted", 1, "there is no domain 'opera'"),
        ("--conversations 0", 3, "conversations must be between 1 and"),
        ("--split dev", 3, "'dev'"),
        ("--version base --version base", 3, "version 'base' is given twice"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_line(
    flags: str, code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--home", str(tmp_path), *flags.split()]) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err
