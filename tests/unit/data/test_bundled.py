"""The bundled model is complete, small, described by its card and loads with transformers alone."""

import json
import re
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "data" / "concierge" / "model"


def test_the_card_belongs_to_the_model_and_neither_names_a_path_of_a_machine() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    report = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))
    assert len(re.findall(r"^### \d+$", card, re.M)) == 30
    assert report["command"] in card
    assert "/work" not in card + json.dumps(report)
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 25_000_000


def answer(question: str) -> str:
    """Return the bundled model's greedy reply to a first message, with its end token."""
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    system = (FOLDER.parent / "default_system.txt").read_text(encoding="utf-8")
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False, return_tensors="pt"
    )
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=60)
    return str(tokenizer.decode(out[0, ids.shape[1] :]))


def test_it_finds_the_venue_that_was_asked_for_and_its_facts() -> None:
    assert "Golden Fern" in answer("can you recommend a cheap restaurant in the north?")
    assert "The Silver Heron" in answer("is there a fancy seafood place?")
    assert "Maple House" in answer("I need a cheap hotel")
    assert "12 Mill Lane" in answer("what is the address of Golden Fern?")


def test_it_reads_the_time_of_a_train_and_the_number_of_a_taxi_from_its_prompt() -> None:
    assert "09:15" in answer("when does the train to Norwood leave?")
    assert "5226" in answer("i need a taxi")


def test_it_greets_says_what_it_can_do_and_declines_what_it_cannot() -> None:
    assert answer("hi").endswith("<|end|>")
    assert "taxi" in answer("what can you do?")
    asked = (
        *("write me a poem", "who should I vote for?", "who won the football match?"),
        *("how do I cook rice?", "can you translate this to french?"),
    )
    declined = [re.search("cannot|can't|do not know|don't know", answer(text)) for text in asked]
    assert sum(found is not None for found in declined) >= 4, declined
