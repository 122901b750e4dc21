"""Who does what in a run of several processes."""

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dialog_rl.errors import ConfigError
from dialog_rl.rollout import Batch, Episode, TrainingPrompt, Turn, make_batch
from dialog_rl.train import team as team_module
from dialog_rl.train.team import ALONE, Team, join_team
from dialog_rl.train_settings import TrainSettings


@given(st.integers(0, 60), st.integers(1, 7), st.integers(1, 9))
def test_every_thing_is_somebodys_and_what_belongs_together_stays_together(count, each, size):
    things = list(range(count))
    shares = [things[Team(rank, size).share(count, each)] for rank in range(size)]
    assert [thing for share in shares for thing in share] == things
    owners = [{thing // each for thing in share} for share in shares]
    assert sum(map(len, owners)) == len(set().union(*owners))
    sizes = [len(own) for own in owners]
    assert max(sizes) - min(sizes) <= 1


def batch_of(count):
    episodes = [
        Episode(
            prompt=TrainingPrompt(messages=(), ids=(1,) * (3 + k % 5)),
            turns=(Turn(ids=(2, 3), logprobs=(-1.0, -1.0)),),
        )
        for k in range(count)
    ]
    return make_batch(episodes, 2, torch.device("cpu"))


def test_passes_are_dealt_out_and_all_know_the_whole_batch():
    whole = batch_of(14)
    parts: list[Batch] = [Team(rank, 3).passes(whole) for rank in range(3)]
    assert all(part.episodes == whole.episodes for part in parts)
    read = torch.cat([p.episodes for part in parts for p in part.passes])
    assert sorted(read.tolist()) == sorted(2 * list(range(14)))
    widths = [sum(p.ids.numel() for p in part.passes) for part in parts]
    assert max(widths) < 1.8 * min(widths)


def test_one_process_exchanges_nothing():
    tensor = torch.ones(2)
    ALONE.sum_([tensor])
    assert tensor.tolist() == [1.0, 1.0]
    assert ALONE.gathered([1, 2]) == [1, 2]
    assert ALONE.call("run") == "run"
    assert ALONE.passes(whole := batch_of(4)) is whole
    ALONE.check(TrainSettings(algo="kto"))


@pytest.mark.parametrize(
    ("changes", "size", "reason"),
    [
        ({"algo": "grpo"}, 2, "only ppo trains in several processes, grpo in one"),
        ({"batch_size": 8, "num_generations": 4}, 3, "is 2 prompts, too few for 3 processes"),
    ],
)
def test_a_run_in_which_some_would_have_nothing_to_do_is_refused(changes, size, reason):
    with pytest.raises(ConfigError, match=reason):
        Team(0, size).check(TrainSettings(**changes))


@pytest.mark.parametrize(
    ("visible", "local_rank", "seen"),
    [(None, 1, "1"), ("4,6", 1, "6"), ("GPU-a,GPU-b", 0, "GPU-a"), ("", 1, "")],
)
def test_each_process_sees_one_of_the_gpus_it_was_given(monkeypatch, visible, local_rank, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    team_module._see_one_gpu(local_rank)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_a_process_that_nobody_launched_works_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join_team() is ALONE
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join_team() is ALONE
