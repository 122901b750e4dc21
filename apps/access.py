"""Who may come in, and how much they may send: one ASGI layer around page and API.

- A cookie (random, HttpOnly, SameSite=Lax) says who somebody is; what is stored is its digest.
- Host names that are not ours are refused (DNS rebinding), and so is a change asked for by a page
  from elsewhere (``Origin``, ``Sec-Fetch-Site``).
- Of gradio's routes only those the page needs exist; uploads, files, proxies, API pages do not.
- A body above the limit is refused before anything reads it.
- No answer lets the browser fetch anything from another host (Content-Security-Policy).
"""

import hashlib
import ipaddress
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "dialog_rl_user"
API_BODY, PAGE_BODY = 256 * 1024, 4 * 1024 * 1024
"""Largest request body, in bytes: of the JSON API, and of the page's own calls (the page explains
a message that is too long itself, and keeps it in the box)."""
YEAR_S = 365 * 24 * 3600

_TOKEN = re.compile(r"[A-Za-z0-9_-]{20,100}")
_PAGE_ROUTES = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/(assets|static|svelte)/.+"
    r"|/gradio_api/(queue/(join|data)|heartbeat/[^/]+|startup-events|theme\.css|reset/?|cancel"
    r"|app_id/?)"
)
_API_ROUTES = re.compile(r"/v1/.*|/healthz")
_CHANGING = ("POST", "PUT", "PATCH", "DELETE")
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        b"connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; "
        b"frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)


def owner_of(cookie_header: str) -> str:
    """Return the owner id that belongs to a cookie header; "" when there is no valid cookie.

    The id is a digest: who reads the database cannot pose as its people.
    """
    try:
        morsel = SimpleCookie(cookie_header).get(COOKIE)
    except CookieError:
        return ""
    if morsel is None or not _TOKEN.fullmatch(morsel.value):
        return ""
    return hashlib.sha256(morsel.value.encode()).hexdigest()[:32]


class Access:
    """The layer; wraps the whole application."""

    def __init__(self, app: App, *, allowed_hosts: Collection[str] = ()) -> None:
        self._app = app
        self._hosts = {"localhost", *(h.lower() for h in allowed_hosts)}
        self._sessions: dict[str, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what may not come in; pass the rest on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # No websocket is served.
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        refused = self._refusal(scope, headers)
        if refused is None:
            receive, refused = await self._read_body(scope, headers, receive)
        if refused is not None:
            await _answer(send, *refused)
            return
        token = self._know(scope, headers)
        await self._app(scope, receive, _with_headers(send, token))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Return status and reason if the request may not come in."""
        path, method = scope["path"], scope["method"]
        host = headers.get("host", "")
        if not self._ours(host):
            return 403, (
                f"host {host[:80]!r} is not served here; use localhost or an IP address, or start "
                "with --allowed_hosts NAME"
            )
        if method in _CHANGING:
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
                return 403, "changes are only taken from this site's own pages"
            if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                return 403, "changes are only taken from this site's own pages"
        if not (_PAGE_ROUTES.fullmatch(path) or _API_ROUTES.fullmatch(path)):
            return 404, "there is nothing here"
        return None

    def _ours(self, host: str) -> bool:
        """Tell whether a Host header names this server: a known name or a plain IP address."""
        name = urlsplit(f"//{host}").hostname if host else None
        if name is None:
            return False
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    async def _read_body(
        self, scope: Scope, headers: dict[str, str], receive: Receive
    ) -> tuple[Receive, tuple[int, str] | None]:
        """Read a body up to its limit; returns what replays it."""
        if scope["method"] not in _CHANGING:
            return receive, self._session_refusal(scope, headers, b"")
        limit = API_BODY if _API_ROUTES.fullmatch(scope["path"]) else PAGE_BODY
        too_large = (413, f"the request is larger than {limit:,} bytes; send it in parts")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > limit:
            return receive, too_large
        body = b""
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                break
            body += event.get("body", b"")
            if len(body) > limit:
                return receive, too_large
            if not event.get("more_body", False):
                break
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> MutableMapping[str, Any]:
            return waiting.pop() if waiting else await receive()

        return replay, self._session_refusal(scope, headers, body)

    def _session_refusal(
        self, scope: Scope, headers: dict[str, str], body: bytes
    ) -> tuple[int, str] | None:
        """Keep a page session to the person who began it: its events carry their conversation."""
        if not scope["path"].startswith("/gradio_api/"):
            return None
        session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
        if body:
            try:
                sent = json.loads(body)
            except ValueError:
                return 422, "the request is not valid JSON"
            session = str(sent.get("session_hash") or session) if isinstance(sent, dict) else ""
        owner = owner_of(headers.get("cookie", ""))
        if scope["path"] == "/gradio_api/queue/join" and not owner:
            return 401, "this page needs its cookie; allow cookies for it and reload"
        if session and owner and self._sessions.setdefault(session, owner) != owner:
            return 404, "there is no such session"
        while len(self._sessions) > 20_000:
            del self._sessions[next(iter(self._sessions))]
        return None

    def _know(self, scope: Scope, headers: dict[str, str]) -> str | None:
        """Note who asks; returns a new cookie token for somebody unknown."""
        owner, token = owner_of(headers.get("cookie", "")), None
        if not owner and (scope["path"] == "/" or scope["path"].startswith("/v1/")):
            token = secrets.token_urlsafe(24)
            owner = owner_of(f"{COOKIE}={token}")
        scope["dialog_rl.owner"] = owner
        return token


def _with_headers(send: Send, token: str | None) -> Send:
    """Return a ``send`` that adds the security headers, and the cookie of a new person."""

    async def wrapped(event: MutableMapping[str, Any]) -> None:
        if event["type"] == "http.response.start":
            extra = list(_HEADERS)
            if token is not None:
                cookie = f"{COOKIE}={token}; Path=/; Max-Age={YEAR_S}; HttpOnly; SameSite=Lax"
                extra.append((b"set-cookie", cookie.encode()))
            event = {**event, "headers": [*event.get("headers", []), *extra]}
        await send(event)

    return wrapped


async def _answer(send: Send, status: int, reason: str) -> None:
    """Answer in one line of JSON."""
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *_HEADERS]})
    await send({"type": "http.response.body", "body": body})
