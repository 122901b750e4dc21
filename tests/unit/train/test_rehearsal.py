"""A corpus rehearsed beside PPO: its replies stay likely, and a resumed run rehearses the same."""

import pytest
import torch

from dialog_rl.bundled import train_dialogues, well_served
from dialog_rl.errors import NotEnoughFeedback
from dialog_rl.manager import DialogManager
from dialog_rl.policy import Policy
from dialog_rl.tasks import Task, TaskSet
from dialog_rl.train.rehearsal import Rehearsal, rehearsal_for, served
from dialog_rl.train.run_data import Examples
from dialog_rl.train_settings import TrainSettings
from tests.fakes import byte_tokenizer, tiny_model
from tests.unit.train.test_ppo import Recorder, make, weights

DIALOGUES = [
    {"messages": [{"role": "user", "content": u}, {"role": "assistant", "content": a}]}
    for u, a in [("hi", "yes"), ("who", "you"), ("how", "so"), ("when", "now"), ("why", "run")] * 2
]


def rows(dialogues=DIALOGUES):
    tokenizer = byte_tokenizer()
    model = tiny_model(len(tokenizer), layers=2, end_id=tokenizer.eos_token_id)
    examples = Examples(DialogManager(Policy(model, tokenizer, name="t")), 6)
    return served(examples, dialogues), examples


def rehearsing(folder, callbacks=None, **changes):
    trainer = make(folder, callbacks=callbacks, ptx_coef=1.0, **changes)
    trainer.rehearsal = Rehearsal(rows()[0], trainer.settings)
    return trainer


def loss_of(model, row):
    """By transformers' own loss, mean over the marked tokens."""
    ids, mask = torch.tensor([row[0]]), torch.tensor([row[1]])
    return model(input_ids=ids, labels=torch.where(mask, ids, -100)).loss


@torch.no_grad()
def nats_per_token(actor):
    merged = actor.decoder()
    return sum(float(loss_of(merged, row)) * sum(row[1]) for row in rows()[0]) / sum(
        sum(row[1]) for row in rows()[0]
    )


def test_only_well_served_turns_of_the_corpus_are_rehearsed():
    said = ["a", "bad", "b", "good", "c", "fine"]
    messages = [
        {"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)
    ]
    labels = [{"quality": "dull"}, {"quality": "good"}, {}]
    dialogue = {"messages": messages, "turns": labels}
    assert well_served(dialogue) == [3, 5]
    ((ids, mask),), _ = rows([dialogue])
    tokenizer = byte_tokenizer()
    marked = [i for i, own in zip(ids, mask, strict=True) if own]
    end = tokenizer.decode([tokenizer.eos_token_id])
    assert tokenizer.decode(marked) == f"good{end}fine{end}"
    assert "bad" in tokenizer.decode(ids)


def test_dialogues_without_a_good_turn_and_those_too_long_are_left_out():
    dull = {**DIALOGUES[0], "turns": [{"quality": "dull"}]}
    long = {
        "messages": [
            {"role": "user", "content": "long " * 1000},
            {"role": "assistant", "content": "yes"},
        ]
    }
    kept, examples = rows([dull, long, DIALOGUES[1]])
    assert len(kept) == 1 and examples.left_out == 1


def test_the_bundled_dialogues_are_a_corpus():
    labels = [turn["quality"] for d in train_dialogues() for turn in d["turns"]]
    assert sum(len(well_served(d)) for d in train_dialogues()) == labels.count("good") > 1000


def test_in_an_environment_of_one_turn_the_files_answers_are_rehearsed():
    _, examples = rows()
    tasks = [
        Task(name=answer, ask="hi", source="hi", reference=answer, split=None)
        for answer in ("salut", "too long", "")
    ]
    whole = TaskSet(train=tuple(tasks), test=())
    settings = TrainSettings(ptx_coef=1.0)
    found = rehearsal_for(settings, examples, whole)
    assert found is not None and rehearsal_for(TrainSettings(), examples, whole) is None
    ((ids, mask),) = found.rows
    assert byte_tokenizer().decode(ids[mask][:-1]) == "salut"


def test_an_empty_corpus_is_refused_in_a_sentence():
    with pytest.raises(NotEnoughFeedback, match="nothing to rehearse"):
        Rehearsal([], TrainSettings(ptx_coef=1.0))


def test_the_loss_and_its_slopes_are_the_weighted_negative_log_likelihood_s(tmp_path):
    trainer = make(tmp_path, ptx_coef=0.25, num_mini_batches=1, num_ppo_epochs=1)
    (row, *_), _ = rows()
    (own,) = Rehearsal([row], trainer.settings).draw(trainer.actor, 0)
    parameters = [*trainer.actor.adapter_parameters().values()]
    slopes, told = own(parameters, trainer.actor.merged())
    loss = loss_of(trainer.actor.policy, row)
    assert told["loss/ptx_avg"] == pytest.approx(float(loss.detach()), rel=1e-4)
    for found, expected in zip(slopes, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(found, 0.25 * expected, rtol=1e-3, atol=1e-6)


def test_every_sequence_comes_once_before_any_comes_twice(tmp_path, monkeypatch):
    trainer = make(tmp_path, ptx_coef=1.0)  # four steps an update
    rehearsal = Rehearsal(rows()[0][:5], trainer.settings)
    read, trunk = [], trainer.actor.trunk

    def note(own):
        read.extend(own.ids.tolist())
        return trunk(own)

    monkeypatch.setattr(trainer.actor, "trunk", note)
    for update in range(5):
        rehearsal.draw(trainer.actor, update)
    said = [d["messages"][0]["content"] for d in DIALOGUES[:5]]
    texts = [byte_tokenizer().decode(ids) for ids in read]
    assert len(texts) == 5 * 4
    assert {sum(f">{word}<" in text for text in texts) for word in said} == {4}


def test_what_is_rehearsed_stays_likely_while_the_reward_pulls_away(tmp_path):
    run = {"total_episodes": 320, "kl_coef": 0.0, "kl_target": 0.0, "learning_rate": 2e-2}
    seen = Recorder()
    alone = make(tmp_path / "a", **run)
    both = rehearsing(tmp_path / "b", callbacks=[seen], **run)
    start = nats_per_token(alone.actor)
    alone.train()
    both.train()
    told = [log["loss/ptx_avg"] for log in seen.logs if "loss/ptx_avg" in log]
    assert len(told) == 20 and told[-1] < told[0]
    assert nats_per_token(both.actor) < min(start, nats_per_token(alone.actor))
    scores = [log["objective/scores"] for log in seen.logs if "objective/scores" in log]
    assert sum(scores[-3:]) > sum(scores[:3])  # and the reward rises all the same


def test_a_resumed_run_rehearses_what_it_would_have(tmp_path):
    whole = rehearsing(tmp_path / "whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        rehearsing(tmp_path / "cut", callbacks=[Recorder(die_at=2)]).train()
    resumed = rehearsing(tmp_path / "cut")
    resumed.train(resume_from_checkpoint=True)
    assert all(torch.equal(t, weights(whole)[n]) for n, t in weights(resumed).items())
