"""Tasks side by side: order, errors, thread settings, and decoding that is the same either way."""

import os
import threading

import pytest
import torch

from dialog_rl.conversation import SamplingParams
from dialog_rl.decode import TransformersRunner, decode_batch
from dialog_rl.llama_runner import LlamaRunner
from dialog_rl.process import settle
from reward_models.side_by_side import side_by_side
from tests.fakes import tiny_model


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_tasks_from_threads_of_one_each(two_threads):
    meeting = threading.Barrier(2, timeout=30)

    def task(k):
        meeting.wait()  # only two that run at once get past
        return k, torch.get_num_threads()

    assert side_by_side([lambda: task(0), lambda: task(1)]) == [(0, 1), (1, 1)]
    assert torch.get_num_threads() == 2


def test_tasks_of_a_gpu_run_one_after_another_in_the_caller_s_thread(two_threads):
    found = side_by_side([threading.get_ident, threading.get_ident], at_once=False)
    assert found == [threading.get_ident()] * 2


def test_an_error_in_a_task_reaches_the_caller_and_leaves_the_threads_as_they_were(two_threads):
    def bad():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        side_by_side([bad, lambda: 1])
    assert torch.get_num_threads() == 2


def test_gradients_of_a_task_are_its_own(two_threads):
    x = torch.tensor([1.0, 2.0], requires_grad=True)

    def slope(power):
        return torch.autograd.grad((x**power).sum(), [x])[0]

    # d x^2 = 2 x, d x^3 = 3 x^2
    found = side_by_side([lambda: slope(2), lambda: slope(3)])
    assert [f.tolist() for f in found] == [[2.0, 4.0], [3.0, 12.0]]
    assert x.grad is None


def test_replies_drawn_in_two_threads_are_those_drawn_in_one(two_threads):
    model = tiny_model()
    prompts = [[k + 1, 5, 9][: 1 + k % 3] for k in range(20)]
    params = SamplingParams(temperature=0.8, top_p=1.0, max_new_tokens=12)
    runner = LlamaRunner(model)
    found = [decode_batch(runner, prompts, params, list(range(20)), frozenset({7}))]
    torch.set_num_threads(1)
    found.append(decode_batch(runner, prompts, params, list(range(20)), frozenset({7})))
    plain = TransformersRunner(model)
    found.append(decode_batch(plain, prompts, params, list(range(20)), frozenset({7})))
    assert [d.ids for d in found[0]] == [d.ids for d in found[1]] == [d.ids for d in found[2]]


def test_settling_a_process_leaves_what_the_user_has_set(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    settle()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "GOMP_SPINCOUNT" not in os.environ  # it would cut the spinning short


def test_threads_that_may_sleep_spin_a_moment_first(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("GOMP_SPINCOUNT", "")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    settle()
    assert int(os.environ["GOMP_SPINCOUNT"]) > 0
