"""The page's layout and wiring: gradio components on one side, ``handlers.py`` on the other."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from apps import views
from apps.access import owner_of
from apps.handlers import Act, Handlers, TeachView, View

STATIC = Path(__file__).parent / "static"
LOOK_AGAIN_S, IDLE_S = 1.0, 20.0
"""How often a page asks about the training: while it runs, and otherwise."""


def theme() -> gr.themes.Base:
    """Return the look: system fonts only, so that nothing is fetched from elsewhere."""
    return gr.themes.Soft(
        primary_hue="indigo",
        neutral_hue="slate",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"],
        font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
    )


def build_page(handlers: Handlers, *, asks: bool = False) -> gr.Blocks:
    """Lay the page out and connect every button to its handler.

    Args:
        handlers: what the buttons do.
        asks: whether the page may ask which of two replies is better.
    """
    with gr.Blocks(
        title="dialog-rl chat", analytics_enabled=False, fill_height=True, fill_width=True
    ) as page:
        parts = _layout(asks)
        _wire(page, parts, handlers)
    page.queue(default_concurrency_limit=64, max_size=512, api_open=False)
    return page


def _layout(asks: bool) -> dict[str, Any]:
    """Return the components by name; the order is the order on the page."""
    script = (STATIC / "page.js").read_text(encoding="utf-8")
    parts: dict[str, Any] = {}
    with gr.Row(elem_id="head"):
        _html(
            "brand",
            None,
            "<h1>dialog&#8209;rl</h1><p>An assistant that gets better from your ratings.</p>",
        )
        parts["serving"] = _html("serving")
    with gr.Row(elem_id="body"):
        with gr.Column(elem_id="left", scale=2, min_width=200):
            parts["new"] = gr.Button("New conversation", elem_id="new", size="md")
            parts["shelf"] = _html("shelf", script)
        with gr.Column(elem_id="middle", scale=6, min_width=320):
            with gr.Column(elem_id="scroller"):
                parts["talk"] = _html("talk", script, views.talk(None))
                parts["live"] = _html("live")
            with gr.Row(elem_id="compose"):
                parts["message"] = gr.Textbox(
                    placeholder="Type a message",
                    show_label=False,
                    label="Message",
                    container=False,
                    lines=1,
                    max_lines=6,
                    autofocus=True,
                    elem_id="message",
                    scale=8,
                )
                parts["send"] = gr.Button("Send", variant="primary", elem_id="send", scale=1)
            parts["two"] = gr.Checkbox(
                label="Write two replies side by side and let me choose", elem_id="two"
            )
            parts["ask"] = gr.Checkbox(
                label="Now and then ask me which of two replies is better",
                value=asks,
                visible=asks,
                elem_id="ask",
            )
        with gr.Column(elem_id="right", scale=3, min_width=280):
            parts["ratings"] = _html("ratings")
            parts["teach"] = gr.Button("Teach", variant="primary", elem_id="teach")
            parts["card"] = _html("card")
            with gr.Accordion("Catalogue (system prompt)", open=True, elem_id="catalogue"):
                parts["system_prompt"] = gr.Textbox(
                    label="What the assistant knows in this conversation",
                    info="Edit it, then start a new conversation with it.",
                    lines=8,
                    max_lines=12,
                    elem_id="system-prompt",
                )
                parts["with_prompt"] = gr.Button(
                    "New conversation with this catalogue", elem_id="with-prompt", size="sm"
                )
    # Kept in the browser, not in a server session: after a restart the open page goes on.
    parts["conversation_id"] = gr.Textbox(visible="hidden", elem_id="conversation-id")
    parts["timer"] = gr.Timer(LOOK_AGAIN_S)
    return parts


def _html(name: str, script: str | None = None, value: str = "") -> gr.HTML:
    """Return an empty part of the page that is drawn by ``views.py`` and styled by ``page.css``."""
    return gr.HTML(value, elem_id=name, js_on_load=script, apply_default_css=False)


def _wire(page: gr.Blocks, parts: dict[str, Any], handlers: Handlers) -> None:
    """Connect events to handlers; every event hides gradio's own progress overlay."""
    cid, prompt, message, two, ask = (
        parts[name] for name in ("conversation_id", "system_prompt", "message", "two", "ask")
    )
    shown = [
        parts[name] for name in ("conversation_id", "talk", "live", "shelf", "serving", "ratings")
    ] + [prompt, message]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def load(request: gr.Request) -> Any:
        return _show(parts, handlers.load(_owner(request)))

    def new(request: gr.Request) -> Any:
        return _show(parts, handlers.new(_owner(request)))

    def new_with_prompt(text: str, request: gr.Request) -> Any:
        return _show(parts, handlers.new(_owner(request), text))

    def send(
        text: str, conversation_id: str, both: bool, may: bool, system: str, request: gr.Request
    ) -> Iterator[Any]:
        owner = _owner(request)
        steps = handlers.send(owner, conversation_id, text, both, system, ask=may)
        yield from (_show(parts, view) for view in steps)

    def act(
        conversation_id: str,
        both: bool,
        may: bool,
        system: str,
        event: gr.EventData,
        request: gr.Request,
    ) -> Iterator[Any]:
        pressed, owner = _pressed(event), _owner(request)
        steps = handlers.act(owner, conversation_id, pressed, both, system, ask=may)
        yield from (_show(parts, view) for view in steps)

    page.load(load, None, shown, **quiet)
    parts["new"].click(new, None, shown, **quiet)
    parts["with_prompt"].click(new_with_prompt, [prompt], shown, **quiet)
    gr.on(
        [message.submit, parts["send"].click],
        send,
        [message, cid, two, ask, prompt],
        shown,
        trigger_mode="once",
        **quiet,
    )
    for name in ("talk", "shelf"):
        parts[name].click(act, [cid, two, ask, prompt], shown, trigger_mode="multiple", **quiet)
    _wire_teach(page, parts, handlers, quiet)


def _wire_teach(
    page: gr.Blocks, parts: dict[str, Any], handlers: Handlers, quiet: dict[str, Any]
) -> None:
    """Connect the Teach button and the timer that follows a training."""
    shown = [parts[name] for name in ("card", "teach", "serving", "ratings", "timer")]

    def show(view: TeachView) -> list[Any]:
        if view.notice:
            gr.Warning(views.text(view.notice))
        button = gr.Button("Teaching..." if view.running else "Teach", interactive=not view.running)
        pace = gr.Timer(LOOK_AGAIN_S if view.running else IDLE_S)
        return [view.card, button, view.serving, view.ratings, pace]

    look: Callable[[], list[Any]] = lambda: show(handlers.teach_view())  # noqa: E731
    page.load(look, None, shown, **quiet)
    parts["timer"].tick(look, None, shown, **quiet)
    parts["teach"].click(lambda: show(handlers.teach()), None, shown, **quiet)


def _owner(request: gr.Request) -> str:
    return owner_of(request.headers.get("cookie", ""))


def _pressed(event: gr.EventData) -> Act:
    """Read the button that page.js reported; anything else becomes a button nobody knows."""
    data = event._data
    names = ("act", "id", "other", "value", "text")
    if not isinstance(data, dict) or not all(isinstance(data.get(n, ""), str) for n in names):
        return Act(act="?")
    return Act(**{name: data.get(name, "") for name in names})


def _show(parts: dict[str, Any], view: View) -> dict[Any, Any]:
    """Return the components that change."""
    if view.notice:
        gr.Warning(views.text(view.notice))
    names = ("conversation_id", "talk", "live", "shelf", "serving", "ratings")
    values = {parts[name]: getattr(view, name) for name in (*names, "system_prompt", "message")}
    changed = {part: value for part, value in values.items() if value is not None}
    return changed or {parts["live"]: gr.skip()}
