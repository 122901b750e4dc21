"""What GRPO and RLOO are told by the actor is what TRL would have computed itself."""

from types import SimpleNamespace

import pytest
import torch
from trl import GRPOTrainer, RLOOTrainer

from dialog_rl.errors import TrainingError
from dialog_rl.train.actor import Actor
from dialog_rl.train.group_passes import ActorLogprobs
from dialog_rl.train.llama_layers import LlamaLayers
from dialog_rl.train_settings import TrainSettings
from tests.unit.train.test_group import Run as Replies
from tests.unit.train.test_group_dialogues import Run as Conversations

TRAINERS = {"grpo": GRPOTrainer, "rloo": RLOOTrainer}
SETTINGS = {"total_episodes": 48, "kl_coef": 0.1, "num_ppo_epochs": 2, "num_mini_batches": 2}
ASKED = 3 * (2 + 4)
"""Of three batches: old policy and reference, then two minibatches in each of two epochs."""


class Beside:
    """Computes every answer a second time, by TRL, and keeps the largest differences."""

    def __init__(self, monkeypatch, algo):
        self.logps, self.entropies, self.slopes, self.others = [], [], [], []
        self.references = 0
        ours = ActorLogprobs._get_per_token_logps_and_entropies
        theirs = TRAINERS[algo]._get_per_token_logps_and_entropies

        def both(trainer, model, ids, mask, keep, *args, **kwargs):
            found = ours(trainer, model, ids, mask, keep, *args, **kwargs)
            wanted = theirs(trainer, model, ids, mask, keep, *args, **kwargs)
            own = torch.zeros(len(ids), keep, dtype=torch.bool)
            for row, count in enumerate(mask[:, -keep:].sum(1).tolist()):
                said = ids[row, -keep:][:count].tolist()
                own[row, :count] = torch.tensor(trainer.own(said), dtype=torch.bool)
            self.compare(trainer, found, wanted, own)
            return ours(trainer, model, ids, mask, keep, *args, **kwargs)  # graphs serve once

        monkeypatch.setattr(ActorLogprobs, "_get_per_token_logps_and_entropies", both)

    def compare(self, trainer, found, wanted, own):
        self.logps.append(float((found[0] - wanted[0])[own].abs().max().detach()))
        self.others.append(float(found[0][~own].abs().max().detach()) if (~own).any() else 0.0)
        self.references += "ref" in trainer.model.active_adapters
        if wanted[1] is not None:
            self.entropies.append(float((found[1] - wanted[1])[own].abs().max().detach()))
        if torch.is_grad_enabled():
            weights = torch.arange(own.numel()).reshape(own.shape) * own
            parameters = [p for p in trainer.model.parameters() if p.requires_grad]
            got, due = (
                torch.autograd.grad((x[0] * weights).sum(), parameters, retain_graph=True)
                for x in (found, wanted)
            )
            scale = max(float(g.abs().max()) for g in due)
            self.slopes.append(
                max(float((a - b).abs().max()) for a, b in zip(got, due, strict=True)) / scale
            )


def check(beside):
    assert len(beside.logps) == ASKED
    assert beside.references == 3
    assert max(beside.logps) < 5e-5  # the last places of float32
    assert max(beside.others) == 0.0
    assert len(beside.entropies) == len(beside.slopes) == 12
    assert max(beside.entropies) < 1e-5
    assert max(beside.slopes) < 1e-4


@pytest.mark.parametrize("layers", ["all", "top_half"])
@pytest.mark.parametrize("algo", ["grpo", "rloo"])
def test_of_replies(tmp_path, monkeypatch, algo, layers):
    beside = Beside(monkeypatch, algo)
    Replies(tmp_path, algo=algo, layers=layers, **SETTINGS)
    check(beside)


@pytest.mark.parametrize("layers", ["all", "top_half"])
@pytest.mark.parametrize("algo", ["grpo", "rloo"])
def test_of_conversations(tmp_path, monkeypatch, algo, layers):
    beside = Beside(monkeypatch, algo)
    Conversations(algo=algo, layers=layers, **SETTINGS).group(tmp_path)
    check(beside)


@pytest.mark.parametrize(("kept", "times"), [(False, 2), (True, 0)])
def test_the_frozen_layers_run_once_for_old_policy_and_reference_and_once_for_all_epochs(
    tmp_path, monkeypatch, kept, times
):
    """And not at all where decoding has kept what they made."""
    rows = []
    trunk = LlamaLayers.trunk

    def counted(layers, p, *rest):
        rows.append(len(set(p.episodes.tolist())))
        return trunk(layers, p, *rest)

    monkeypatch.setattr(LlamaLayers, "trunk", counted)
    changes = SETTINGS | {"total_episodes": 16}
    run = Conversations(algo="grpo", layers="top_half", kept=kept, **changes)
    probed = sum(rows)  # by the actor when it was made
    run.group(tmp_path)
    assert sum(rows) - probed == times * 16


def test_the_frozen_layers_do_not_run_over_replies_that_were_just_decoded(tmp_path, monkeypatch):
    asked = []
    trunk = Actor.trunk

    def noted(actor, p):
        asked.append(p.states is not None)
        return trunk(actor, p)

    monkeypatch.setattr(Actor, "trunk", noted)
    Replies(tmp_path, algo="rloo", layers="top_half", **SETTINGS)
    probes = asked.index(True)  # by the actor when it was made
    assert all(asked[probes:])


def test_several_processes_are_refused_before_the_first_step():
    trainer = ActorLogprobs()
    trainer.accelerator = SimpleNamespace(num_processes=2)
    with pytest.raises(TrainingError, match="rloo runs in one process so far"):
        trainer.answer_by(None, TrainSettings(algo="rloo"))


@pytest.mark.parametrize("algo", ["grpo", "rloo"])
def test_a_batch_in_which_nobody_could_be_scored_moves_nothing(tmp_path, algo):
    run = Conversations(algo=algo, total_episodes=16)
    before = {n: p.detach().clone() for n, p in run.actor.adapter_parameters().items()}
    held = run.collector
    run.collector = lambda update, decoder: [None] * len(held(update, decoder))
    run.group(tmp_path)
    after = run.actor.adapter_parameters()
    assert all(torch.equal(p, after[n]) for n, p in before.items())
