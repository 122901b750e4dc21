"""What a person is shown: the frame of a page that stands alone, and columns for a terminal."""

import html
from collections.abc import Sequence

CSS = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5c6776;--line:#dfe4ea;--card:#fff;
--page:#f4f6f8;
--yes:#14794a;--no:#b3261e;--yesbg:#e6f4ec;--nobg:#fbeae9;--bar:#4a6fa5}
@media(prefers-color-scheme:dark){:root{--ink:#e8ecf1;--soft:#9aa6b5;--line:#333c48;--card:#1d232b;
--page:#14181d;--yes:#5fd39a;--no:#ff8a80;--yesbg:#17352a;--nobg:#3d1f1e;--bar:#86a8d8}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}main{max-width:60rem;margin:0 auto;padding:2rem 1rem 4rem}
h1{font-size:1.7rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .6rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1.2rem 1.4rem}
.banner{border-left:8px solid var(--no);background:var(--nobg)}.banner.ship{border-color:var(--yes);
background:var(--yesbg)}.banner h1{color:var(--no)}.banner.ship h1{color:var(--yes)}
.banner p{margin:.3rem 0 0}ul{padding-left:1.2rem;margin:.6rem 0 0}.soft{color:var(--soft)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.45rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:.85rem}td.n{text-align:right;white-space:nowrap}
tr.group td{font-weight:600;background:var(--page)}.ok{color:var(--yes)}.bad{color:var(--no)}
.ok,.bad{font-weight:600;white-space:nowrap}small{color:var(--soft);display:block}
svg{display:block}.pair{display:grid;grid-template-columns:1fr 1fr;gap:.8rem;margin:.5rem 0 1.2rem}
.pair>div,.said{background:var(--page);border-radius:8px;padding:.6rem .8rem;white-space:pre-wrap;
overflow-wrap:anywhere}.pair b,.said b{display:block;font-size:.8rem;color:var(--soft)}
@media(max-width:40rem){.pair{grid-template-columns:1fr}}
"""


def document(title: str, body: str, *, style: str = "") -> str:
    """Return an HTML page without script or network, light and dark.

    Args:
        title: plain text; it is escaped here.
        body: HTML of the page's main part, escaped already.
        style: further CSS.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        f"<title>{html.escape(title)}</title><style>{CSS}{style}</style></head><body>"
        f"<main>{body}</main></body></html>\n"
    )


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return one line for each row, its cells in columns two spaces apart.

    >>> columns([["algo", "words"], ["grpo", "9"]])
    ['algo  words', 'grpo  9']
    """
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
