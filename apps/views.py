"""What the page shows, as HTML made of values. Every text a person or a model wrote is escaped.

Buttons carry ``data-act`` (and ``data-id``, ``data-value``); ``static/page.js`` sends them on and
``handlers.py`` says what each one does.
"""

import html
import time
from collections.abc import Mapping, Sequence

from dialog_rl.conversation import BASE_VERSION, Conversation, Reply, Turn
from dialog_rl.feedback import AskReason
from dialog_rl.transcript import Marks, Transcript, chosen_reply

REASONS_UP = ("helpful", "right facts", "polite", "to the point", "asked the right question")
REASONS_DOWN = (
    "did not answer",
    "wrong facts",
    "made something up",
    "rude",
    "too long",
    "too short",
    "repeats itself",
)
EXAMPLES = (
    "I am looking for a cheap restaurant in the north.",
    "Can you book me a hotel for two nights?",
    "When does the next train leave?",
    "What can you do?",
)
_QUESTIONS: Mapping[AskReason | None, str] = {
    None: "Which reply is better?",
    "random": "Here is another reply to the same message. Which one is better?",
    "active": "It is not sure which of these you like better, and would learn much from a choice.",
}
_TEMPLATE_SIGNS = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})
_THUMB = (
    '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M7 10v11H3V10h4Zm2 11V9.5l4-7.3c1.6 0 '
    "2.6 1.2 2.3 2.8L14.6 9H20a2 2 0 0 1 2 2.4l-1.6 8A2 2 0 0 1 18.4 21H9Z"
    '"/></svg>'
)
_STAR = (
    '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="m12 2.5 2.9 6.2 6.8.8-5 '
    '4.6 1.3 6.7-6-3.3-6 3.3 1.3-6.7-5-4.6 6.8-.8z"/></svg>'
)


def text(value: str) -> str:
    """Return text that shows as it was typed: no markup, no template sign keeps a meaning.

    >>> text("<b>${x}</b>")
    '&lt;b&gt;&#36;&#123;x&#125;&lt;/b&gt;'
    """
    return html.escape(value).translate(_TEMPLATE_SIGNS)


def version_name(version: str) -> str:
    """Return how an adapter version is called on the page."""
    return "base model" if version == BASE_VERSION else version


# -- the conversation ------------------------------------------------------------------------


def talk(transcript: Transcript | None, *, open_reasons: str = "", editing: str = "") -> str:
    """Return a conversation with its ratings and the buttons to change them.

    Args:
        transcript: what to show; None or empty shows a welcome.
        open_reasons: id of the reply whose reasons and comment are open.
        editing: id of the reply that is being rewritten.
    """
    if transcript is None or not transcript.turns:
        return _welcome()
    pending = transcript.pending_vote()
    last = transcript.turns[-1]
    parts = []
    for turn in transcript.turns:
        parts.append(_said_by_user(turn.user_text))
        if turn is last and pending is not None:
            reason = transcript.questions.get((pending[0].reply_id, pending[1].reply_id))
            parts.append(_vote_cards(*pending, reason))
        elif not turn.replies:
            parts.append(_no_reply(turn is last))
        else:
            parts.append(
                _answer(transcript, turn, turn is last, open_reasons=open_reasons, editing=editing)
            )
    if any(turn.replies for turn in transcript.turns) and pending is None:
        parts.append(_end_rating(transcript.end_rating))
    cid = text(transcript.conversation.conversation_id)
    return f'<div class="talk" role="log" data-cid="{cid}">{"".join(parts)}</div>'


def writing(user_text: str | None, *replies: str) -> str:
    """Return the exchange that is being written: the message, and one or two unfinished replies."""
    said = "" if user_text is None else _said_by_user(user_text)
    if len(replies) > 1:
        cards = "".join(
            f'<div class="card"><h4>{letter}</h4><div class="says">{text(r)}<i class="cur"></i>'
            "</div></div>"
            for letter, r in zip("AB", replies, strict=True)
        )
        pair = f'<div class="vote"><div class="cards">{cards}</div></div>'
        return f'<div class="talk">{said}{pair}</div>'
    body = text(replies[0]) if replies and replies[0] else ""
    waiting = body + '<i class="cur"></i>' if body else '<i class="dots"><b></b><b></b><b></b></i>'
    bubble = f'<article class="msg bot"><div class="bubble">{waiting}</div></article>'
    return f'<div class="talk">{said}{bubble}</div>'


def _welcome() -> str:
    examples = "".join(
        f'<button class="example" data-act="example" data-value="{text(e)}">{text(e)}</button>'
        for e in EXAMPLES
    )
    return (
        '<div class="welcome"><h2>Talk, rate, teach</h2><ol>'
        "<li><b>Talk</b> to the assistant. It answers from the catalogue shown on this page.</li>"
        "<li><b>Rate</b> its replies: thumbs, stars, a better reply in your own words, "
        "or a choice between two.</li>"
        "<li><b>Teach</b>: it trains on all ratings, and the new version takes over only if it is "
        "measurably better.</li></ol>"
        f'<p class="hint">Try one of these:</p><div class="examples">{examples}</div></div>'
    )


def _said_by_user(said: str) -> str:
    return f'<article class="msg me"><div class="bubble">{text(said)}</div></article>'


def _no_reply(is_last: bool) -> str:
    button = '<button class="plain" data-act="answer">Answer it now</button>' if is_last else ""
    return f'<p class="note">This message got no reply. {button}</p>'


def _answer(
    transcript: Transcript, turn: Turn, is_last: bool, *, open_reasons: str, editing: str
) -> str:
    reply = chosen_reply(turn)
    if reply is None:
        return ""
    marks = transcript.marks_on(reply.reply_id)
    rid = text(reply.reply_id)
    if editing == reply.reply_id:
        body = _editor(marks.correction or reply.text)
    else:
        body = (
            f'<div class="bubble">{text(marks.correction or reply.text) or "<i>(empty)</i>"}</div>'
        )
    below = "" if editing == reply.reply_id else _bar(reply, marks, is_last)
    if open_reasons == reply.reply_id and marks.thumb is not None:
        below += _reasons(marks)
    else:
        below += _reasons_given(marks)
    if marks.correction is not None:
        below += _details("You rewrote this; the model had said", [reply.text])
    others = [r.text for r in turn.replies if r.reply_id != reply.reply_id]
    if others and marks.vote:
        words = {"won": "You preferred this one; the other was", "tie": "About the same as"}
        below += _details(words.get(marks.vote, "The other one was"), others)
    elif others and reply == turn.replies[0]:
        below += _details("Another reply to this message", others)
    elif others:
        below += _details(f"{len(others)} earlier {'try' if len(others) == 1 else 'tries'}", others)
    return f'<article class="msg bot" data-reply="{rid}">{body}{below}</article>'


def _bar(reply: Reply, marks: Marks, is_last: bool) -> str:
    retry = (
        '<button class="plain" data-act="retry" title="Let it answer once more">Try again</button>'
        if is_last
        else ""
    )
    return (
        '<div class="bar">'
        + _thumb("up", "Good reply", marks.thumb is True)
        + _thumb("down", "Bad reply", marks.thumb is False)
        + _stars("stars", marks.stars, "this reply")
        + '<button class="plain" data-act="edit" title="Write what it should have said">'
        + "Write a better reply</button>"
        + retry
        + f'<span class="who" title="The adapter version that wrote this reply">'
        f"{text(version_name(reply.adapter_version))}</span></div>"
    )


def _thumb(act: str, label: str, on: bool) -> str:
    state = " on" if on else ""
    return (
        f'<button class="thumb {act}{state}" data-act="{act}" title="{label}" '
        f'aria-label="{label}" aria-pressed="{str(on).lower()}">{_THUMB}</button>'
    )


def _stars(act: str, given: int | None, what: str) -> str:
    buttons = "".join(
        f'<button class="star{" on" if given and n <= given else ""}" data-act="{act}" '
        f'data-value="{n}" aria-label="{n} of 5 stars for {what}" title="{n} of 5">{_STAR}</button>'
        for n in range(1, 6)
    )
    return f'<span class="stars" data-given="{given or 0}">{buttons}</span>'


def _reasons(marks: Marks) -> str:
    offered = REASONS_UP if marks.thumb else REASONS_DOWN
    own = tuple(t for t in marks.tags if t not in offered)
    chips = "".join(
        f'<button class="chip{" on" if r in marks.tags else ""}" data-act="reason" '
        f'data-value="{text(r)}" aria-pressed="{str(r in marks.tags).lower()}">{text(r)}</button>'
        for r in (*offered, *own)
    )
    return (
        f'<div class="reasons"><span>{"What was good?" if marks.thumb else "What was wrong?"}'
        f'</span><div class="chips">{chips}</div><div class="comment">'
        f'<input type="text" maxlength="2000" placeholder="Say more (optional)" '
        f'aria-label="Comment on this reply" value="{text(marks.comment or "")}">'
        '<button class="plain" data-act="comment">Save and close</button></div></div>'
    )


def _reasons_given(marks: Marks) -> str:
    if not marks.tags and not marks.comment:
        return ""
    chips = "".join(f'<span class="chip on still">{text(t)}</span>' for t in marks.tags)
    comment = f"<q>{text(marks.comment)}</q>" if marks.comment else ""
    return f'<div class="given">{chips}{comment}</div>'


def _editor(current: str) -> str:
    return (
        '<div class="editor"><textarea rows="4" aria-label="A better reply">'
        f"\n{text(current)}</textarea><div>"
        '<button class="strong" data-act="correct">Save the better reply</button>'
        '<button class="plain" data-act="cancel">Cancel</button></div></div>'
    )


def _details(summary: str, texts: Sequence[str]) -> str:
    quotes = "".join(f"<blockquote>{text(t)}</blockquote>" for t in texts)
    return f"<details><summary>{summary}</summary>{quotes}</details>"


def _vote_cards(first: Reply, second: Reply, reason: AskReason | None) -> str:
    """Two replies to choose from; ``reason`` is why the page asks, None if the person wanted it."""
    cards = "".join(
        f'<div class="card" data-reply="{text(r.reply_id)}"><h4>{letter}</h4>'
        f'<div class="says">{text(r.text)}</div>'
        f'<button class="strong" data-act="vote" data-id="{text(r.reply_id)}" '
        f'data-other="{text(o.reply_id)}" data-value="win">{letter} is better</button></div>'
        for letter, r, o in (("A", first, second), ("B", second, first))
    )
    both = f'data-id="{text(first.reply_id)}" data-other="{text(second.reply_id)}"'
    skip = f'<button class="plain" data-act="skip" {both}>Skip</button>' if reason else ""
    return (
        f'<div class="vote"><p class="hint">{_QUESTIONS[reason]}</p><div class="cards">{cards}'
        f'</div><button class="plain" data-act="vote" {both} data-value="tie">About the same'
        f"</button>{skip}</div>"
    )


def _end_rating(given: int | None) -> str:
    words = "Your rating of the whole conversation" if given else "How was this conversation?"
    return f'<div class="end"><span>{words}</span>{_stars("end", given, "this conversation")}</div>'


# -- beside the conversation -----------------------------------------------------------------


def shelf(conversations: Sequence[Conversation], current: str) -> str:
    """Return the list of a person's conversations, the open one marked."""
    if not conversations:
        return '<p class="hint">Your conversations will be listed here.</p>'
    rows = "".join(
        f'<li><button class="row{" on" if c.conversation_id == current else ""}" data-act="open" '
        f'data-id="{text(c.conversation_id)}"><span>{text(c.title)}</span>'
        f"<small>{_when(c.created_at)}</small></button></li>"
        for c in conversations[:50]
    )
    more = f'<p class="hint">and {len(conversations) - 50} older</p>' if conversations[50:] else ""
    return f'<ul class="shelf">{rows}</ul>{more}'


def _when(moment: float) -> str:
    then, now = time.localtime(moment), time.localtime()
    return time.strftime("%H:%M" if then[:3] == now[:3] else "%d %b %Y", then)


def serving(version: str, problem: str | None) -> str:
    """Return which adapter answers, and what is wrong with a newer one."""
    extra = "" if version != BASE_VERSION else " (not taught yet)"
    bad = f'<p class="problem">{text(problem)}</p>' if problem else ""
    return (
        f'<div class="serving"><span class="dot"></span>Answering now: '
        f"<b>{text(version_name(version))}</b>{extra}</div>{bad}"
    )


def ratings(counts: dict[str, int]) -> str:
    """Return how many ratings there are to learn from, by kind."""
    names = {
        "thumb": ("thumb", "thumbs"),
        "stars": ("star rating", "star ratings"),
        "choice": ("vote", "votes"),
        "correction": ("better reply", "better replies"),
        "end_rating": ("conversation rating", "conversation ratings"),
        "retry": ("retry", "retries"),
    }
    said = [(counts.get(kind, 0), *words) for kind, words in names.items()]
    chips = "".join(
        f'<span class="count"><b>{n}</b> {one if n == 1 else many}</span>' for n, one, many in said
    )
    total = sum(n for n, *_ in said)
    return f'<div class="ratings" data-total="{total}"><h3>Ratings so far</h3>{chips}</div>'
