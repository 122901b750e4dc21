"""The Teach card: what training is doing, and the verdict it ended in, as HTML."""

from collections.abc import Mapping, Sequence
from typing import Any

from apps.views import text, version_name
from dialog_rl.teach import TeachStatus

STAGES = {
    "start": "Starting",
    "snapshot": "Collecting the ratings",
    "sft": "Imitating approved and corrected replies",
    "reward": "Learning what people like",
    "ppo": "Practising (PPO)",
    "kto": "Learning from thumbs (KTO)",
    "dpo": "Learning from pairs (DPO)",
    "gate": "Judging old against new",
    "done": "Done",
}


def teach_card(status: TeachStatus) -> str:
    """Return the card for a training that is idle, running or over."""
    if status.state == "running":
        return _running(status)
    if status.state == "failed":
        return (
            '<div class="teach failed" data-state="failed"><h4>Stopped without a verdict</h4>'
            f"<p>{text(status.message[:1].upper() + status.message[1:])}.</p>"
            "<p>The assistant goes on as it was.</p></div>"
        )
    if status.state in ("shipped", "refused"):
        return _verdict(status, status.verdict or {"reasons": [status.message]})
    return (
        '<div class="teach" data-state="idle"><p>Press <b>Teach</b> to train on all ratings. It '
        "takes a few minutes; the chat goes on meanwhile. A judge then compares old and new on "
        "ratings kept aside, and only a measurably better version takes over.</p></div>"
    )


def _running(status: TeachStatus) -> str:
    percent = round(100 * status.fraction)
    stage = STAGES.get(status.stage, status.stage)
    return (
        '<div class="teach" data-state="running">'
        f'<div class="line"><b>{text(stage)}</b><span>{percent} %</span></div>'
        f'<div class="progress" role="progressbar" aria-valuenow="{percent}" aria-valuemin="0" '
        f'aria-valuemax="100"><i style="width:{percent}%"></i></div>'
        f"<p>{text(status.message)}</p><small>{_clock(status.seconds)} so far</small></div>"
    )


def _verdict(status: TeachStatus, verdict: Mapping[str, Any]) -> str:
    ship = status.state == "shipped"
    version = version_name(str(verdict.get("candidate") or status.version or "the new version"))
    heading = f"Ship: {version} has taken over" if ship else "Do not ship: nothing has changed"
    reasons = "".join(f"<li>{text(str(r))}</li>" for r in verdict.get("reasons") or ())
    return (
        f'<div class="teach verdict {status.state}" data-state="{status.state}">'
        f"<h4>{text(heading)}</h4><ul>{reasons}</ul>{_measures(verdict.get('measures') or ())}"
        f"<small>Took {_clock(status.seconds)}. Everything about it, with sample replies: "
        f"<code>runs/{text(status.run_id or '')}/verdict.html</code></small></div>"
    )


def _measures(measures: Sequence[Mapping[str, Any]]) -> str:
    if not measures:
        return ""
    rows = "".join(
        f"<tr><td>{text(str(m.get('name', '')))}</td><td>{_number(m.get('incumbent'))}</td>"
        f"<td>{_number(m.get('candidate'))}</td><td>{_interval(m)}</td><td>{_ok(m.get('ok'))}</td>"
        "</tr>"
        for m in measures
    )
    return (
        '<div class="wide"><table><thead><tr><th>Measure</th><th>Old</th><th>New</th>'
        f"<th>Difference (95 %)</th><th></th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _interval(measure: Mapping[str, Any]) -> str:
    middle = _number(measure.get("difference"))
    low, high = measure.get("low"), measure.get("high")
    if low is None or high is None:
        return middle
    return f"{middle} <small>[{_number(low)}, {_number(high)}]</small>"


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else text(str(value))
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _ok(ok: Any) -> str:
    if ok is None:
        return ""
    return '<b class="ok">ok</b>' if ok else '<b class="bad">no</b>'


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
