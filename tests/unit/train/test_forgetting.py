"""PPO looks at a corpus before every checkpoint, and ends in no state that has forgotten it."""

import math

import pytest
import torch

from dialog_rl.manager import DialogManager
from dialog_rl.policy import Policy
from dialog_rl.scoring import Scored
from dialog_rl.tasks import Task, TaskSet
from dialog_rl.train.checkpoints import load_checkpoint
from dialog_rl.train.forgetting import REPLIES, CorpusCheck, corpus_check
from dialog_rl.train_settings import TrainSettings
from tests.fakes import byte_tokenizer, tiny_model
from tests.unit.train.test_ppo import Recorder, make, weights

PULLS = {"total_episodes": 320, "kl_coef": 0.0, "kl_target": 0.0, "learning_rate": 2e-2}
"""A run that goes as far from the start as the reward draws it."""


def corpus():
    """Prompts and replies as the byte tokenizer writes them."""
    tokenizer = byte_tokenizer()
    talks = [("hi", "yes"), ("who", "you"), ("how", "so"), ("why", "run")]
    return [Scored.reply(tokenizer(u)["input_ids"], tokenizer(a)["input_ids"]) for u, a in talks]


@torch.no_grad()
def perplexity(actor):
    """By transformers' own loss on the merged model."""
    model, nats, tokens = actor.decoder(), 0.0, 0
    for row in corpus():
        ids = torch.tensor([row.ids])
        labels = torch.full_like(ids, -100)
        labels[0, list(row.positions)] = ids[0, list(row.positions)]
        nats += float(model(input_ids=ids, labels=labels).loss) * len(row.positions)
        tokens += len(row.positions)
    return math.exp(nats / tokens)


def test_the_rise_is_that_of_transformers_own_perplexity(tmp_path):
    actor = make(tmp_path).actor
    check, before = CorpusCheck(corpus(), actor), perplexity(actor)
    assert check.rise() == pytest.approx(0.0, abs=1e-6)
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in actor.adapter_parameters().values():
            tensor += 0.3 * torch.randn_like(tensor)
    after = perplexity(actor)
    assert abs(after / before - 1) > 0.01
    assert check.rise() == pytest.approx(after / before - 1, rel=1e-3)


def test_a_run_that_has_forgotten_goes_back_to_the_last_state_that_had_not(tmp_path):
    free, told = make(tmp_path / "free", **PULLS), Recorder()
    unseen = CorpusCheck(corpus(), free.actor)
    free.train()
    assert unseen.rise() > 0.5
    held = make(tmp_path / "held", callbacks=[told], **PULLS, max_perplexity_rise=0.2)
    held.corpus = CorpusCheck(corpus(), held.actor)
    result = held.train()
    assert result.stopped is not None
    assert result.stopped.startswith("at its end perplexity on the corpus had risen by ")
    assert result.stopped.endswith("% (max_perplexity_rise is 0.2)")
    assert max(log.get("episode", 0) for log in told.logs) == 320  # it had gone on
    assert 0 < result.updates == held.progress.update < 20
    assert held.corpus.rise() <= 0.2
    kept, _ = load_checkpoint(tmp_path / "held")
    assert all(torch.equal(t, kept[n]) for n, t in held.actor.tensors().items())


def test_a_run_that_comes_back_ends_where_it_would_have(tmp_path):
    alone, watched = make(tmp_path / "a"), make(tmp_path / "b", max_perplexity_rise=0.2)
    rises = iter([0.1, 0.5, 0.5, *[0.1] * 100])

    class Comes:
        def rise(self):
            return next(rises)

    watched.corpus = Comes()
    alone.train()
    assert watched.train().stopped is None
    expected = weights(alone)
    assert all(torch.equal(t, expected[n]) for n, t in weights(watched).items())


def test_a_run_that_does_not_forget_goes_on_as_if_nobody_looked(tmp_path):
    alone, watched = make(tmp_path / "a"), make(tmp_path / "b", max_perplexity_rise=100.0)
    watched.corpus = CorpusCheck(corpus(), watched.actor)
    assert alone.train().stopped is None
    assert watched.train().stopped is None
    expected = weights(alone)
    assert all(torch.equal(t, expected[n]) for n, t in weights(watched).items())


def test_the_last_state_is_looked_at_too(tmp_path):
    trainer = make(tmp_path, **PULLS, max_perplexity_rise=0.2, save_steps=1000)
    trainer.corpus = CorpusCheck(corpus(), trainer.actor)
    result = trainer.train()
    assert result.updates == 0 and result.stopped is not None
    assert trainer.corpus.rise() == pytest.approx(0.0, abs=1e-6)


def manager(context=512):
    tokenizer = byte_tokenizer()
    model = tiny_model(
        len(tokenizer), layers=2, end_id=tokenizer.eos_token_id, max_positions=context
    )
    return DialogManager(Policy(model, tokenizer, name="t"))


def test_the_corpus_is_the_bundled_dialogues_training_part_or_the_task_files_answers(tmp_path):
    actor, settings = make(tmp_path).actor, TrainSettings(response_length=6)
    found = corpus_check(settings, manager(8192), None, actor)
    assert found is not None and 0 < len(found.passes) <= REPLIES
    assert max(own.ids.numel() for own in found.passes) <= manager(8192).context_budget
    assert corpus_check(settings, manager(160), None, actor) is None
    tasks = [
        Task(name=answer, ask="hi", source="hi", reference=answer, split=None)
        for answer in ("salut", "too long", "")
    ]
    found = corpus_check(settings, manager(), TaskSet(train=tuple(tasks), test=()), actor)
    assert found is not None and [len(own.targets) for own in found.passes] == [len("salut") + 1]
    assert corpus_check(settings, manager(), TaskSet(train=(), test=()), actor) is None
