"""How long a person waits: from start to an answer, to the first token, per token, beside training.

    python -m benchmarks.chat_latency [--training]

Starts ``dialog-rl chat`` as people do and measures over HTTP: seconds from the start of the process
to the end of the first reply, to the first piece of a streamed reply, and between pieces, for one
and for two people at once. With ``--training`` matrix products run beside it with the priority and
the OpenMP settings of a background training, and the same figures stand there again.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

from benchmarks.results import ResultRow, write_results
from dialog_rl.teach import NICENESS, training_environment

QUESTIONS = (
    "I am looking for a cheap restaurant in the north.",
    "Can you book me a hotel for two nights?",
    "When does the train to Bradworth leave?",
    "Can you call me a taxi, please?",
)
RESTART = "restart: from the start of the process to the end of a reply (s)"
FIRST_WORST, P95 = "first token, worst of 12 (s)", "per piece, p95 (ms)"
BURN = "import torch\nwhile True: torch.randn(512, 512) @ torch.randn(512, 512)"


def start(home: Path) -> tuple["subprocess.Popen[bytes]", str, float]:
    """Start a server; returns it, its address, and when it was started."""
    log = home / "server.log"
    began = time.perf_counter()
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "dialog_rl", "chat", "--home", str(home), "--port", "0"],
            stderr=stream,
        )
    while "Chat page: " not in log.read_text():
        if server.poll() is not None:
            sys.exit(log.read_text())
        time.sleep(0.01)
    return server, log.read_text().split("Chat page: ")[1].split()[0].rstrip("/"), began


def ask(url: str, question: str) -> tuple[float, list[float]]:
    """Stream one reply; returns seconds to the first piece and between pieces."""
    with httpx.Client(base_url=url, timeout=120) as client:
        cid = client.post("/v1/conversations").json()["conversation_id"]
        sent = {"text": question, "stream": True}
        began = time.perf_counter()
        with client.stream("POST", f"/v1/conversations/{cid}/messages", json=sent) as answer:
            moments = [time.perf_counter() for line in answer.iter_lines() if '"delta"' in line]
    gaps = [b - a for a, b in itertools.pairwise(moments)]
    return moments[0] - began, gaps


def figures(url: str, name: str) -> dict[str, float]:
    """Measure one person alone, then two at once."""
    alone = [ask(url, q) for q in QUESTIONS * 3]
    results: list[tuple[float, list[float]]] = []
    people = [
        threading.Thread(target=lambda q=q: results.extend(ask(url, q) for _ in range(4)))
        for q in QUESTIONS[:2]
    ]
    for person in people:
        person.start()
    for person in people:
        person.join()
    return {
        f"{name} first token, median (s)": statistics.median(f for f, _ in alone),
        f"{name} {FIRST_WORST}": max(f for f, _ in alone),
        f"{name} {P95}": 1000 * _p95([g for _, gaps in alone for g in gaps]),
        f"{name} two people, first token worst (s)": max(f for f, _ in results),
        f"{name} two people, per piece p95 (ms)": 1000
        * _p95([g for _, gaps in results for g in gaps]),
    }


def _p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--training", action="store_true", help="again beside a training's load")
    arguments = parser.parse_args()
    command = "python -m benchmarks.chat_latency --training"
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        server, url, began = start(Path(folder))
        try:
            ask(url, QUESTIONS[0])
            found[RESTART] = time.perf_counter() - began
            found |= figures(url, "quiet:")
            if arguments.training:
                load = subprocess.Popen(
                    [sys.executable, "-c", BURN], env={**os.environ, **training_environment()}
                )
                os.setpriority(os.PRIO_PROCESS, load.pid, NICENESS)
                time.sleep(5)
                found |= figures(url, "beside training:")
                load.kill()
                load.wait()
        finally:
            server.kill()
            server.wait()
    bars = {RESTART: 10.0, f"quiet: {FIRST_WORST}": 0.5}
    if arguments.training:
        bars[f"beside training: {P95}"] = 1.5 * found[f"quiet: {P95}"]
    rows = [
        ResultRow(
            figure=name,
            value=round(value, 3),
            command=command,
            bar=f"at most {bars[name]:.3g}" if name in bars else "",
            met=value <= bars[name] if name in bars else None,
        )
        for name, value in found.items()
    ]
    for row in rows:
        print(f"{row.value:>10}  {row.figure}  {row.bar}")
    write_results("chat_latency", rows)


if __name__ == "__main__":
    main()
