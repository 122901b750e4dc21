"""The bundled model talks with simulated users through the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

from dialog_rl.envs import RewardWeights


def test_the_bundled_model_serves_simulated_users_the_same_way_twice(tmp_path: Path) -> None:
    def run(name: str) -> list[str]:
        folder = tmp_path / name
        flags = f"--conversations 12 --split train --max_turns 6 --num_threads 1 --home {tmp_path}"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "dialog_rl", "simulate", *flags.split()),
                *("--output_dir", str(folder)),
            ],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert "success" in done.stdout
        assert done.stderr == ""
        return (folder / "transcripts.jsonl").read_text().splitlines()

    first = run("first")
    assert first == run("second")
    records = [json.loads(line) for line in first]
    assert {r["version"] for r in records} == {"base"}
    # Every cheat of tests/unit/envs/test_dialog_env.py earns less than this in every conversation.
    assert sum(r["return"] for r in records) / len(records) > RewardWeights().failure
