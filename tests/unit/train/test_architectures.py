"""The whole path on small random models of many families, each with its own kind of template.

Prompt ids, reply masks, decoding beside training, one PPO update, and the adapter in plain peft.
"""

from functools import cache

import pytest
import torch
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dialog_rl.adapters import merge_adapter
from dialog_rl.conversation import SamplingParams
from dialog_rl.rollout import Episode, TrainingPrompt, Turn, make_batch
from dialog_rl.train.actor import Actor
from dialog_rl.train.collect import Collector, LoggedPrompts
from dialog_rl.train.guards import LOGPROB_TOLERANCE, check_mask
from dialog_rl.train.ppo import DialogPPOTrainer
from dialog_rl.train_settings import TrainSettings
from reward_models.backbone import share_parameters
from reward_models.base import Message
from reward_models.chat_template import (
    check_reply_mask,
    render_dialogue,
    render_ids,
    render_reply_ids,
)
from reward_models.composite import CompositeReward
from reward_models.errors import PolicyError
from tests.fakes import FAMILIES, TEMPLATES, family_policy, trained_tokenizer

NAMES = sorted(FAMILIES)
MODELS = [(name, tied) for name in NAMES for tied in (True, False)]
IDS = [f"{name}-{'tied' if tied else 'untied'}" for name, tied in MODELS]
FROZEN = {name: 2 for name in NAMES} | {
    "gpt2": 0,  # adds its position embeddings to whatever enters the first layer
    "qwen2-sliding": 0,  # its lower half attends to everything, its upper half slides
}
PACKED = {"llama", "qwen2", "qwen3", "gpt2", "gemma", "phi"}  # the others slide
TALK: list[Message] = [
    {"role": "system", "content": "Rooms: Anchor Inn, 40."},
    {"role": "user", "content": "Is there a cheap hotel, for two  nights?"},
    {"role": "assistant", "content": "Anchor Inn is a cheap hotel."},
    {"role": "user", "content": "merci, ça va \U0001f642"},
    {"role": "assistant", "content": "You are welcome, have a nice stay!"},
    {"role": "user", "content": "Which day?"},
]


@cache
def tokenizer_of(name):
    return trained_tokenizer(FAMILIES[name].template, FAMILIES[name].pieces)


@pytest.mark.parametrize("name", NAMES)
def test_prompt_ids_are_those_of_the_family_s_own_template(name):
    tokenizer = tokenizer_of(name)
    for talk in (TALK[1:2], TALK[1:4], TALK[1:]):
        expected = tokenizer.apply_chat_template(
            talk, add_generation_prompt=True, enable_thinking=False
        )["input_ids"]
        assert render_ids(tokenizer, talk) == expected
    assert len(set(expected)) > 30  # words are merged, characters that were never seen are bytes


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("gemma", "gemma2")])
def test_a_system_prompt_stands_where_the_template_puts_it(name):
    tokenizer = tokenizer_of(name)
    expected = tokenizer.apply_chat_template(
        TALK, add_generation_prompt=True, enable_thinking=False
    )["input_ids"]
    assert render_ids(tokenizer, TALK) == expected


@pytest.mark.parametrize("name", ["gemma", "gemma2"])
def test_a_family_without_a_system_role_gets_it_at_the_head_of_the_first_user_turn(name):
    tokenizer = tokenizer_of(name)
    head = f"{TALK[0]['content']}\n\n{TALK[1]['content']}"
    folded = [{"role": "user", "content": head}, *TALK[2:]]
    expected = tokenizer.apply_chat_template(folded, add_generation_prompt=True)["input_ids"]
    assert render_ids(tokenizer, TALK) == expected


@pytest.mark.parametrize("name", ["gemma3", "mistral"])
def test_a_family_whose_roles_must_alternate_says_so_in_one_line(name):
    with pytest.raises(PolicyError, match=r"refuses the roles \[user, user\]: roles must altern"):
        render_ids(tokenizer_of(name), [TALK[1], TALK[3]])


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_typed_by_a_person_stay_text(name):
    tokenizer = tokenizer_of(name)
    specials = TEMPLATES[FAMILIES[name].template][1]
    typed = "see " + " ".join(specials) + " and" + "".join(specials) + "so"
    special = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}

    def controls(text):
        talk = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
        return [i for i in render_dialogue(tokenizer, talk)[0] if i in special]

    assert controls(typed) == controls("plain")


@pytest.mark.parametrize("name", [n for n in NAMES if n != "qwen3"])
def test_the_mask_of_a_dialogue_covers_each_reply_with_its_end_and_nothing_else(name):
    tokenizer = tokenizer_of(name)
    check_reply_mask(tokenizer, 2)
    talk = TALK[1:5]
    ids, mask = render_dialogue(tokenizer, talk)
    # by hand: after the prompt of each reply, as many tokens as that reply has
    expected = [False] * len(ids)
    for turn in (1, 3):
        begin = len(render_ids(tokenizer, talk[:turn]))
        for k in range(len(render_reply_ids(tokenizer, talk[turn]["content"]))):
            expected[begin + k] = True
    assert mask == expected
    inside = tokenizer.decode([i for i, own in zip(ids, mask, strict=True) if own])
    outside = tokenizer.decode([i for i, own in zip(ids, mask, strict=True) if not own])
    end = TEMPLATES[FAMILIES[name].template][2]
    assert "".join(inside.split()) == "".join(
        f"{talk[1]['content']}{end}{talk[3]['content']}{end}".split()
    )
    assert talk[1]["content"] not in outside
    assert talk[3]["content"] not in outside


def test_a_template_that_rewrites_earlier_turns_trains_single_replies_but_no_dialogues():
    tokenizer = tokenizer_of("qwen3")  # leaves the empty thoughts out of earlier turns
    check_reply_mask(tokenizer, 1)
    with pytest.raises(PolicyError, match=r"turn 1 differently.*set tokenizer.chat_template"):
        check_reply_mask(tokenizer, 2)


def test_a_mask_that_would_cover_something_else_is_refused():
    tokenizer = trained_tokenizer("chatml")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ m['content'] }}<|im_end|>",
        "{% if m['role'] == 'assistant' %}Well, {% endif %}{{ m['content'] }}<|im_end|>",
    )
    with pytest.raises(PolicyError, match=r"would see \['Well, violet'\]"):
        check_reply_mask(tokenizer, 1)


def test_a_tokenizer_of_whole_words_is_tried_with_words_of_its_own():
    words = {w: n for n, w in enumerate(("<unk>", "hotel", "cheap", "table", "people"))}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="</s>", additional_special_tokens=["<user>", "<bot>"]
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<user>' if m['role'] == 'user' else '<bot>' }}"
        "{{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
    )
    check_reply_mask(tokenizer, 2)


def wake(actor, size=0.1):
    """Give the adapter weights that matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in actor.adapter_parameters().values():
            p.copy_(size * torch.randn(p.shape, generator=generator))


def prompts_of(policy):
    """Prompts of one to three turns; all are longer than the attention windows."""
    return [
        TrainingPrompt(messages=tuple(talk), ids=tuple(render_ids(policy.tokenizer, talk)))
        for talk in (TALK[:2], TALK[1:4], TALK, TALK[1:2])
    ]


@pytest.mark.parametrize(("name", "tied"), MODELS, ids=IDS)
def test_sampling_and_training_agree_on_every_token(name, tied):
    policy = family_policy(name, tied=tied)
    actor = Actor(policy.model, lora_r=2, lora_alpha=2.0, lora_layers="top_half")
    wake(actor)
    prompts = [p for p in prompts_of(policy) for _ in range(2)]
    drawn = policy.generate(
        [p.ids for p in prompts],
        SamplingParams(temperature=0.7, top_p=1.0, max_new_tokens=24),
        seeds=range(len(prompts)),
        model=actor.decoder(),
    )
    episodes = [
        Episode(
            prompt=prompt,
            turns=(Turn(ids=reply.ids, logprobs=reply.logprobs, text=reply.text),),
        )
        for prompt, reply in zip(prompts, drawn, strict=True)
    ]
    assert (actor.frozen_layers, actor.can_pack) == (FROZEN[name], name in PACKED)
    batch = make_batch(episodes, 3, actor.device, pack=actor.can_pack)
    check_mask(batch, policy.tokenizer)
    found = torch.zeros(batch.mask.shape)
    with torch.no_grad():
        for p in batch.passes:
            found[p.episodes, p.steps] = actor.score(actor.trunk(p), p, 0.7).logprobs
    assert batch.mask.sum() > 60
    assert torch.allclose(found, batch.sampled_logprobs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_a_base_in_bfloat16_samples_and_trains_within_its_rounding(name):
    policy = family_policy(name)
    policy.model.to(torch.bfloat16)
    actor = Actor(policy.model, lora_r=2, lora_alpha=2.0)
    assert actor.dtype == torch.bfloat16
    assert {p.dtype for p in actor.adapter_parameters().values()} == {torch.float32}
    prompts = prompts_of(policy)
    sampling = SamplingParams(temperature=0.7, top_p=1.0, max_new_tokens=24)
    drawn = policy.generate([p.ids for p in prompts], sampling, range(4), model=actor.decoder())
    episodes = [
        Episode(prompt=p, turns=(Turn(ids=d.ids, logprobs=d.logprobs),))
        for p, d in zip(prompts, drawn, strict=True)
    ]
    batch = make_batch(episodes, 2, actor.device, pack=actor.can_pack)
    gaps = []
    for p in batch.passes:
        scored = actor.score(actor.trunk(p), p, 0.7)
        scored.logprobs.sum().backward()
        gaps.append((scored.logprobs.detach() - batch.sampled_logprobs[p.episodes, p.steps]).abs())
    assert 1e-6 < float(torch.cat(gaps).mean()) < LOGPROB_TOLERANCE[torch.bfloat16]
    assert all(bool(p.grad.isfinite().all()) for p in actor.adapter_parameters().values())


def letters(prompts, completions, **columns):
    """Something to tell replies apart by."""
    return [float(len(set(c[0]["content"]))) for c in completions]


@pytest.mark.parametrize(("name", "tied"), MODELS, ids=IDS)
def test_one_update_moves_adapter_and_critic_only_and_plain_peft_reads_the_result(
    name, tied, tmp_path
):
    policy = family_policy(name, tied=tied)
    before = {n: t.clone() for n, t in policy.model.state_dict().items()}
    settings = TrainSettings(
        total_episodes=8,
        batch_size=8,
        num_generations=2,
        num_mini_batches=2,
        num_ppo_epochs=1,
        response_length=12,
        learning_rate=1e-2,
        lora_r=2,
        dtype="float32",
        max_seconds=1e6,
    )
    sampling = settings.rollout_sampling()
    actor = Actor(policy.model, lora_r=2, lora_layers=settings.adapted_layers())
    start = {n: t.clone() for n, t in actor.tensors().items()}
    logs = []
    trainer = DialogPPOTrainer(
        actor=actor,
        tokenizer=policy.tokenizer,
        collector=Collector(
            LoggedPrompts(prompts_of(policy), settings),
            lambda prompts, seeds, model: policy.generate(prompts, sampling, seeds, model=model),
            CompositeReward([("letters", letters, 1.0)]),
            settings,
        ),
        settings=settings,
        folder=tmp_path / "checkpoints",
    )
    trainer.log = logs.append
    result = trainer.train()
    assert (result.updates, result.stopped) == (1, None)
    assert logs[0]["objective/kl"] == 0.0
    assert logs[0]["sampling/logp_difference"] < 1e-4

    after = policy.model.state_dict()
    assert all(torch.equal(t, after[n]) for n, t in before.items())
    moved = {n for n, t in actor.tensors().items() if not torch.equal(t, start[n])}
    assert moved >= {"value_head.weight", "value_head.bias"}
    # B starts at 0, so the first step of A has no gradient; the second one has
    assert {n for n in start if "lora_" in n} <= moved
    assert not any("lora_" in n or n.startswith("value_head") for n in before)

    actor.save_adapter(tmp_path / "adapter")
    ids = torch.tensor([prompts_of(policy)[2].ids])
    with torch.no_grad():
        expected = actor.policy(input_ids=ids).logits
        plain = PeftModel.from_pretrained(share_parameters(policy.model), tmp_path / "adapter")
        assert torch.equal(plain(input_ids=ids).logits, expected)
        merged = merge_adapter(tmp_path / "adapter", policy.model, policy.base_id)
        assert torch.allclose(merged(input_ids=ids).logits, expected, atol=1e-4)
        assert not torch.allclose(policy.model(input_ids=ids).logits, expected, atol=1e-2)
