"""The report card as a page that stands alone: no script, no network, light and dark.

Every text of the page is escaped; model replies and raters' names come from anywhere.
"""

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path

from dialog_rl.display import document
from dialog_rl.durable import write_text
from dialog_rl.reward.card import CalibrationBin, Figure, ReportCard, Surprise
from dialog_rl.verdict import three_digits

_W, _H, _LEFT, _BOTTOM = 420, 260, 46, 34
"""Size of a plot and of its margins for the axes, in pixels."""
_SHOWN = 600
"""Longest text of a reply on the page."""


def write_report(card: ReportCard, folder: Path) -> None:
    """Write report.json and report.html into a folder, each in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(card.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(folder / "report.json", text + "\n")
    write_text(folder / "report.html", page(card))


def page(card: ReportCard) -> str:
    """Return report.html."""
    word = "PPO would accept it" if card.accepted else "PPO would refuse it"
    kind = "card banner ship" if card.accepted else "card banner"
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in card.notes)
    seen = ", ".join(f"{n:,} {html.escape(name)}" for name, n in card.counts.items() if n)
    body = (
        f'<div class="{kind}"><h1>{word}</h1><p>{html.escape(card.verdict)}</p>'
        f"{f'<ul>{notes}</ul>' if notes else ''}</div>"
        f"<h2>How often it agrees with ratings it has not seen</h2>"
        f"<div class=card>{_agreement(card)}</div>"
        f"<h2>Are its probabilities right?</h2><div class=card>{_calibration(card)}</div>"
        f"<h2>Would more ratings help?</h2><div class=card>{_curve(card)}</div>"
        f"<h2>How sure is it of replies unlike any that was rated?</h2>"
        f"<div class=card>{_spreads(card)}</div>"
        f"<h2>Ratings worth a second look</h2><div class=card>{_surprising(card)}</div>"
        f"<p class=soft>From {html.escape(card.source)}: {seen}; raters: {card.raters:,}, "
        f"conversations: {card.conversations:,}. Read by {html.escape(card.backbone)}. Rated "
        f"replies have {card.mean_words:.1f} words on average; score and length correlate by "
        f"{three_digits(card.length_correlation)}, and twice the words change a score by "
        f"{card.length_slope:+.2f} logits. {_biases(card)}Made in {card.seconds:.0f} s.</p>"
    )
    return document(f"Reward model: {word}", body)


# -- agreement -------------------------------------------------------------------------------------


def _agreement(card: ReportCard) -> str:
    new = f"new {card.held_out}" if card.held_out == "conversations" else card.held_out
    rows = [_group("Held out"), _row(card.overall, new)]
    if card.by_raters is not None:
        rows.append(_row(card.by_raters, "new raters"))
    else:
        given = card.held_out != "conversations"
        why = "not with a given test split" if given else "not enough raters to hold some out"
        rows.append(f"<tr><td>new raters</td><td colspan=4 class=soft>{why}</td></tr>")
    for heading, figures in (
        ("By signal", card.by_signal),
        ("By rater, most ratings first", card.by_rater),
        ("By length of the reply", card.by_length),
    ):
        if figures:
            rows += [_group(heading), *(_row(f, _name(card, f)) for f in figures)]
    head = "<th>ratings of<th>measure<th>agreement, 95 % interval<th><th>number"
    return (
        f"<div class=scroll><table><tr>{head}</tr>{''.join(rows)}</table></div>"
        "<p class=soft>0.5 is chance, 1 is always. AUC: of two ratings that differ, how often the "
        "better rated reply scores higher. Accuracy: how often the preferred of two replies does. "
        "Raters with fewer than five ratings have no line. Trust: 1 is usual, 0 rates at random, "
        "below 0 the wrong way round.</p>"
    )


def _name(card: ReportCard, figure: Figure) -> str:
    trust = card.rater_trust.get(figure.name) if figure in card.by_rater else None
    return figure.name if trust is None else f"{figure.name}, trust {trust:.2f}"


def _group(name: str) -> str:
    return f"<tr class=group><td colspan=5>{html.escape(name)}</td></tr>"


def _biases(card: ReportCard) -> str:
    """What was learned of votes, retries, end ratings and unnamed raters, if there are such."""
    said = []
    if card.counts.get("choice"):
        said.append(f"Standing first is worth {card.position_lead:+.2f} logits in a vote.")
    if "retry" in card.signal_strength:
        said.append(f"A retry counts as {card.signal_strength['retry']:.2f} of a vote.")
    if "end_rating" in card.signal_strength:
        said.append(
            f"A conversation's rating follows the mean of its turns' scores at "
            f"{card.signal_strength['end_rating']:.2f} of a star rating's strength, and its last "
            f"turn counts {math.exp(card.turn_recency):.1f} times as much as its first."
        )
    if card.generosity:
        said.append(
            f"People who are not named differ in generosity by {card.generosity:.2f} logits from "
            "one conversation to the next, which is taken out of what their replies are worth."
        )
    return "".join(f"{sentence} " for sentence in said)


def _row(figure: Figure, name: str) -> str:
    return (
        f"<tr><td>{html.escape(name)}</td><td>{figure.measure}</td>"
        f"<td class=n>{_with_interval(figure)}</td><td>{_whisker(figure)}</td>"
        f"<td class=n>{figure.ratings:,}</td></tr>"
    )


def _with_interval(figure: Figure) -> str:
    if not math.isfinite(figure.value):
        return "nothing to compare"
    text = three_digits(figure.value)
    if math.isfinite(figure.low):
        text += f" ({three_digits(figure.low)} to {three_digits(figure.high)})"
    return text


def _whisker(figure: Figure) -> str:
    """The interval as a bar on the scale from 0 to 1, chance as a line."""
    if not math.isfinite(figure.value) or not math.isfinite(figure.low):
        return ""
    low, high, at = (4 + 112 * value for value in (figure.low, figure.high, figure.value))
    return (
        '<svg width="120" height="20" role="img" aria-label="interval from 0 to 1">'
        '<line x1="60" y1="1" x2="60" y2="19" stroke="var(--soft)" stroke-dasharray="2 2"/>'
        f'<line x1="{low:.1f}" y1="10" x2="{high:.1f}" y2="10" stroke="var(--bar)" '
        'stroke-width="4" stroke-linecap="round" opacity=".5"/>'
        f'<circle cx="{at:.1f}" cy="10" r="4.5" fill="var(--bar)"/></svg>'
    )


# -- plots -----------------------------------------------------------------------------------------


def _x(share: float) -> float:
    return _LEFT + share * (_W - _LEFT - 12)


def _y(share: float) -> float:
    return _H - _BOTTOM - share * (_H - _BOTTOM - 12)


def _plot(inside: str, label: str, x_name: str, y_name: str, ticks: Sequence[str]) -> str:
    """Draw the frame of a plot; tick texts stand at even steps of both axes, x first."""
    steps = len(ticks) - 1
    marks = [
        f'<text x="{_x(k / steps):.1f}" y="{_H - _BOTTOM + 16}" text-anchor="middle">{text}</text>'
        for k, text in enumerate(ticks)
    ]
    return (
        f'<svg viewBox="0 0 {_W} {_H}" width="100%" style="max-width:{_W}px" role="img" '
        f'aria-label="{html.escape(label)}" font-size="11" fill="var(--soft)">'
        f'<rect x="{_LEFT}" y="12" width="{_x(1) - _LEFT:.1f}" height="{_y(0) - 12:.1f}" '
        f'fill="none" stroke="var(--line)"/>{"".join(marks)}{inside}'
        f'<text x="{_x(0.5):.1f}" y="{_H - 4}" text-anchor="middle">{html.escape(x_name)}</text>'
        f'<text x="12" y="{_y(0.5):.1f}" text-anchor="middle" '
        f'transform="rotate(-90 12 {_y(0.5):.1f})">{html.escape(y_name)}</text></svg>'
    )


def _y_ticks(texts: Sequence[str]) -> str:
    steps = len(texts) - 1
    return "".join(
        f'<text x="{_LEFT - 5}" y="{_y(k / steps) + 4:.1f}" text-anchor="end">{text}</text>'
        for k, text in enumerate(texts)
    )


def _calibration(card: ReportCard) -> str:
    if not card.calibration:
        return "<p>There are no thumbs, stars or votes to check it on.</p>"
    most = max(b.ratings for b in card.calibration)
    line = " ".join(f"{_x(b.predicted):.1f},{_y(b.observed):.1f}" for b in card.calibration)
    dots = "".join(_dot(b, most) for b in card.calibration)
    quarters = ("0", "0.25", "0.5", "0.75", "1")
    inside = (
        f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}" stroke="var(--soft)" '
        f'stroke-dasharray="3 3"/><polyline points="{line}" fill="none" stroke="var(--bar)" '
        f'stroke-width="2" opacity=".6"/>{dots}{_y_ticks(quarters)}'
    )
    plot = _plot(inside, "calibration curve", "predicted probability", "share seen", quarters)
    error, luck = card.calibration_error, card.calibration_error_by_luck
    verdict = "no worse than luck explains" if error <= luck else "more than luck explains"
    return (
        f"{plot}<p>Expected calibration error {three_digits(error)}: {verdict} (a model whose "
        f"probabilities are all right stays below {three_digits(luck)} in 95 % of cases with as "
        "many ratings).</p><p class=soft>Thumbs up, stars in the top quarter of their scale, and "
        "votes from both sides, in ten equal bins; a larger dot is more ratings.</p>"
    )


def _dot(b: CalibrationBin, most: float) -> str:
    radius = 2.5 + 6 * math.sqrt(b.ratings / most)
    what = f"predicted {b.predicted:.2f}, seen {b.observed:.2f}, {b.ratings:g} ratings"
    return (
        f'<circle cx="{_x(b.predicted):.1f}" cy="{_y(b.observed):.1f}" r="{radius:.1f}" '
        f'fill="var(--bar)"><title>{what}</title></circle>'
    )


def _curve(card: ReportCard) -> str:
    points = [f for f in card.learning_curve if math.isfinite(f.value)]
    if len(points) < 2:
        return "<p>There are too few ratings to learn from fewer of them.</p>"
    ends = [v for f in points for v in (f.value, f.low, f.high) if math.isfinite(v)]
    low, high = min(0.45, *ends), max(0.75, *ends)
    sizes = [math.log(float(f.name)) for f in points]
    parts = [f'<line x1="{_x(0)}" x2="{_x(1)}" {_level((0.5 - low) / (high - low))}/>']
    line = []
    for figure, size in zip(points, sizes, strict=True):
        x = _x(0.04 + 0.92 * (size - sizes[0]) / (sizes[-1] - sizes[0]))
        y = _y((figure.value - low) / (high - low))
        line.append(f"{x:.1f},{y:.1f}")
        if math.isfinite(figure.low):
            bottom, top = (_y((v - low) / (high - low)) for v in (figure.low, figure.high))
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom:.1f}" y2="{top:.1f}" '
                'stroke="var(--bar)" stroke-width="4" stroke-linecap="round" opacity=".35"/>'
            )
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="var(--bar)"/>'
            f'<text x="{x:.1f}" y="{_H - _BOTTOM + 16}" text-anchor="middle">{figure.name}</text>'
        )
    texts = [f"{low + k / 4 * (high - low):.2f}" for k in range(5)]
    inside = (
        f'<polyline points="{" ".join(line)}" fill="none" stroke="var(--bar)" stroke-width="2"/>'
        f"{''.join(parts)}{_y_ticks(texts)}"
    )
    rise = points[-1].value - points[-2].value
    return (
        f"{_plot(inside, 'learning curve', 'ratings learned from', 'agreement', ('', ''))}"
        f"<p>From {points[-2].name} to {points[-1].name} ratings the agreement changed by "
        f"{rise:+.3f}.</p><p class=soft>The same held-out ratings at each point; bars are 95 % "
        "intervals, the dashed line is chance.</p>"
    )


def _level(share: float) -> str:
    y = _y(share)
    return f'y1="{y:.1f}" y2="{y:.1f}" stroke="var(--soft)" stroke-dasharray="3 3"'


# -- uncertainty -----------------------------------------------------------------------------------


def _spreads(card: ReportCard) -> str:
    if not card.spreads:
        return "<p>No conversation could be held out to look at.</p>"
    usual = next(iter(card.spreads.values()))
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td class=n>{value:.2f}</td>"
        f"<td class=n>{value / usual:.2f}</td></tr>"
        for name, value in card.spreads.items()
    )
    return (
        "<table><tr><th>replies<th>spread, logits<th>times the first</tr>"
        f"{rows}</table><p class=soft>The spread is the score's standard deviation. PPO is paid "
        "the mean less some of it (pessimism), so strange replies must have more of it: what is "
        "below 1 in the last column could be exploited.</p>"
    )


# -- ratings to look at again ----------------------------------------------------------------------


def _surprising(card: ReportCard) -> str:
    if not card.surprising:
        return "<p>No rating surprised the model.</p>"
    return (
        "<p>The model had not seen these ratings and gave them, or ones as far off, the "
        "probability shown. Some are slips; some are what it has yet to learn.</p>"
        + "".join(_one(surprise) for surprise in card.surprising)
    )


def _one(s: Surprise) -> str:
    rest = f"<div><b>the other reply</b>{_text(s.other)}</div>" if s.other is not None else ""
    return (
        f"<div class=said><b>{html.escape(s.rater)} in {html.escape(s.conversation)}: "
        f"{html.escape(s.said)}, probability {three_digits(s.probability)}</b>{_text(s.message)}"
        f"</div><div class=pair><div><b>{html.escape(s.signal)}: the reply</b>{_text(s.reply)}"
        f"</div>{rest}</div>"
    )


def _text(text: str) -> str:
    return html.escape(text if len(text) <= _SHOWN else text[:_SHOWN] + " ...")
