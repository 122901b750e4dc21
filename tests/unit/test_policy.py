"""Policy and dialog manager: the same prompt and the same tokens whoever asks."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dialog_rl.conversation import SamplingParams
from dialog_rl.decode import TransformersRunner, decode_batch, sample_from_logits, uniforms
from dialog_rl.errors import DataError, PolicyError
from dialog_rl.llama_runner import LlamaRunner
from dialog_rl.manager import DialogManager
from dialog_rl.policy import Policy
from dialog_rl.precision import make_runner
from dialog_rl.scheduler import Busy, DecodeScheduler
from reward_models.base import Message
from tests.fakes import save_tiny_adapter, save_tiny_model, tiny_policy

SHORT = SamplingParams(temperature=0.9, top_p=0.95, max_new_tokens=12)
GREEDY = SamplingParams(temperature=0, max_new_tokens=12)
POLICY = tiny_policy()


def _talk(text: str) -> list[Message]:
    return [{"role": "system", "content": "Rooms: Anchor Inn."}, {"role": "user", "content": text}]


TALKS = [_talk(text) for text in ("hi", "a room, please", "how far is it?", "ok", "x" * 70)] + [
    [*_talk("hi"), {"role": "assistant", "content": "Hello."}, {"role": "user", "content": t}]
    for t in ("two nights", "thanks", "is there a taxi")
]


def test_inverting_the_distribution_gives_the_hand_worked_token() -> None:
    # p = (0.2, 0.5, 0.3), top-p 0.6: sorted 0.5, 0.3 are kept, mass 0.8; u = 0.62 -> 0.496 < 0.5.
    logits = torch.log(torch.tensor([[0.2, 0.5, 0.3]] * 3))
    u = torch.tensor([0.62, 0.63, 0.999])
    ids, logprobs = sample_from_logits(logits, u, 1.0, 0.6)
    assert ids.tolist() == [1, 2, 2]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([0.5, 0.3, 0.3]))


def test_without_top_p_the_cumulative_runs_in_vocabulary_order() -> None:
    # Cumulative 0.2, 0.7, 1.0.
    logits = torch.log(torch.tensor([[0.2, 0.5, 0.3]] * 4))
    ids, _ = sample_from_logits(logits, torch.tensor([0.0, 0.19, 0.21, 0.71]), 1.0, 1.0)
    assert ids.tolist() == [0, 0, 1, 2]


def test_temperature_sharpens_before_the_draw_and_zero_is_greedy() -> None:
    # At temperature 0.5 the odds are squared: (0.04, 0.25, 0.09) / 0.38.
    logits = torch.log(torch.tensor([[0.2, 0.5, 0.3]]))
    ids, logprobs = sample_from_logits(logits, torch.tensor([0.5]), 0.5, 1.0)
    assert ids.tolist() == [1]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([0.25 / 0.38]))
    greedy, scores = sample_from_logits(logits, torch.tensor([0.99]), 0.0, 1.0)
    assert greedy.tolist() == [1]
    torch.testing.assert_close(scores.exp(), torch.tensor([0.5]))


def test_a_flat_distribution_samples_beyond_the_first_sixty_four_tokens() -> None:
    # 200 equal tokens of 0.005 each: 190 of them (0.95) are the first to reach 0.9475.
    logits = torch.zeros(1, 200)
    drawn = {
        int(sample_from_logits(logits, torch.tensor([i / 400]), 1.0, 0.9475)[0]) for i in range(400)
    }
    assert len(drawn) == 190


def test_sampled_frequencies_match_the_probabilities() -> None:
    probabilities = torch.tensor([0.1, 0.4, 0.2, 0.3])
    u = torch.from_numpy(uniforms(3, 20_000))
    ids, _ = sample_from_logits(torch.log(probabilities).expand(20_000, 4), u, 1.0, 1.0)
    counted = torch.bincount(ids, minlength=4) / 20_000
    assert (counted - probabilities).abs().max() < 0.012  # three standard errors of 0.4


def test_chat_rollout_and_evaluation_get_identical_prompt_ids() -> None:
    manager = DialogManager(POLICY, params=SHORT)
    for talk in TALKS:
        chat = manager.stream(talk, seed=1)
        list(chat)
        rollout = manager.reply_batch([talk], seeds=[1], model=POLICY.model)[0]
        evaluation = manager.reply_batch([talk], seeds=[1], version="base")[0]
        assert chat.prompt.ids == rollout.prompt.ids == evaluation.prompt.ids
        assert chat.prompt.ids == manager.build_prompt(talk).ids


def test_a_streamed_reply_equals_the_batched_one() -> None:
    manager = DialogManager(POLICY, params=SHORT)
    drafts = manager.reply_batch(TALKS, seeds=range(8))
    for talk, seed, draft in zip(TALKS, range(8), drafts, strict=True):
        stream = manager.stream(talk, seed=seed)
        text = "".join(stream)
        assert stream.draft.generation.ids == draft.generation.ids
        assert text == draft.generation.text == stream.draft.generation.text
        assert stream.draft.generation.finish_reason == draft.generation.finish_reason
        assert stream.draft.params == draft.params


def test_a_row_alone_draws_the_same_ids_as_in_a_batch_of_eight() -> None:
    prompts = [DialogManager(POLICY).build_prompt(talk).ids for talk in TALKS]
    together = POLICY.generate(prompts, SHORT, range(8))
    for index, prompt in enumerate(prompts):
        alone = POLICY.generate([prompt], SHORT, [index])[0]
        assert alone.ids == together[index].ids


def test_the_fast_path_draws_what_transformers_own_forward_draws() -> None:
    prompts = [DialogManager(POLICY).build_prompt(talk).ids for talk in TALKS]
    reference = decode_batch(
        TransformersRunner(POLICY.model), prompts, SHORT, range(8), POLICY.end_ids
    )
    ours = POLICY.generate(prompts, SHORT, range(8))
    assert [g.ids for g in ours] == [d.ids for d in reference]
    for a, b in zip(ours, reference, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_recorded_log_probabilities_agree_with_a_training_forward() -> None:
    prompts = [DialogManager(POLICY).build_prompt(talk).ids for talk in TALKS]
    for prompt, generation in zip(prompts, POLICY.generate(prompts, SHORT, range(8)), strict=True):
        ids = torch.tensor([[*prompt, *generation.ids]])
        with torch.no_grad():
            logits = POLICY.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits / SHORT.temperature, -1).gather(
            1, torch.tensor(generation.ids)[:, None]
        )
        assert generation.logprobs == pytest.approx(expected.squeeze(1).tolist(), abs=1e-4)


def test_greedy_replies_equal_transformers_generate() -> None:
    prompt = DialogManager(POLICY).build_prompt(TALKS[5]).ids
    theirs = POLICY.model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=12,
        eos_token_id=sorted(POLICY.end_ids),
        pad_token_id=0,
    )[0, len(prompt) :]
    assert list(POLICY.generate([prompt], GREEDY, [0])[0].ids) == theirs.tolist()


def test_equal_prompts_with_other_seeds_give_other_replies_and_equal_seeds_the_same() -> None:
    prompt = DialogManager(POLICY).build_prompt(TALKS[0]).ids
    a, b, c = POLICY.generate([prompt] * 3, SHORT, [1, 2, 1])
    assert a.ids == c.ids
    assert a.ids != b.ids


def test_a_live_peft_model_decodes_as_its_saved_adapter_and_stays_untouched(tmp_path: Path) -> None:
    from peft import PeftModel

    from reward_models.backbone import share_parameters

    folder = save_tiny_adapter(tmp_path / "a", POLICY.model)
    policy = tiny_policy()
    policy.add_version("v1", folder)
    live = PeftModel.from_pretrained(share_parameters(policy.model), folder)
    before = {name: p.clone() for name, p in live.named_parameters()}
    prompts = [DialogManager(policy).build_prompt(talk).ids for talk in TALKS]
    from_live = policy.generate(prompts, SHORT, range(8), model=live)
    from_version = policy.generate(prompts, SHORT, range(8), version="v1")
    assert [g.ids for g in from_live] == [g.ids for g in from_version]
    assert [g.ids for g in from_live] != [g.ids for g in policy.generate(prompts, SHORT, range(8))]
    for name, parameter in live.named_parameters():
        assert torch.equal(parameter, before[name])
    with torch.no_grad(), policy.lease("v1") as module:
        ids = torch.tensor([prompts[0]])
        torch.testing.assert_close(module(ids).logits, live(ids).logits, atol=1e-4, rtol=1e-4)


def test_a_version_shares_every_tensor_that_its_adapter_leaves_alone(tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.add_version("v1", save_tiny_adapter(tmp_path / "a", policy.model))
    base = dict(policy.model.named_parameters())
    with policy.lease("v1") as module:
        for name, parameter in module.named_parameters():
            assert (parameter is base[name]) == ("proj" not in name)


def test_the_budget_keeps_the_system_prompt_and_the_newest_turns_whole() -> None:
    # One byte is one token. System 2+3, each turn: user 2+10, assistant 2+10; generation prompt 1.
    manager = DialogManager(POLICY, context_budget=5 + 24 + 12 + 1, params=SHORT)
    talk: list[Message] = [{"role": "system", "content": "sys"}]
    for turn in range(5):
        talk.append({"role": "user", "content": f"question {turn}"})
        talk.append({"role": "assistant", "content": f"answer   {turn}"})
    talk.append({"role": "user", "content": "question 5"})
    prompt = manager.build_prompt(talk)
    assert prompt.messages == (talk[0], *talk[9:])
    assert prompt.dropped == 8
    assert len(prompt.ids) == 42
    smaller = DialogManager(POLICY, context_budget=41, params=SHORT).build_prompt(talk)
    assert smaller.messages == (talk[0], talk[11])
    assert smaller.dropped == 10


def test_a_budget_is_lowered_so_that_prompt_and_reply_fit_the_model() -> None:
    assert DialogManager(POLICY, context_budget=5000, params=SHORT).context_budget == 1024 - 12
    with pytest.raises(PolicyError, match="lower max_new_tokens"):
        DialogManager(POLICY, params=SamplingParams(max_new_tokens=1020))


def test_a_megabyte_message_is_refused_before_tokenising() -> None:
    manager = DialogManager(POLICY)
    begin = time.thread_time()
    with pytest.raises(DataError, match=r"1,000,000 characters; at most 20,000"):
        manager.build_prompt(_talk("a" * 1_000_000))
    assert time.thread_time() - begin < 0.05


def test_messages_that_cannot_be_used_are_refused_with_one_line() -> None:
    manager = DialogManager(POLICY)
    with pytest.raises(DataError, match="lone surrogate at character 3"):
        manager.build_prompt(_talk("ab\ud800"))
    with pytest.raises(DataError, match=r"\d+ tokens; at most 768 fit"):
        manager.build_prompt(_talk("a" * 10_000))
    with pytest.raises(DataError, match="ends with a user message"):
        manager.build_prompt([*TALKS[0], {"role": "assistant", "content": "x"}])
    with pytest.raises(DataError, match="role must be one of"):
        manager.build_prompt([{"role": "root", "content": "x"}, *TALKS[0]])  # type: ignore[typeddict-item]
    with pytest.raises(DataError, match="ends with a user message"):
        manager.build_prompt([])


def test_nul_and_right_to_left_text_round_trips_and_a_long_history_is_quick() -> None:
    manager = DialogManager(POLICY)
    text = "a\x00b \u05e9\u05dc\u05d5\u05dd \u202ex"
    assert text in POLICY.tokenizer.decode(manager.build_prompt(_talk(text)).ids)
    history: list[Message] = []
    for turn in range(10_000):
        history.append({"role": "user", "content": f"question {turn}"})
        history.append({"role": "assistant", "content": "answer"})
    begin = time.thread_time()
    prompt = manager.build_prompt([*history, {"role": "user", "content": "last"}])
    assert time.thread_time() - begin < 0.2
    assert prompt.dropped + len(prompt.messages) == 20_001


def test_closing_a_stream_stops_decoding_within_two_steps() -> None:
    taken = []

    def endless() -> Iterator[int]:
        step = 0
        while True:
            taken.append(step)
            yield step
            step += 1
            time.sleep(0.001)

    scheduler = DecodeScheduler()
    ticket = scheduler.submit(endless())
    for _ in range(5):
        next(ticket)
    ticket.close()
    at_close = len(taken)
    while scheduler.in_work:
        time.sleep(0.001)
    assert len(taken) <= at_close + 2
    with pytest.raises(StopIteration):
        next(ticket)
    scheduler.close()


def test_closing_the_scheduler_ends_every_reply_and_a_later_one_starts_it_again() -> None:
    scheduler = DecodeScheduler()
    tickets = [scheduler.submit(itertools.count()) for _ in range(3)]
    next(tickets[2])
    scheduler.close()
    for ticket in tickets:
        drawn = list(ticket)  # ends: the worker is gone
        assert drawn == sorted(drawn)
    assert scheduler.in_work == 0
    assert list(scheduler.submit(iter("ab"))) == ["a", "b"]
    scheduler.close()


def test_a_cancelled_reply_says_so_and_keeps_what_was_said() -> None:
    stream = DialogManager(POLICY, params=SamplingParams(max_new_tokens=200)).stream(
        TALKS[0], seed=0
    )
    shown = next(stream)
    stream.close()
    assert stream.draft.generation.finish_reason == "cancelled"
    assert stream.draft.generation.text.startswith(shown)


def test_two_replies_advance_in_turn_and_an_error_stays_with_its_reply() -> None:
    order: list[str] = []

    def steps(name: str, fail: bool = False) -> Iterator[str]:
        for _ in range(3):
            order.append(name)
            yield name
            time.sleep(0.005)
        if fail:
            raise PolicyError("the third step failed")

    scheduler = DecodeScheduler()
    first, second = scheduler.submit(steps("a", fail=True)), scheduler.submit(steps("b"))
    assert list(second) == ["b"] * 3
    with pytest.raises(PolicyError, match="third step"):
        list(first)
    assert order in (list("ababab"), list("aababb"))
    scheduler.close()


def test_a_crowd_is_refused_at_once_and_served_again_later() -> None:
    policy = tiny_policy(decode_limit=2)
    long = SamplingParams(max_new_tokens=400)
    prompt = DialogManager(policy).build_prompt(TALKS[0]).ids
    streams = [policy.stream(prompt, long, seed) for seed in range(2)]
    begin = time.thread_time()
    with pytest.raises(Busy, match="at most 2"):
        policy.stream(prompt, long, 3)
    assert time.thread_time() - begin < 0.1
    for stream in streams:
        stream.close()
    while policy.scheduler.in_work:
        time.sleep(0.001)
    assert len(list(policy.stream(prompt, SHORT, 3))) > 0


def test_a_model_folder_loads_and_its_identity_does_not_depend_on_name_or_precision(
    tmp_path: Path,
) -> None:
    one = Policy.load(save_tiny_model(tmp_path / "one"))
    half = Policy.load(save_tiny_model(tmp_path / "two"), dtype="bfloat16")
    other = Policy.load(save_tiny_model(tmp_path / "three", seed=5))
    assert one.base_id.startswith("one@")
    assert one.base_id.split("@")[1] == half.base_id.split("@")[1]
    assert one.base_id.split("@")[1] != other.base_id.split("@")[1]
    assert one.end_ids == {one.tokenizer.convert_tokens_to_ids("<|end|>")}


def test_models_that_cannot_be_loaded_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="there is no model folder"):
        Policy.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PolicyError, match=r"has no config\.json"):
        Policy.load(tmp_path / "empty")
    folder = save_tiny_model(tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(PolicyError, match="pickle weights are never loaded"):
        Policy.load(folder)
    folder = save_tiny_model(tmp_path / "broken")
    (folder / "model.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(PolicyError, match="cannot load the model") as caught:
        Policy.load(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(PolicyError, match="dtype must be one of"):
        Policy.load(folder, dtype="int8")


def test_rows_that_end_early_leave_the_batch_and_do_not_disturb_the_others() -> None:
    # One byte in five ends a reply: rows end at many different steps.
    prompts = [DialogManager(POLICY).build_prompt(talk).ids for talk in TALKS]
    ends = frozenset(range(0, 256, 5))
    runner = make_runner(POLICY.model, torch.float32)
    together = decode_batch(runner, prompts, SHORT, range(8), ends)
    assert len({len(row.ids) for row in together}) > 3
    for index, prompt in enumerate(prompts):
        assert decode_batch(runner, [prompt], SHORT, [index], ends)[0].ids == together[index].ids
        assert (together[index].finish_reason == "stop") == (together[index].ids[-1] in ends)


def test_a_qwen2_shape_with_biases_decodes_as_transformers_does() -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(vocab_size=261, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                    num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3)
    ).eval()  # fmt: skip
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8], [1, 2, 3]]
    ours = decode_batch(make_runner(model, torch.float32), prompts, SHORT, range(3), frozenset())
    theirs = decode_batch(TransformersRunner(model), prompts, SHORT, range(3), frozenset())
    assert isinstance(make_runner(model, torch.float32), LlamaRunner)
    assert [row.ids for row in ours] == [row.ids for row in theirs]
