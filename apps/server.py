"""The chat server: page and JSON API in one process, one port, without any outside host.

Start-up order is for the person who waits: torch first with its thread count set, then the model,
which is warmed up in the background while gradio lays the page out.
"""

import logging
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

from dialog_rl.config import ChatSettings
from dialog_rl.errors import ConfigError, DataError, DialogRLError
from dialog_rl.limits import check_text
from dialog_rl.teach import TeachJob, chat_threads

# Before gradio is imported: nothing is reported to anybody, nothing is fetched.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import gradio as gr
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response

from apps.access import Access, App
from apps.api import build_api, error_response
from apps.chat import STATIC, build_page, theme
from apps.handlers import Handlers
from dialog_rl.service import ChatService

log = logging.getLogger(__name__)


def build_app(
    service: ChatService,
    teach: TeachJob,
    *,
    allowed_hosts: tuple[str, ...] = (),
    asks: bool = False,
) -> App:
    """Return the whole ASGI application: API, page, and the access layer around both."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, title="dialog-rl")
    app.include_router(build_api(service, teach))

    @app.exception_handler(DialogRLError)
    async def refused(_: Request, error: DialogRLError) -> Response:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def not_served(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": str(error.detail)}, status_code=error.status_code)

    @app.middleware("http")
    async def never_a_traceback(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        # The boundary to the outside: whatever went wrong is logged here and told in one line.
        try:
            return await call_next(request)
        except Exception:  # boundary: one request's fault is not another's
            log.exception("%s %s failed", request.method, request.url.path)
            return JSONResponse({"error": "something went wrong here; the log says what"}, 500)

    page = build_page(Handlers(service, teach), asks=asks)
    gr.mount_gradio_app(
        app,
        page,
        path="",
        theme=theme(),
        css=(STATIC / "page.css").read_text(encoding="utf-8"),
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        max_file_size=0,
    )
    return Access(app, allowed_hosts=allowed_hosts)


def run_chat(*, home: Path, model_name_or_path: str | None, settings: ChatSettings) -> None:
    """Serve the chat until it is interrupted.

    Args:
        home: folder that keeps feedback, adapters and runs.
        model_name_or_path: the base model; None is the bundled one.
        settings: how to serve and to sample.

    Raises:
        ConfigError: the port is taken, or the system prompt file cannot be read.
        PolicyError: the model cannot be loaded.
        StoreError: the store cannot be opened.
    """
    system_prompt = _system_prompt(settings.system_prompt_file)
    listener = _listen(settings.host, settings.port)
    service, close = _load(home, model_name_or_path, settings, system_prompt)
    limit = ("--max_seconds", str(settings.teach_seconds))
    teach = TeachJob(home, model_name_or_path, flags=limit)
    asks = settings.ask != "never" and settings.temperature > 0
    app = build_app(service, teach, allowed_hosts=settings.allowed_hosts, asks=asks)
    config = uvicorn.Config(
        app, log_level="warning", server_header=False, timeout_graceful_shutdown=3
    )
    shown = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    shown = f"[{shown}]" if ":" in shown else shown
    sys.stderr.write(f"Chat page: http://{shown}:{listener.getsockname()[1]}/  (Ctrl-C stops)\n")
    sys.stderr.flush()
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        close()


def _load(
    home: Path,
    model_name_or_path: str | None,
    settings: ChatSettings,
    system_prompt: str | None,
) -> tuple[ChatService, Callable[[], None]]:
    """Open the store, load the model and begin to warm it up."""
    from dialog_rl.asking import Asker, NewestReward
    from dialog_rl.choosing import choosers
    from dialog_rl.manager import DialogManager
    from dialog_rl.policy import Policy
    from dialog_rl.registry import AdapterRegistry
    from dialog_rl.store import FeedbackStore

    store = FeedbackStore(home / "feedback.db")
    policy = Policy.load(
        model_name_or_path,
        num_threads=settings.num_threads or chat_threads(),
        precision="auto",
    )
    manager = DialogManager(
        policy, context_budget=settings.context_budget, params=settings.sampling()
    )
    registry = AdapterRegistry(home)
    manager.choosers = choosers(
        settings.decode,
        settings.candidates,
        policy=policy,
        home=home,
        registry=registry,
        versions=[registry.current()],
    )
    service = ChatService(
        store,
        manager,
        registry,
        settings.sampling(),
        default_system=system_prompt,
        asker=Asker(settings, NewestReward(home, policy)),
    )
    threading.Thread(target=service.warm_up, name="warm-up", daemon=True).start()

    def close() -> None:
        policy.scheduler.close()
        store.close()

    return service, close


def _system_prompt(file: str | None) -> str | None:
    """Read the catalogue that new conversations start with.

    Raises:
        ConfigError: the file cannot be read or used.
    """
    if file is None:
        return None
    try:
        return check_text(Path(file).read_text(encoding="utf-8").strip(), "system prompt")
    except (OSError, UnicodeDecodeError, DataError) as error:
        raise ConfigError(f"system_prompt_file {file!r} cannot be used: {error}") from error


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before the slow part of the start.

    Raises:
        ConfigError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error.strerror}); "
            "is a chat running already? Give another --port"
        ) from error
    return listener
