"""Every route of the whole application, gradio's included: served on purpose or not at all."""

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from tests.live_server import LiveServer

LIST_ROUTES = """
import json
from pathlib import Path
from apps.server import build_app
from dialog_rl.teach import TeachJob

def paths(routes, before=""):
    for route in routes:
        router = getattr(route, "original_router", route)
        path = before + getattr(route, "path", "")
        inner = getattr(router, "routes", None)
        if inner:
            yield from paths(inner, path)
        else:
            yield path or "/"

print(json.dumps(sorted(set(paths(build_app(None, TeachJob(Path("unused")))._app.routes)))))
"""

SERVED = {
    # the page and its files
    "/",
    "/assets/{path:path}",
    "/config",
    "/config/",
    "/favicon.ico",
    "/manifest.json",
    "/robots.txt",
    "/static/{path:path}",
    "/svelte/{path:path}",
    "/theme.css",
    # the page's events
    "/gradio_api/app_id",
    "/gradio_api/app_id/",
    "/gradio_api/cancel",
    "/gradio_api/heartbeat/{session_hash}",
    "/gradio_api/queue/data",
    "/gradio_api/queue/join",
    "/gradio_api/reset",
    "/gradio_api/reset/",
    "/gradio_api/startup-events",
    "/gradio_api/theme.css",
    # the JSON API
    "/healthz",
    "/v1/conversations",
    "/v1/conversations/{conversation_id}",
    "/v1/conversations/{conversation_id}/messages",
    "/v1/feedback",
    "/v1/replies/{reply_id}/retry",
    "/v1/status",
    "/v1/teach",
}
"""A route that a new gradio brings is not served until somebody writes it here and in access.py."""


def test_only_the_routes_written_down_are_served(chat_server: LiveServer) -> None:
    listing = subprocess.run(
        [sys.executable, "-c", LIST_ROUTES], capture_output=True, text=True, check=True
    )
    everything = json.loads(listing.stdout.splitlines()[-1])
    assert len(everything) > 60  # gradio's own are among them
    served = set()
    with httpx.Client(base_url=chat_server.url, timeout=60) as client:
        for path in everything:
            concrete = re.sub(r"\{[^}]*\}", "x", path)
            answers = [client.request(m, concrete) for m in ("PUT", "DELETE", "PATCH")]
            if not all(a.status_code == 404 and "nothing here" in a.text for a in answers):
                served.add(path)
    assert served - SERVED == set()
    assert served >= {"/", "/v1/feedback", "/gradio_api/queue/join"}


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/upload",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/proxy=http://169.254.169.254/",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/run/predict",
        "/gradio_api/call/load",
        "/gradio_api/stream/x",
        "/gradio_api/component_server",
        "/gradio_api/vibe-edit",
        "/gradio_api/runs",
        "/gradio_api/mcp",
        "/monitoring",
        "/login",
        "/docs",
        "/openapi.json",
        "/static/../../../../etc/passwd",
        "/assets/..%2f..%2f..%2fetc/passwd",
        "//evil.example/v1/status",
    ],
)
def test_what_the_page_does_not_need_is_not_there(chat_server: LiveServer, path: str) -> None:
    for method in ("GET", "POST"):
        answer = httpx.request(method, f"{chat_server.url}{path}")
        assert answer.status_code in (403, 404, 405), path
        assert "root:" not in answer.text


def test_no_answer_lets_the_browser_fetch_from_elsewhere(chat_server: LiveServer) -> None:
    page = httpx.get(chat_server.url)
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'") and "http" not in policy
    tags = re.findall(r"<(?:script|link|img)[^>]*>", page.text)
    assert [t for t in tags if re.search(r"""(?:src|href)=["'](?:https?:)?//""", t)] == []


@pytest.mark.parametrize(
    ("host", "welcome"),
    [
        ("localhost:7860", True),
        ("127.0.0.1", True),
        ("[::1]:7860", True),
        ("192.168.1.7:7860", True),
        ("chat.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example:7860", False),
    ],
)
def test_only_our_own_names_are_answered(chat_server: LiveServer, host: str, welcome: bool) -> None:
    answer = httpx.get(f"{chat_server.url}/healthz", headers={"Host": host})
    assert answer.status_code == (200 if welcome else 403)


@pytest.mark.parametrize("path", ["/v1/feedback", "/gradio_api/queue/join"])
def test_a_body_without_a_length_is_cut_off_at_the_limit(
    chat_server: LiveServer, path: str
) -> None:
    def long() -> Iterator[bytes]:
        for _ in range(5_000):
            yield b"x" * 1000

    # The server may hang up while we are still sending: refused as well.
    with suppress(httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError):
        assert httpx.post(f"{chat_server.url}{path}", content=long()).status_code == 413
    assert httpx.get(f"{chat_server.url}/healthz").status_code == 200


def test_while_another_program_holds_the_store_people_are_told_to_try_again(
    chat_server: LiveServer,
) -> None:
    with httpx.Client(base_url=chat_server.url, timeout=60) as client:
        other = sqlite3.connect(chat_server.home / "feedback.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        refused = client.post("/v1/conversations")
        other.execute("ROLLBACK")
        other.close()
        assert refused.status_code == 503 and refused.headers["Retry-After"] == "1"
        assert "\n" not in refused.json()["error"]
        assert client.post("/v1/conversations").status_code == 201
