"""The verdict: what is written can be read again, and no reply can do anything to the page."""

import json
import re

from dialog_rl.verdict import Measure, Sample, Verdict, page, read_verdict

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


def verdict(**changed):
    fields = {
        "ship": True,
        "reasons": ("held-out people prefer what it says",),
        "candidate": "v2-0123abcd",
        "incumbent": "base",
        "base_id": "tiny@0",
        "measures": (
            Measure(
                group="Form",
                name="words per reply",
                candidate=12.0,
                incumbent=20.5,
                difference=-8.5,
                low=-9.0,
                high=-7.25,
                asked="at most 2 times the incumbent's",
                ok=True,
            ),
            Measure(group="Form", name="distinct-1", difference=float("nan"), ok=None),
        ),
        "counts": {"thumbs": 30, "conversations": 25},
        "p_value": 0.004,
        "level": 0.01,
    }
    return Verdict(**{**fields, **changed})


def test_a_verdict_comes_back_from_its_file(tmp_path):
    made = verdict(samples=(Sample(said="hi", incumbent="hello", candidate="hey"),))
    made.write(tmp_path)
    found = read_verdict(tmp_path)
    assert found.measures[0] == made.measures[0]
    assert found.measures[1].difference is None  # NaN is no JSON
    assert (found.ship, found.reasons, found.samples) == (made.ship, made.reasons, made.samples)
    assert "NaN" not in (tmp_path / "verdict.json").read_text()
    assert json.loads((tmp_path / "verdict.json").read_text())["p_value"] == 0.004


def test_hostile_text_is_inert_wherever_it_stands_on_the_page():
    hostile = verdict(
        reasons=(ATTACK,),
        candidate=ATTACK,
        incumbent=ATTACK,
        base_id=ATTACK,
        measures=(Measure(group=ATTACK, name=ATTACK, asked=ATTACK, difference=1.0, ok=False),),
        samples=(Sample(said=ATTACK, incumbent=ATTACK, candidate=ATTACK),),
        counts={ATTACK: 1},
    )
    text = page(hostile)
    assert "<script" not in text and "<img" not in text
    assert text.count("&lt;script&gt;") >= 9
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|src=|href=", text.replace("src=x", ""))


def test_the_summary_says_ship_or_not_and_every_judged_figure():
    text = verdict().summary()
    assert text.startswith("SHIP: v2-0123abcd against base")
    assert "ok  words per reply: -8.5 (-9 to -7.25)" in text
    assert verdict(ship=False).summary().startswith("DO NOT SHIP")


def test_a_small_p_value_is_not_shown_as_nothing():
    small = verdict(measures=(Measure(group="g", name="p", difference=0.00034, ok=True),))
    assert "ok  p: 0.0003" in small.summary()


def test_figures_are_drawn_with_their_interval():
    assert "<svg" in page(verdict())
