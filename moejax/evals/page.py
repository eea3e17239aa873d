"""The report's HTML: one file, light or dark as the reader's system is, readable on a phone and on a projector, self-contained.

Charts are drawn on white. In the dark they are turned over (white becomes black, hues stay), and the dots of the tables with
them; pictures of the data keep their colours and a white ground.
"""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

CSS = """
:root { --ink: #1f2933; --muted: #62707f; --line: #e4e7eb; --soft: #f7f8fa; --accent: #0072b2; --ground: #fff; --wrong: #b3261e; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; color: var(--ink); background: var(--ground);
  font: 17px/1.6 "Inter", "Segoe UI", -apple-system, BlinkMacSystemFont, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 56px 28px 80px; }
h1, h2 { font-family: "Iowan Old Style", "Palatino Linotype", Palatino, Georgia, "DejaVu Serif", serif; font-weight: 600;
  letter-spacing: -0.01em; line-height: 1.2; }
h1 { font-size: clamp(1.9rem, 4.6vw, 2.9rem); margin: 0 0 12px; }
h2 { font-size: clamp(1.4rem, 3vw, 1.85rem); margin: 72px 0 10px; padding-top: 20px; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 34px 0 6px; }
p { max-width: 46rem; margin: 0 0 14px; }
.lead { font-size: 1.2rem; line-height: 1.5; color: var(--ink); max-width: 50rem; }
.muted, figcaption, .small { color: var(--muted); font-size: 0.92rem; }
nav { margin: 22px 0 0; font-size: 0.95rem; display: flex; flex-wrap: wrap; gap: 6px 20px; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 16px; margin: 34px 0 10px; }
.card { background: var(--soft); border-radius: 10px; padding: 18px 20px 16px; border-top: 4px solid var(--colour); }
.card .name { font-weight: 600; overflow-wrap: anywhere; } .card .value { font-size: 2.2rem; font-weight: 650; line-height: 1.25; letter-spacing: -0.02em; }
.card .value small { font-size: 1rem; font-weight: 400; color: var(--muted); letter-spacing: 0; }
.scroll { overflow-x: auto; margin: 18px 0 8px; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 0.95rem; }
th, td { padding: 8px 12px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--muted); font-weight: 600; font-size: 0.86rem; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.best { font-weight: 700; } td .se { color: var(--muted); font-weight: 400; font-size: 0.86em; }
tr.baseline td { color: var(--muted); font-style: italic; }
.dot { display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin-right: 9px; background: var(--colour); }
figure { margin: 22px 0 10px; } figure .scroll { margin: 0; }
figure img { display: block; width: 100%; height: auto; min-width: var(--least, 0); }
figcaption { margin-top: 8px; max-width: 50rem; }
details { margin: 12px 0; } summary { cursor: pointer; color: var(--accent); }
pre { background: var(--soft); padding: 14px 16px; border-radius: 8px; overflow-x: auto; font-size: 0.83rem; line-height: 1.5; }
.facts td { text-align: left; white-space: normal; vertical-align: top; } .facts td:first-child { color: var(--muted); white-space: nowrap; }
tr.wrong td { color: var(--wrong); }
.states td { text-align: left; white-space: normal; } .states th { text-align: left; } .states td:first-child { overflow-wrap: anywhere; min-width: 12rem; }
.settings td:first-child { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 0.86em; }
.wrapped th { white-space: normal; min-width: 6.5rem; } .wrapped th:nth-child(2) { min-width: 0; } .settings th { white-space: normal; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --muted: #9aa5b1; --line: #323a44; --soft: #1d232b; --accent: #6cb6e8; --ground: #12161b; --wrong: #ff8a80;
    color-scheme: dark; }
  .chart img, .dot { filter: invert(0.93) hue-rotate(180deg); }
  .photo img { background: #fff; border-radius: 8px; filter: brightness(0.92); }
}
@media (max-width: 640px) { main { padding: 32px 18px 56px; } body { font-size: 16px; } h2 { margin-top: 52px; } }
@media print { nav { display: none; } h2 { break-after: avoid; } figure, .card { break-inside: avoid; } }
"""

DPI = 160  # of the figures

ICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 4 4'><rect width='4' height='4' fill='%230072b2'/>"
    "<rect width='2' height='2' fill='%23ddcc77'/><rect x='2' y='2' width='2' height='2' fill='%23009e73'/></svg>"
)


def page(title: str, body: Sequence[str]) -> str:
    """The whole document. Source: ours."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:image/svg+xml,{_icon()}">'
        f"<style>{CSS}</style></head>\n<body><main>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )


def escape(text: object) -> str:
    """Text as HTML."""
    return html.escape(str(text), quote=True)


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text; `kind` is 'lead', 'muted' or nothing."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def section(anchor: str, title: str, text: str = "") -> str:
    """Heading of a section that the navigation links to, and its first paragraph."""
    return f'<h2 id="{anchor}">{escape(title)}</h2>' + (paragraph(text) if text else "")


def navigation(entries: Sequence[tuple[str, str]]) -> str:
    """Links to the sections."""
    return "<nav>" + "".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title in entries) + "</nav>"


def picture(path: Path, caption: str, *, alt: str, least: int = 0, photo: bool = False) -> str:
    """A PNG embedded in the page. least: width in pixels below which it scrolls sideways instead of shrinking.

    photo: it shows pictures of the data, whose colours are to stay as they are.
    """
    png = path.read_bytes()
    data = base64.b64encode(png).decode()
    natural = round(int.from_bytes(png[16:20], "big") * 96 / DPI)  # the PNG header's width; enlarged text would shout
    return (
        f'<figure class="{"photo" if photo else "chart"}" style="--least:{least}px; max-width:{natural}px"><div class="scroll"><img alt="{escape(alt)}" '
        f'src="data:image/png;base64,{data}"></div><figcaption>{escape(caption)}</figcaption></figure>'
    )


def card(name: str, value: str, unit: str, detail: str, *, colour: str) -> str:
    """A number with a coloured edge."""
    return (
        f'<div class="card" style="--colour:{colour}"><div class="name">{escape(name)}</div><div class="value">'
        f'{escape(value)}<small> {escape(unit)}</small></div><div class="small">{escape(detail)}</div></div>'
    )


def cards(items: Sequence[str]) -> str:
    """Cards side by side, or below each other where it is narrow."""
    return '<div class="cards">' + "".join(items) + "</div>"


def table(head: Sequence[str], rows: Sequence[str], *, kind: str = "") -> str:
    """A table that scrolls sideways on narrow screens; rows come from `row`. kind: its class."""
    cells = "".join(f"<th>{escape(h)}</th>" for h in head)
    name = f' class="{kind}"' if kind else ""
    return (
        f'<div class="scroll"><table{name}><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def row(cells: Sequence[str], *, colour: str = "", best: Sequence[bool] = (), kind: str = "") -> str:
    """Cells may hold 'value ± error'; the error is set smaller. best: which cells are bold."""
    out = []
    for i, cell in enumerate(cells):
        value, mark, error = escape(cell).partition(" ± ")
        inner = value + (f' <span class="se">± {error}</span>' if mark else "")
        if i == 0 and colour:
            inner = f'<span class="dot" style="--colour:{colour}"></span>{inner}'
        out.append(f"<td{' class=' + chr(34) + 'best' + chr(34) if i < len(best) and best[i] else ''}>{inner}</td>")
    return f"<tr{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{''.join(out)}</tr>"


def facts(entries: Mapping[str, str]) -> str:
    """A table of names and values."""
    rows = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in entries.items())
    return f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'


def folded(title: str, text: str) -> str:
    """Preformatted text that a click unfolds."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def _icon() -> str:
    return ICON.replace("<", "%3C").replace(">", "%3E").replace(" ", "%20")
