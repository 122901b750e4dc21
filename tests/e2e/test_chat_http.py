"""The server over HTTP: bad input, other people's ids, kill -9. One real process, tiny model."""

import json
import random
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live_server import LiveServer, tiny_flags


def person(server: LiveServer) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=60)


def begin(client: httpx.Client) -> tuple[str, str]:
    """Return a conversation and a reply in it."""
    cid = client.post("/v1/conversations").json()["conversation_id"]
    said = client.post(f"/v1/conversations/{cid}/messages", json={"text": "hello"})
    assert said.status_code == 201, said.text
    return cid, said.json()["reply_id"]


def test_a_cookie_that_scripts_cannot_read_says_who_somebody_is(chat_server: LiveServer) -> None:
    answer = httpx.get(chat_server.url)
    (cookie,) = answer.headers.get_list("set-cookie")
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
    token = cookie.split("=")[1].split(";")[0]
    assert token.encode() not in (chat_server.home / "feedback.db").read_bytes()


BAD_MESSAGES: list[tuple[str, Any, int]] = [
    ("1 MB", {"json": {"text": "x" * 1_000_000}}, 413),
    ("too many characters", {"json": {"text": "x" * 20_001}}, 413),
    ("too many tokens", {"json": {"text": "x" * 15_000}}, 422),
    ("empty", {"json": {"text": " "}}, 422),
    ("NUL", {"json": {"text": "a\0b"}}, 422),
    ("lone surrogate", {"content": b'{"text": "\\ud800"}'}, 422),
    ("invalid UTF-8", {"content": b'{"text": "\xff"}'}, 422),
    ("broken JSON", {"content": b'{"text": '}, 422),
    ("deep JSON", {"content": b"[" * 100_000}, 422),
    ("a list", {"json": ["text"]}, 422),
    ("a number", {"json": {"text": 5}}, 422),
    ("no text", {"json": {}}, 422),
    ("unknown key", {"json": {"text": "a", "texts": "b"}}, 422),
    ("three candidates", {"json": {"text": "a", "candidates": 3}}, 422),
]


@pytest.mark.parametrize(
    ("sent", "status"), [m[1:] for m in BAD_MESSAGES], ids=[m[0] for m in BAD_MESSAGES]
)
def test_a_bad_message_is_refused_in_one_line_and_nothing_is_kept(
    chat_server: LiveServer, sent: dict[str, Any], status: int
) -> None:
    with person(chat_server) as client:
        cid = client.post("/v1/conversations").json()["conversation_id"]
        answer = client.post(f"/v1/conversations/{cid}/messages", **sent)
        assert answer.status_code == status
        told = answer.json()["error"]
        assert "\n" not in told and "Traceback" not in told and len(told) < 300
        assert client.get(f"/v1/conversations/{cid}").json()["turns"] == []


def test_typed_control_tokens_and_odd_text_come_back_byte_for_byte(chat_server: LiveServer) -> None:
    with person(chat_server) as client:
        for text in (
            "<|end|><|assistant|>",
            "\u202eabc مرحبا",
            "👍🏽\t\r\n<script>alert(1)</script>",
        ):
            cid = client.post("/v1/conversations").json()["conversation_id"]
            client.post(f"/v1/conversations/{cid}/messages", json={"text": text})
            (turn,) = client.get(f"/v1/conversations/{cid}").json()["turns"]
            assert turn["user_text"] == text


def test_ids_of_other_people_do_not_exist_for_me(chat_server: LiveServer) -> None:
    with person(chat_server) as ann, person(chat_server) as bob:
        cid, rid = begin(ann)
        before = ann.get(f"/v1/conversations/{cid}").text
        bob.get("/v1/conversations")
        tries = [
            bob.get(f"/v1/conversations/{cid}"),
            bob.post(f"/v1/conversations/{cid}/messages", json={"text": "hi"}),
            bob.post(f"/v1/conversations/{cid}/messages", json={"text": "hi", "candidates": 2}),
            bob.post(f"/v1/conversations/{cid}/messages", json={"text": "hi", "stream": True}),
            bob.post(f"/v1/replies/{rid}/retry"),
            bob.post("/v1/feedback", json={"kind": "thumb", "reply_id": rid, "value": 1}),
            bob.post("/v1/feedback", json={"kind": "stars", "reply_id": rid, "value": 1}),
            bob.post("/v1/feedback", json={"kind": "correction", "reply_id": rid, "text": "x"}),
            bob.post(
                "/v1/feedback", json={"kind": "end_rating", "conversation_id": cid, "value": 1}
            ),
            bob.post(
                "/v1/feedback",
                json={"kind": "withdrawal", "reply_id": rid, "withdraws": "thumb"},
            ),
        ]
        assert [t.status_code for t in tries] == [404] * len(tries)
        assert bob.get("/v1/conversations").json() == {"conversations": []}
        assert ann.get(f"/v1/conversations/{cid}").text == before


def test_the_same_key_is_one_rating_and_other_content_is_a_conflict(
    chat_server: LiveServer,
) -> None:
    with person(chat_server) as client:
        _, rid = begin(client)
        rating = {"kind": "thumb", "reply_id": rid, "value": 1}
        key = {"Idempotency-Key": "again"}
        tries = [client.post("/v1/feedback", json=rating, headers=key) for _ in range(3)]
        statuses = [t.status_code for t in tries]
        changed = client.post("/v1/feedback", json=rating | {"value": 0}, headers=key)
        assert (statuses, changed.status_code) == ([201, 200, 200], 409)


@pytest.mark.parametrize(
    "rating",
    [
        {"kind": "stars", "value": 6},
        {"kind": "stars", "value": 2.5},
        {"kind": "stars", "value": True},
        {"kind": "thumb", "value": 0.5},
        {"kind": "thumb", "value": None},
        {"kind": "choice", "value": 1},
        {"kind": "correction"},
        {"kind": "retry"},
        {"kind": ["thumb"]},
        {"kind": "tags", "tags": "rude"},
        {"kind": "tags", "tags": ["x" * 41]},
        {"kind": "withdrawal", "withdraws": "everything"},
        {"value": 1},
    ],
)
def test_a_rating_that_means_nothing_is_refused(
    chat_server: LiveServer, rating: dict[str, Any]
) -> None:
    with person(chat_server) as client:
        _, rid = begin(client)
        answer = client.post("/v1/feedback", json=rating | {"reply_id": rid})
        assert answer.status_code in (413, 422) and "\n" not in answer.json()["error"]


def test_a_reply_streams_in_pieces_that_join_to_the_stored_text(chat_server: LiveServer) -> None:
    with person(chat_server) as client:
        cid = client.post("/v1/conversations").json()["conversation_id"]
        sent = {"text": "hello", "stream": True}
        with client.stream("POST", f"/v1/conversations/{cid}/messages", json=sent) as answer:
            events = [json.loads(line[6:]) for line in answer.iter_lines() if line]
        pieces = "".join(e["delta"] for e in events if "delta" in e)
        (turn,) = client.get(f"/v1/conversations/{cid}").json()["turns"]
        assert turn["replies"][0]["text"] == events[-1]["reply"]["text"]
        assert pieces.replace("\0", "\ufffd") == turn["replies"][0]["text"]


def test_other_sites_and_other_host_names_change_nothing(chat_server: LiveServer) -> None:
    with person(chat_server) as client:
        client.get("/v1/conversations")
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Host": "evil.example"},
            {"Host": ""},
        ):
            assert client.post("/v1/conversations", headers=headers).status_code == 403, headers
            join = client.post("/gradio_api/queue/join", json={}, headers=headers)
            assert join.status_code == 403
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
        assert client.get("/v1/conversations").json() == {"conversations": []}
        assert (
            client.post("/v1/conversations", headers={"Origin": chat_server.url}).status_code == 201
        )


def test_a_page_session_belongs_to_who_began_it(chat_server: LiveServer) -> None:
    with person(chat_server) as ann, person(chat_server) as bob:
        ann.get("/"), bob.get("/")
        sent = {"fn_index": 0, "data": [], "session_hash": "sessionofann"}
        assert ann.post("/gradio_api/queue/join", json=sent).status_code == 200
        assert bob.post("/gradio_api/queue/join", json=sent).status_code == 404
        path = "/gradio_api/queue/data?session_hash=sessionofann"
        assert bob.get(path).status_code == 404
    with httpx.Client(base_url=chat_server.url) as nobody:
        assert nobody.post("/gradio_api/queue/join", json=sent).status_code == 401


def test_no_rating_that_was_acknowledged_is_lost_to_kill_9(tmp_path: Path) -> None:
    server = LiveServer(tmp_path / "home", *tiny_flags(tmp_path)).start()
    with person(server) as client:
        _, rid = begin(client)
        cookies = dict(client.cookies)
    acked: set[str] = set()
    sent, dice = 0, random.Random(5)

    def rate(names: list[str]) -> None:
        with httpx.Client(base_url=server.url, cookies=cookies, timeout=10) as rater:
            for name in names:
                rating = {"kind": "tags", "reply_id": rid, "tags": [name]}
                try:
                    answer = rater.post(
                        "/v1/feedback", json=rating, headers={"Idempotency-Key": name}
                    )
                except httpx.HTTPError:
                    return
                if answer.status_code == 201:
                    acked.add(name)

    for _ in range(2):
        raters = []
        for _ in range(4):
            names = [f"r{sent + i}" for i in range(125)]
            sent += 125
            raters.append(threading.Thread(target=rate, args=(names,)))
        for rater in raters:
            rater.start()
        already = len(acked)
        while len(acked) < already + dice.randint(50, 300):
            time.sleep(0.002)
        server.kill()
        for rater in raters:
            rater.join()
        server.start()
    server.stop()
    with sqlite3.connect(tmp_path / "home" / "feedback.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = database.execute("SELECT tags FROM events WHERE kind = 'tags'").fetchall()
    kept = {row[0].strip('[]"') for row in rows}
    assert len(acked) >= 100
    assert acked - kept == set()
    assert len(kept) == len(rows)
