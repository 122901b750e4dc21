"""The JSON API under ``/v1``: the same doors as the page, for scripts and other front ends.

Errors are ``{"error": "one line"}``: 404 not there or not yours, 409 an idempotency key with other
content (or a training that runs), 413 too large, 422 cannot be used, 429 too much at once, 503 the
store or the model cannot be reached, 507 the disk is full. 429 and 503 say when to try again.
"""

import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool

from dialog_rl.conversation import Reply
from dialog_rl.errors import (
    Busy,
    ConfigError,
    Conflict,
    DataError,
    DialogRLError,
    NotFound,
    StoreFull,
    TooLarge,
)
from dialog_rl.service import ChatService
from dialog_rl.teach import TeachJob
from dialog_rl.transcript import Transcript
from dialog_rl.writing import ReplyStream

log = logging.getLogger(__name__)
T = TypeVar("T")
RETRY_AFTER_S = "1"


def error_response(error: DialogRLError) -> JSONResponse:
    """Return an error as the API says it."""
    status = _status(error)
    headers = {"Retry-After": RETRY_AFTER_S} if status in (429, 503) else None
    return JSONResponse({"error": str(error)}, status_code=status, headers=headers)


def _status(error: DialogRLError) -> int:
    """Return the HTTP status of an error; what is not the asker's doing is 503."""
    for kind, status in (
        (NotFound, 404),
        (Conflict, 409),
        (TooLarge, 413),
        (DataError, 422),
        (ConfigError, 422),
        (StoreFull, 507),
        (Busy, 429),
    ):
        if isinstance(error, kind):
            return status
    return 503


def build_api(service: ChatService, teach: TeachJob) -> APIRouter:
    """Return the routes over one chat service and one training job."""
    api = APIRouter(include_in_schema=False)
    _add_conversations(api, service)
    _add_feedback(api, service)

    @api.get("/healthz")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/v1/status")
    def status() -> dict[str, Any]:
        version, problem = service.serving()
        return {
            "adapter_version": version,
            "problem": problem,
            "ratings": service.counts(),
            "teach": vars(teach.status()),
        }

    @api.post("/v1/teach")
    def start_teaching() -> Response:
        try:
            return JSONResponse(vars(teach.start()), status_code=202)
        except Busy as error:
            return JSONResponse({"error": str(error)}, status_code=409)

    return api


def _add_conversations(api: APIRouter, service: ChatService) -> None:
    """Add the routes that talk."""

    @api.post("/v1/conversations")
    async def start(request: Request) -> Response:
        body = _fields(await request.body(), {"system_prompt", "title"})
        prompt, title = body.get("system_prompt"), body.get("title", "New conversation")
        owner = _owner(request)
        head = await _call(lambda: service.start(owner, prompt, title=title))
        return JSONResponse(vars(head) | {"owner": "you"}, status_code=201)

    @api.get("/v1/conversations")
    def conversations(request: Request) -> Response:
        listed = service.history(_owner(request))
        return JSONResponse({"conversations": [vars(c) | {"owner": "you"} for c in listed]})

    @api.get("/v1/conversations/{conversation_id}")
    def conversation(request: Request, conversation_id: str) -> Response:
        return JSONResponse(transcript_json(service.transcript(_owner(request), conversation_id)))

    @api.post("/v1/conversations/{conversation_id}/messages")
    async def message(request: Request, conversation_id: str) -> Response:
        body = _fields(await request.body(), {"text", "candidates", "stream"}, needs={"text"})
        candidates, owner = body.get("candidates", 1), _owner(request)
        if candidates not in (1, 2) or isinstance(candidates, bool):
            raise DataError(f"candidates must be 1 or 2, got {str(candidates)[:40]!r}")
        text = body["text"]
        if candidates == 2:
            both = await _call(lambda: service.candidates(owner, conversation_id, text))
            return JSONResponse({"candidates": [reply_json(r) for r in both]}, status_code=201)
        stream = await _call(lambda: service.send(owner, conversation_id, text))
        if body.get("stream") is True:
            return StreamingResponse(_events(stream), media_type="text/event-stream")
        return JSONResponse(reply_json(await _call(stream.read)), status_code=201)

    @api.post("/v1/replies/{reply_id}/retry")
    async def retry(request: Request, reply_id: str) -> Response:
        owner = _owner(request)
        reply = await _call(lambda: service.retry(owner, reply_id).read())
        return JSONResponse(reply_json(reply), status_code=201)


def _add_feedback(api: APIRouter, service: ChatService) -> None:
    """Add the route that rates."""

    @api.post("/v1/feedback")
    async def feedback(request: Request) -> Response:
        body = _fields(
            await request.body(),
            {"kind", "reply_id", "conversation_id", "other_reply_id", "value", "text", "tags"}
            | {"withdraws"},
            needs={"kind"},
        )
        owner, key = _owner(request), request.headers.get("idempotency-key")
        fresh = await _call(lambda: _rate(service, owner, body, key))
        return JSONResponse({"stored": True, "repeated": not fresh}, 201 if fresh else 200)


def _rate(service: ChatService, owner: str, body: dict[str, Any], key: str | None) -> bool:
    """Store one rating.

    Raises:
        DataError: a field is missing or has a value that is not allowed.
    """
    kind, value = body["kind"], body.get("value")

    def need(name: str) -> str:
        if not isinstance(body.get(name), str):
            raise DataError(f'feedback of kind {kind!r} needs "{name}" (text)')
        return str(body[name])

    if kind == "thumb":
        if value not in (0, 1):
            raise DataError(f"value of a thumb must be 1 (up) or 0 (down), got {value!r}")
        return service.rate_thumb(
            owner, need("reply_id"), value == 1, _tags(body), body.get("text"), key=key
        )
    if kind == "stars":
        return service.rate_stars(owner, need("reply_id"), _whole(value), key=key)
    if kind == "choice":
        if value not in (0.5, 1, None):
            raise DataError(f"value of a choice must be 1 (better) or 0.5 (tie), got {value!r}")
        tie = value == 0.5
        return service.vote(owner, need("reply_id"), need("other_reply_id"), tie=tie, key=key)
    if kind == "correction":
        return service.correct(owner, need("reply_id"), need("text"), key=key)
    if kind == "tags":
        return service.tag(owner, need("reply_id"), _tags(body), body.get("text"), key=key)
    if kind == "end_rating":
        return service.end_rating(owner, need("conversation_id"), _whole(value), key=key)
    if kind == "withdrawal":
        taken = need("withdraws")
        if taken not in ("thumb", "stars", "choice", "correction", "tags", "end_rating"):
            raise DataError(f"withdraws names a kind of rating, got {taken[:40]!r}")
        where = {n: need(n) for n in ("reply_id", "other_reply_id", "conversation_id") if n in body}
        return service.withdraw(owner, taken, key=key, **where)  # type: ignore[arg-type]
    raise DataError(
        "kind must be one of thumb, stars, choice, correction, tags, end_rating, withdrawal; "
        f"got {str(kind)[:40]!r}"
    )


def _tags(body: dict[str, Any]) -> list[str]:
    tags = body.get("tags", [])
    if not isinstance(tags, list):
        raise DataError("tags must be a list of texts")
    return tags


def _whole(value: Any) -> Any:
    """Return 4.0 as 4; the service refuses what is no whole number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _fields(body: bytes, known: set[str], *, needs: set[str] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
    """Read a JSON object with known keys; an empty body is an empty object.

    Raises:
        DataError: not UTF-8, not JSON, not an object, or a key unknown or missing.
    """
    try:
        value = json.loads(body.decode("utf-8") or "{}")
    except UnicodeDecodeError:
        raise DataError("the request is not valid UTF-8") from None
    except (ValueError, RecursionError):
        raise DataError("the request is not valid JSON") from None
    if not isinstance(value, dict):
        raise DataError(f"the request must be a JSON object, got {type(value).__name__}")
    unknown, missing = set(value) - known, needs - set(value)
    if unknown:
        odd, allowed = repr(min(unknown))[:40], ", ".join(sorted(known))
        raise DataError(f"unknown key {odd}; allowed: {allowed}")
    if missing:
        raise DataError(f'the key "{min(missing)}" is missing')
    return value


def _owner(request: Request) -> str:
    return str(request.scope["dialog_rl.owner"])


async def _call(work: Callable[[], T]) -> T:
    """Run blocking work beside the event loop."""
    return await run_in_threadpool(work)


async def _events(stream: ReplyStream) -> AsyncIterator[str]:
    """Yield a reply as server-sent events; a reader who leaves stops the writing."""

    def pieces() -> Iterator[str]:
        for delta in stream:
            yield _event({"delta": delta})
        if stream.reply is not None:
            yield _event({"reply": reply_json(stream.reply)})

    try:
        async for piece in iterate_in_threadpool(pieces()):
            yield piece
    except DialogRLError as error:
        yield _event({"error": str(error)})
    finally:
        await run_in_threadpool(stream.close)


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def reply_json(reply: Reply) -> dict[str, Any]:
    """Return what a person sees of a reply."""
    return {
        "reply_id": reply.reply_id,
        "conversation_id": reply.conversation_id,
        "turn": reply.turn,
        "text": reply.text,
        "adapter_version": reply.adapter_version,
        "finish_reason": reply.finish_reason,
        "created_at": reply.created_at,
    }


def transcript_json(transcript: Transcript) -> dict[str, Any]:
    """Return a conversation with its turns and ratings."""
    return {
        **vars(transcript.conversation),
        "owner": "you",
        "end_rating": transcript.end_rating,
        "turns": [
            {
                "index": turn.index,
                "user_text": turn.user_text,
                "chosen_reply_id": turn.chosen_reply_id,
                "replies": [
                    reply_json(r) | {"feedback": vars(transcript.marks_on(r.reply_id))}
                    for r in turn.replies
                ],
            }
            for turn in transcript.turns
        ],
    }
