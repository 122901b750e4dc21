"""The recipe of the bundled model: schedule, batches, first weights, and a run in small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from data.concierge.readings import write_reading
from data.concierge.tokens import Encoded
from data.concierge.training import ModelSettings, TrainSettings, batches, collate, new_model, rate

ROOT = Path(__file__).parents[3]


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    assert [rate(x, 0.1) for x in (0.05, 0.1, 0.55, 1.0)] == pytest.approx([0.5, 1.0, 0.5, 0.0])


def test_a_pass_over_the_batches_holds_every_example_once_and_padding_is_never_trained_on() -> None:
    sizes = [(number, 5 + number % 7) for number in range(1, 50)]
    examples = [Encoded([number] * size, [True] * size) for number, size in sizes]
    found: list[int] = []
    for batch in batches(examples, 60, seed=1):
        found += [example.ids[0] for example in batch]
        ids, written = collate(batch, pad=0)
        # Lengths are jittered before sorting, so the longest may be two tokens above the last.
        assert ids.numel() <= 60 + 2 * len(batch)
        assert not written[ids == 0].any()
        if len(found) >= 49:
            break
    assert sorted(found) == list(range(1, 50))


def test_settings_that_cannot_work_say_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="at least batch_tokens"):
        TrainSettings(tokens=10)
    with pytest.raises(ValueError, match="workers is 0"):
        TrainSettings(tokens=10_000, workers=0)
    with pytest.raises(ValueError, match="their sum must be in"):
        TrainSettings(tokens=10_000, reading_share=0.6, drill_share=0.5)


def test_an_untrained_model_already_copies_what_followed_the_same_token_before() -> None:
    # 40 random tokens, 10 others, the 40 again: from the second of the repeated ones on, the next
    # token is the one that came after its like. Without the wiring about 1 in 4,096 is right.
    model = new_model(ModelSettings(), eos=4, pad=0, seed=3)
    generator = torch.Generator().manual_seed(1)
    once = torch.randint(5, 4096, (4, 40), generator=generator)
    between = torch.randint(5, 4096, (4, 10), generator=generator)
    with torch.no_grad():
        predicted = model(input_ids=torch.cat([once, between, once], dim=1)).logits.argmax(-1)
    right = predicted[:, 50:-1] == once[:, 1:]
    assert right.float().mean() > 0.85


def test_a_reading_exercise_says_only_what_the_prompt_lists() -> None:
    for number in range(50):
        system, _, answer = (m["content"] for m in write_reading(2, number))
        listed = [line.removeprefix("- ") for line in system.splitlines()[1:]]
        said = answer.splitlines()
        assert len(said) == len(listed)
        assert all(any(line.removeprefix("- ") in entry for entry in listed) for line in said)


def test_the_recipe_runs_from_nothing_in_small_and_the_result_loads(tmp_path: Path) -> None:
    small = "--dialogues 60 --drills 40 --readings 40 --quizzes 20 --heldout 4"
    run = "--tokens 4000 --spelling-tokens 2000 --batch-tokens 1000 --workers 1 --threads 1"
    shape = "--transcripts 1 --hidden-size 256 --layers 2"
    command = [sys.executable, "-m", "data.concierge.build", "--output", str(tmp_path / "model")]
    done = subprocess.run(
        [*command, *small.split(), *run.split(), *shape.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert str(model.dtype) == "torch.bfloat16"
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert card.count("**user**") >= 1
    report = json.loads((tmp_path / "model" / "training.json").read_text(encoding="utf-8"))
    schema = json.loads((ROOT / "data" / "schema" / "training.json").read_text(encoding="utf-8"))
    assert set(report) == set(schema["properties"])
    assert set(report["figures"]) == set(schema["properties"]["figures"]["required"])
