"""A conversation that goes on is read from where it was left, and answered as if read anew."""

import gc
import weakref

import pytest
import torch

from dialog_rl.conversation import SamplingParams
from dialog_rl.decode import decode_batch
from dialog_rl.errors import PolicyError
from dialog_rl.policy import Policy
from dialog_rl.precision import make_runner
from dialog_rl.prompt_memory import Known, PromptMemory, usable
from tests.fakes import family_policy, tiny_policy

SHORT = SamplingParams(temperature=0.9, top_p=0.95, max_new_tokens=12)
ENDS = frozenset(range(0, 256, 5))  # one byte in five ends a reply: rows leave at many steps
FIRST = [tuple(range(5, 5 + n)) for n in (23, 4, 11, 1, 17, 9, 9, 30)]
POLICY = tiny_policy()


def two_turns(policy: Policy, memory: PromptMemory | None, between: tuple[int, ...] = (7, 8, 9)):
    """The replies of a first turn, and those to the prompts that go on from them."""
    runner = make_runner(policy.model, torch.float32)
    first = decode_batch(runner, FIRST, SHORT, range(8), ENDS, memory=memory)
    longer = [(*p, *d.ids, *between) for p, d in zip(FIRST, first, strict=True)]
    return first, decode_batch(runner, longer, SHORT, range(8, 16), ENDS, memory=memory)


def test_replies_with_a_memory_are_those_without_one() -> None:
    memory = PromptMemory()
    first, second = two_turns(POLICY, memory)
    plain_first, plain_second = two_turns(POLICY, None)
    assert first == plain_first
    assert [d.ids for d in second] == [d.ids for d in plain_second]
    assert len({len(d.ids) for d in first}) > 3
    for ours, theirs in zip(second, plain_second, strict=True):
        assert torch.tensor(ours.logprobs) == pytest.approx(torch.tensor(theirs.logprobs), abs=1e-5)
    # Known were every prompt and reply but the reply's last token; read were that and three more.
    # Of the first turn nothing was known: 104 tokens.
    assert sum(map(len, FIRST)) == 104
    assert memory.recalled == 104 + sum(len(d.ids) - 1 for d in first)
    assert memory.read == 104 + 8 * 4


def test_a_prompt_that_differs_somewhere_is_read_from_there_on() -> None:
    memory, runner = PromptMemory(), make_runner(POLICY.model, torch.float32)
    decode_batch(runner, FIRST, SHORT, range(8), ENDS, memory=memory)
    read = memory.read
    changed = [(*FIRST[0][:20], 99, 98, 97)]
    ours = decode_batch(runner, changed, SHORT, [3], ENDS, memory=memory)
    assert ours[0].ids == decode_batch(runner, changed, SHORT, [3], ENDS)[0].ids
    assert memory.read - read == 3


def test_the_last_token_of_a_prompt_is_always_read() -> None:
    nothing = torch.zeros(0)
    assert usable(Known((1, 2, 3), nothing, nothing), (1, 2, 3)) == 2
    assert usable(Known((1, 2, 3), nothing, nothing), (1, 2, 9)) == 2
    assert usable(None, (1, 2, 9)) == 0


def test_what_is_beyond_the_limit_is_read_again() -> None:
    memory = PromptMemory(limit_bytes=0)
    assert two_turns(POLICY, memory)[1] == two_turns(POLICY, None)[1]
    assert memory.recalled == 0


def test_a_memory_serves_one_model_and_does_not_keep_it() -> None:
    memory, policy = PromptMemory(), tiny_policy(seed=1)
    policy.generate(FIRST, SHORT, range(8), memory=memory)
    with pytest.raises(PolicyError, match="another model"):
        POLICY.generate(FIRST, SHORT, range(8), memory=memory)
    model = weakref.ref(policy.model)
    del policy
    gc.collect()
    assert model() is None


def test_a_model_of_another_kind_reads_everything_and_says_the_same() -> None:
    policy, memory = family_policy("gpt2"), PromptMemory()
    assert two_turns(policy, memory) == two_turns(policy, None)
    assert memory.recalled == 0
