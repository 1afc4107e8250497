"""HTML by which pages are written: elements that escape, tables, pictures, and the style sheet."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Sequence
from html import escape
from pathlib import Path

NONE = "–"


class Html(str):
    """Text that is markup already; any other text is escaped where it enters an element."""

    __slots__ = ()


def markup(*parts: object) -> Html:
    """The parts one after another; what is not markup is escaped."""
    return Html("".join(p if isinstance(p, Html) else escape(str(p)) for p in parts))


def element(name: str, *inside: object, css: str = "") -> Html:
    """``<name class="css">inside</name>``."""
    begin = f'<{name} class="{escape(css)}">' if css else f"<{name}>"
    return Html(f"{begin}{markup(*inside)}</{name}>")


def section(anchor: str, title: str, *inside: object) -> Html:
    """A part of the page with its heading; nothing where it has nothing to say."""
    body = markup(*inside)
    if not body:
        return Html("")
    return Html(f'<section id="{escape(anchor)}"><h2>{escape(title)}</h2>\n{body}</section>')


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    words: Collection[int] = (0,),
    sentences: Collection[int] = (),
    css: str = "",
) -> Html:
    """A table that scrolls by itself where the screen is narrow.

    head: without any text there is none. words, sentences: the columns of text that stays on one
    line, or need not; all others are numbers, set to the right. css: ``stack`` puts the cells of a
    row below one another on a narrow screen, and leaves out numbers, which the sentence then says.
    Without rows it is nothing.
    """
    rows = list(rows)
    if not rows:
        return Html("")

    def line(cell: str, values: Sequence[object]) -> Html:
        kinds = ["said" if i in sentences else "word" if i in words else "number"
                 for i in range(len(values))]  # fmt: skip
        cells = (element(cell, v, css=k) for v, k in zip(values, kinds, strict=True))
        return element("tr", *cells)

    top = element("thead", line("th", head)) if any(head) else ""
    whole = element("table", top, element("tbody", *(line("td", row) for row in rows)), css=css)
    return Html(f'<div class="scroll" tabindex="0">{whole}</div>')


def picture(path: Path, said: str) -> Html:
    """A PNG inside the page, no wider than its own pixels. said: its description (alt text)."""
    png = path.read_bytes()
    width = int.from_bytes(png[16:20], "big")  # of its IHDR, which comes first
    data = base64.b64encode(png).decode()
    image = f'<img alt="{escape(said)}" width="{width}" src="data:image/png;base64,{data}">'
    return Html(f"<figure>{image}</figure>")


def folded(summary: str, inside: Html) -> Html:
    """A part of the page that is folded until the reader opens it; nothing where it is empty."""
    return element("details", element("summary", summary), inside) if inside else Html("")


def command(words: str) -> Html:
    return element("pre", element("code", words))


def bar(share: float) -> Html:
    """A share of what is allowed as a bar; full, and marked, from 1 on."""
    width = round(100 * min(max(share, 0.0), 1.0))
    css = "bar over" if share > 1 else "bar"
    return Html(f'<span class="{css}"><span style="width:{width}%"></span></span>')


def document(title: str, *body: object) -> str:
    """A whole page that needs nothing beside it."""
    inside = "\n".join(markup(part) for part in body if part)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><main>\n{inside}</main></body></html>\n"
    )


STYLE = """
:root{color-scheme:light dark;--paper:#fbfbf9;--ink:#1c2127;--soft:#59626c;--line:#d8dbdd;
--card:#fff;--code:#eff1f2;--good:#1b6e3c;--hand:#5b3a9e;--rejected:#a6231c;--hold:#855400;
--skipped:#4a5568;--failed:#7a1552;--unfinished:#2f5270}
@media (prefers-color-scheme:dark){:root{--paper:#15181b;--ink:#e6e8ea;--soft:#a2abb4;
--line:#363c42;--card:#1d2125;--code:#262b30}
.pass{color:#6fcf97}.fail{color:#ff8a80}.hold,.warn{color:#f2c14e}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:20px 20px 60px}
h1{font-size:1.05rem;font-weight:600;margin:0 0 12px;display:flex;flex-wrap:wrap;gap:4px 12px;
align-items:center}
h2{font-size:1.2rem;margin:36px 0 10px;padding-bottom:4px;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:20px 0 6px}
p{margin:6px 0}.soft{color:var(--soft);font-size:.9rem}
.badge{border:1px solid currentColor;border-radius:4px;padding:0 8px;font-size:.85rem}
.banner{display:flex;gap:18px;align-items:center;padding:18px 22px;border-radius:10px;color:#fff;
background:var(--unfinished)}
.banner svg{flex:none;width:64px;height:64px}
.banner .word{font-size:1.9rem;line-height:1.15;font-weight:700;letter-spacing:.01em}
.banner p{margin:4px 0 0;overflow-wrap:anywhere}
.good{background:var(--good)}.hand{background:var(--hand)}.rejected{background:var(--rejected)}
.held{background:var(--hold)}.skipped{background:var(--skipped)}.failed{background:var(--failed)}
.unfinished{background:var(--unfinished)}
.next{border:1px solid var(--line);border-left:6px solid var(--ink);border-radius:6px;
background:var(--card);padding:10px 16px;margin:12px 0}
.next h2{border:0;margin:0;padding:0;font-size:1rem}
pre{background:var(--code);border-radius:5px;padding:8px 12px;margin:4px 0 10px;
white-space:pre-wrap;overflow-wrap:anywhere;font-size:.88rem}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(165px,1fr));gap:10px;margin:12px 0}
.tile{border:1px solid var(--line);border-radius:6px;background:var(--card);padding:8px 12px}
.tile .name{color:var(--soft);font-size:.82rem}
.tile .value{font-size:1.35rem;font-weight:650;font-variant-numeric:tabular-nums;line-height:1.3}
summary{cursor:pointer;color:var(--soft);font-weight:600;margin:10px 0}
.tile .note{font-size:.82rem;color:var(--soft)}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:6px;background:var(--card);
margin:8px 0}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{padding:5px 10px;vertical-align:top;border-bottom:1px solid var(--line)}
tbody tr:last-child td{border-bottom:0}
th{text-align:left;color:var(--soft);font-weight:600;white-space:nowrap}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.word,.said{text-align:left}td.word{white-space:nowrap}
td.said{min-width:15em;overflow-wrap:break-word}
.facts td:first-child{color:var(--soft);width:13em}
.pass,.fail,.hold,.warn{font-weight:650;white-space:nowrap}
@media (prefers-color-scheme:light){.pass{color:#1b6e3c}.fail{color:#a6231c}
.hold,.warn{color:#855400}}
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:12px;
align-items:start}
figure{margin:0;background:#fff;border:1px solid var(--line);border-radius:6px;padding:6px}
img{display:block;height:auto;max-width:100%;margin:0 auto}
.strip{display:flex;flex-wrap:wrap;gap:4px;padding:0;margin:8px 0;list-style:none}
.strip li{width:30px;height:42px;border-radius:4px;color:#fff;text-align:center;font-size:.72rem;
line-height:1;padding-top:3px}
.strip li svg{width:22px;height:22px;display:block;margin:0 auto 2px}
.strip li.none{background:none;border:1px dashed var(--soft);color:var(--soft);padding-top:26px}
.key{display:inline-flex;align-items:center;gap:5px;margin-right:14px}
.key i{border-radius:3px;display:inline-flex;padding:1px}.key svg{width:16px;height:16px}
.bar{display:inline-block;width:90px;height:9px;border:1px solid var(--soft);border-radius:3px;
vertical-align:middle;overflow:hidden}
.bar span{display:block;height:100%;background:#4c78a8}
.bar.over span{background:repeating-linear-gradient(45deg,#a6231c 0 4px,#f0a39d 4px 7px)}
@media (max-width:560px){main{padding:12px 12px 40px}.banner{padding:14px;gap:12px}
.banner svg{width:44px;height:44px}.banner .word{font-size:1.45rem}
.tiles{grid-template-columns:1fr 1fr}th,td{padding:4px 7px}
.stack,.stack tbody,.stack tr{display:block}.stack thead,.stack .number{display:none}
.stack tr{padding:7px 4px;border-bottom:1px solid var(--line)}.stack tbody tr:last-child{border:0}
.stack td{display:inline-block;border:0;padding:0 6px;width:auto;font-weight:600}
.stack td.said{display:block;min-width:0;font-weight:400;overflow-wrap:anywhere}}
@media print{body{background:#fff;color:#000;font-size:11pt}main{max-width:none;padding:0}
.banner,.strip li,.bar span{-webkit-print-color-adjust:exact;print-color-adjust:exact}
figure,tr,.tile,.next{break-inside:avoid}h2{break-after:avoid}.scroll{overflow:visible}}
""".strip()
