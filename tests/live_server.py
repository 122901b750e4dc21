"""A chat server as people run it: ``dialog-rl chat`` in a process of its own."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import httpx


def tiny_flags(folder: Path) -> list[str]:
    """Make a tiny random model in ``folder``; returns the flags that serve it."""
    from tests.fakes import save_tiny_model

    # Short: to a byte-level tokenizer the bundled catalogue is longer than the context.
    (folder / "system.txt").write_text("Be kind.")
    flags = ["--model_name_or_path", str(save_tiny_model(folder / "model"))]
    return [*flags, "--max_new_tokens", "12", "--system_prompt_file", str(folder / "system.txt")]


class LiveServer:
    """Start, stop, kill and start again; ``url`` is where it answers now."""

    def __init__(self, home: Path, *flags: str) -> None:
        self.home = home
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        home.mkdir(parents=True, exist_ok=True)
        self._log = home / "server.log"

    def start(self, *, patience_s: float = 300.0) -> Self:
        command = [sys.executable, "-m", "dialog_rl", "chat", "--home", str(self.home)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--port", "0", *self._flags], stderr=log, stdout=log
            )
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            said = self._log.read_text(errors="replace")
            if "Chat page: " in said:
                self.url = said.split("Chat page: ")[1].split()[0].rstrip("/")
                if self._answers():
                    return self
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        self.kill()
        raise AssertionError(f"the server did not come up:\n{self._log.read_text()}")

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGINT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
