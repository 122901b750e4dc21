"""How often the bundled model names what fits, asked in ordinary words, replies sampled as in chat.

    python -m benchmarks.concierge [--replies 40]

Eight first requests over the default catalogue; a reply counts when it holds the name, number or
time of a line that fits. The interval is 95 %, bootstrapped over all replies. How it does on
requests in words that training never had stands in the model's card.
"""

import argparse
from pathlib import Path

import torch

from benchmarks.results import ResultRow, write_results
from data.concierge import evaluate
from data.concierge.tokens import load_tokenizer
from dialog_rl.evaluate import mean_interval

HERE = Path(__file__).resolve().parents[1] / "data" / "concierge"
WANTED = {
    "can you recommend a cheap restaurant in the north?": "Golden Fern",
    "is there a fancy seafood place?": "Silver Heron",
    "hotel with a pool please": "Beacon Hotel",
    "i want chinese food in the east": "Lantern Kitchen",
    "I would like some Indian food.": "Copper Kettle",
    "I need a taxi": "5226",
    "when does the train to Norwood leave?": "09:15",
    "I need a cheap hotel": "Maple House",
}


def main() -> None:
    """Ask, count and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--replies", type=int, default=40, help="sampled replies to each request")
    args = parser.parse_args()
    model, tokenizer = evaluate.load(HERE / "model"), load_tokenizer(HERE / "model")
    system = (HERE / "default_system.txt").read_text(encoding="utf-8")
    torch.manual_seed(1)
    command, rows, every = "python -m benchmarks.concierge", [], []
    for request, wanted in WANTED.items():
        said = [
            {"role": "system", "content": system},
            {"role": "user", "content": request},
        ]
        texts = evaluate.replies(model, tokenizer, [said] * args.replies, sample=True)
        right = [float(wanted in text) for text in texts]
        every += right
        rate = mean_interval(right)
        rows.append(
            ResultRow(
                figure=f'names what fits: "{request}"',
                value=rate.value,
                low=rate.low,
                high=rate.high,
                command=command,
            )
        )
    whole = mean_interval(every)
    rows.append(
        ResultRow(
            figure="names what fits, all requests",
            value=whole.value,
            low=whole.low,
            high=whole.high,
            command=command,
        )
    )
    for row in rows:
        print(f"{row.value:6.3f}  {row.figure}")
    write_results("concierge", rows)


if __name__ == "__main__":
    main()
