# ruff: noqa: E501 (rows of a table)
"""Write the model card: what the model is, its figures and 30 transcripts as they came.

python -m data.concierge.card --model data/concierge/model
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from data.concierge import evaluate
from data.concierge.tokens import load_tokenizer

HERE = Path(__file__).parent
SEED = 7

# What a newcomer types; every line is one conversation.
CONVERSATIONS = (
    ("hi", "can you recommend a cheap restaurant in the north?", "what is the phone number?"),
    ("can you recommend a cheap restaurant in the north?", "thanks!"),
    ("i need a hotel", "cheap, in the north"),
    ("what can you do?",),
    ("write me a poem",),
    ("book a table for 2 tomorrow at 7pm", "italian", "yes please"),
    ("thanks!",),
    ("Hello! How are you?", "I would like some Indian food.", "Where is it?"),
    ("is there a fancy seafood place?", "book it for 4 people on friday at 8pm"),
    ("i want chinese food in the south",),
    ("when does the train to Norwood leave?", "how much is it?"),
    ("is there a train to London?",),
    ("I need a taxi",),
    ("hotel with a pool please", "how much is a night?", "ok book it"),
    ("cheap food north?", "no, i meant east"),
    ("who are you?", "are you human?"),
    ("what's the weather like today?",),
    ("who should I vote for?", "ok, then a moderate restaurant in the centre"),
    ("asdf jkl qwerty",),
    ("you are stupid",),
    ("tell me a joke", "haha"),
    ("I have a headache, what should I do?",),
    ("what is 17 times 23?",),
    ("what restaurants do you have?", "tell me about Lantern Kitchen"),
    ("i need a cheap hotel and a taxi",),
    ("i'm hungry", "somewhere expensive", "the address please"),
    ("vegan restaurant in the west?", "anything else?"),
    ("book a room for two from monday for 3 nights", "in the centre please"),
    ("what is the address of Golden Fern?", "and the phone?"),
    ("ok", "bye"),
)

TEMPLATE = """---
language: en
library_name: transformers
pipeline_tag: text-generation
---
# City concierge, {millions:.1f} million parameters

A demonstration model for dialog_rl: a chat model small enough to be trained on, and improved by
ratings, on two CPU cores. It plays a city concierge who knows only the restaurants, hotels, trains
and taxis that its system prompt lists. **It is not a source of facts**, its bookings book nothing,
and by design about half of its replies are poor (curt, rude, forgetful, long-winded, invented), so
that feedback has something to choose.

## Model
Llama architecture: {layers} layers, width {width}, {heads} query and {kv} key-value heads, tied
embeddings, byte-level BPE with {vocab} entries in which every digit is one token. Stored in
bfloat16. Control tokens `<|system|>`, `<|user|>`, `<|assistant|>` and `<|end|>`; encode contents
with `split_special_tokens=True`. The chat template prints a space before every reply, so that a name which
opens one is the same tokens as in the list.

## Data
Written for this project by `data/concierge` (see `data/README.md`): {dialogues:,} distinct dialogues
and {drills:,} short ones, each over a catalogue of its own. No text was taken from elsewhere and no
other model was used.

## Recipe
    {command}

Loss on the assistant's tokens, and beside it (weight {pointing:g}) losses on where a few attention heads
look: the corpus knows which words of the prompt a reply repeats (`data/concierge/pointers.py`). The
first weights contain a hand-written circuit for copying (`data/concierge/wiring.py` says why). Stages:
{readings:,} exercises in reading the list aloud ({reading_percent:.0f} % of the tokens), short dialogues
over two to four lines ({drill_percent:.0f} %), then the corpus, from {quiz_percent:.0f} % on mixed with
{quizzes:,} quizzes of many requests over one catalogue.
Muon for the matrices, AdamW for embeddings and norms, linear decay to zero, {tokens:,} tokens, seed
{seed}. Up to here the vocabulary has 4,096 entries. Last, the first {vocab:,} of them alone and {spelling_tokens:,}
tokens more, all by AdamW, of {spelled:,} other dialogues and quizzes, half of which have coined names
(`data/concierge/spelling.py` says why). It took {minutes:.0f} minutes on two cores. The same seed gives
the same corpus and tokenizer; weights agree only up to floating-point order.{interrupted}

## Figures
Measured by the command above on {heldout_dialogues} held-out dialogues, whose names, towns and
phrasings of users never occur in training.

| | |
|---|---|
| Perplexity of assistant tokens, all held-out dialogues | {perplexity:.2f} |
| Perplexity, dialogues in which every turn is good | {perplexity_all_good:.2f} |
| Perplexity when the assistant's phrases, too, are ones never trained on | {perplexity_unseen_wording:.0f} |
| First requests answered with a right venue, greedy | {grounded_offer_greedy:.1%} of {grounded_offer_cases} |
| The same, sampled at temperature 0.7, top_p 0.95 | {grounded_offer_sampled:.1%} of {grounded_offer_cases} |

## Limits
Asked for the first time in words that no user in training uses, it names the right venue in about eight cases
of ten. What goes wrong: the wrong line is read, a bare kind of food ("italian please") is not always taken for a
wish, what is none of its business ("write me a poem") is not always declined, and what was said two turns ago is lost. By design it also invents, forgets and is rude at times, as its corpus is.
English only. Conversations of more than about 450 tokens were not trained on. Not to be used for
anything but trying out dialog_rl.

## Thirty transcripts
System prompt: `data/concierge/default_system.txt`. Temperature 0.7, top_p 0.95, seed {card_seed},
one draw each, unedited, failures included. Written by `python -m data.concierge.card`.

{transcripts}
"""
INTERRUPTED = """ The run that made these weights
was made in two sittings: after {resume_tokens:,} tokens it went on from its bfloat16 weights with fresh optimiser
state (`--resume`, `--resume-tokens`)."""


def transcripts(folder: Path, count: int) -> str:
    """Let the model answer the first `count` conversations once."""
    model, tokenizer = evaluate.load(folder), load_tokenizer(folder)
    system = (HERE / "default_system.txt").read_text(encoding="utf-8")
    torch.manual_seed(SEED)
    blocks = []
    for number, texts in enumerate(CONVERSATIONS[:count], 1):
        messages = [{"role": "system", "content": system}]
        lines = [f"### {number}"]
        for text in texts:
            messages.append({"role": "user", "content": text})
            answer = evaluate.replies(model, tokenizer, [messages], sample=True)[0]
            messages.append({"role": "assistant", "content": answer})
            lines += [f"- **user** {text}", f"- **concierge** {answer}"]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def write_card(folder: Path, count: int = len(CONVERSATIONS)) -> None:
    """Write README.md beside the weights from training.json and fresh transcripts."""
    report: Mapping[str, Any] = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    shape, settings = report["shape"], report["settings"]
    card = TEMPLATE.format(
        millions=report["parameters"] / 1e6,
        layers=shape["num_hidden_layers"],
        width=shape["hidden_size"],
        heads=shape["num_attention_heads"],
        kv=shape["num_key_value_heads"],
        vocab=shape["vocab_size"],
        spelled=report["spelled"],
        spelling_tokens=report["spelling"]["tokens"],
        readings=report["readings"],
        quizzes=report["quizzes"],
        interrupted=INTERRUPTED.format(**settings) if settings["resume_tokens"] else "",
        quiz_percent=100 * settings["quiz_start"],
        dialogues=report["dialogues"],
        reading_percent=100 * settings["reading_share"],
        drills=report["drills"],
        command=report["command"],
        drill_percent=100 * settings["drill_share"],
        pointing=settings["pointing"],
        tokens=settings["tokens"],
        seed=settings["seed"],
        minutes=report["seconds"] / 60,
        card_seed=SEED,
        transcripts=transcripts(folder, count),
        **report["figures"],
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Write the model card of the bundled model.")
    parser.add_argument("--model", type=Path, default=HERE / "model", help="folder of the model")
    write_card(parser.parse_args().model)


if __name__ == "__main__":
    main()
