"""Draws the pictures of docs/concepts.md as SVG: python docs/draw_concepts.py

Drawn by hand in code rather than by a plotting library, so that they stay text, sharp and small. Source: ours.
"""

import pathlib

FOLDER = pathlib.Path(__file__).resolve().parent / "pictures"
# Okabe and Ito's colours, told apart by colour-blind readers.
TOKENS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7"]
INK, FAINT = "#333333", "#6b6b6b"


class Drawing:
    """A white sheet; marks are added in order."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="sans-serif" font-size="13" role="img" aria-label="{title}"><title>{title}</title>'
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0L8 4L0 8z" fill="{INK}"/></marker></defs>'
            f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>'
        )
        self.marks: list[str] = []

    def box(
        self, x: float, y: float, w: float, h: float, fill: str = "#ffffff", text: str = "", dark: bool = False
    ) -> None:
        self.marks.append(f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="3" fill="{fill}" stroke="{INK}"/>')
        if text:
            self.text(x + w / 2, y + h / 2 + 4.5, text, middle=True, fill="#ffffff" if dark else INK)

    def text(self, x: float, y: float, text: str, *, middle: bool = False, fill: str = INK, bold: bool = False) -> None:
        anchor = ' text-anchor="middle"' if middle else ""
        weight = ' font-weight="bold"' if bold else ""
        self.marks.append(f'<text x="{x}" y="{y}" fill="{fill}"{anchor}{weight}>{text}</text>')

    def arrow(self, x1: float, y1: float, x2: float, y2: float, colour: str = INK, width: float = 1.5) -> None:
        self.marks.append(
            f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" stroke-width="{width}" marker-end="url(#tip)"/>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str = INK, width: float = 1.5) -> None:
        self.marks.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" stroke-width="{width}"/>')

    def save(self, name: str) -> None:
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / name).write_text(self.head + "".join(self.marks) + "</svg>\n", "utf-8")


def layer() -> None:
    """Tokens pass a router, a dispatcher and a bank."""
    d = Drawing(
        760,
        190,
        "A mixture-of-experts layer: the router makes a plan, the dispatcher moves tokens by it, the bank computes",
    )
    d.box(20, 70, 90, 44, "#f2f2f2", "tokens")
    d.box(190, 15, 130, 44, "#e8f1fa", "router")
    d.box(390, 15, 110, 44, "#fdf3df", "plan")
    d.box(390, 115, 110, 44, "#e4f4ee", "dispatch")
    d.box(560, 115, 130, 44, "#f8e8f1", "expert bank")
    d.arrow(110, 85, 188, 45)
    d.arrow(320, 37, 388, 37)
    d.arrow(445, 59, 445, 113)
    d.arrow(110, 100, 388, 137)
    d.arrow(500, 130, 558, 130)
    d.arrow(560, 147, 502, 147)
    d.arrow(390, 150, 112, 112)
    d.text(192, 76, "moves nothing", fill=FAINT)
    d.text(508, 34, "who goes where,", fill=FAINT)
    d.text(508, 50, "with which weight", fill=FAINT)
    d.text(560, 178, "knows a layout only", fill=FAINT)
    d.text(335, 178, "knows the plan only", fill=FAINT)
    d.save("layer.svg")


def plans() -> None:
    """The four plans, for four tokens and two experts."""
    d = Drawing(
        760,
        256,
        "Four kinds of plan: tokens choose experts, experts choose tokens, slots mix tokens, parameters are merged",
    )
    titles = ["TokenChoice", "ExpertChoice", "SlotMix", "Merge"]
    below = ["each token picks K experts", "each expert picks C tokens", "each slot is a mixture", "one expert, mixed"]
    edges = [
        [(0, 0, 2.5), (1, 0, 2.5), (2, 1, 2.5), (3, 0, 2.5)],
        [(0, 0, 2.5), (2, 0, 2.5), (2, 1, 2.5), (3, 1, 2.5)],
        [(t, e, w) for t in range(4) for e, w in ((0, 3.2 - 0.8 * t), (1, 0.8 + 0.8 * t))],
        [],
    ]
    for column, (title, note, lines) in enumerate(zip(titles, below, edges, strict=True)):
        left = 20 + 185 * column
        d.text(left + 80, 26, title, middle=True, bold=True)
        d.text(left + 80, 44, note, middle=True, fill=FAINT)
        for token, expert, width in lines:
            d.line(left + 22, 76 + 42 * token, left + 128, 97 + 84 * expert, TOKENS[token], width)
        for token in range(4):
            d.box(left, 65 + 42 * token, 24, 22, TOKENS[token])
        if title == "Merge":
            d.box(left + 62, 72, 34, 40, "#eeeeee", "E1")
            d.box(left + 62, 158, 34, 40, "#eeeeee", "E2")
            d.box(left + 126, 115, 40, 40, "#dddddd", "E")
            d.line(left + 96, 92, left + 126, 128, INK, 3)
            d.line(left + 96, 178, left + 126, 142, INK, 1.2)
            d.text(left + 80, 240, "mixed by the group's gates", middle=True, fill=FAINT)
        else:
            for expert in range(2):
                d.box(left + 128, 77 + 84 * expert, 34, 40, "#eeeeee", f"E{expert + 1}")
    d.save("plans.svg")


def dispatch() -> None:
    """The same plan moved into buffers and into ragged rows."""
    d = Drawing(
        800, 230, "One plan moved in two ways: into buffers of C slots per expert, and into rows sorted by expert"
    )
    choice = [0, 0, 1, 0]
    d.text(20, 26, "plan: tokens 1, 2, 4 to E1, token 3 to E2", bold=True)
    for token in range(4):
        d.box(20, 50 + 38 * token, 28, 26, TOKENS[token], str(token + 1), dark=True)
    d.text(200, 54, "gather, einsum: buffers [E C D], C = 2", bold=True)
    for expert in range(2):
        d.text(200, 92 + 52 * expert, f"E{expert + 1}")
        mine = [t for t in range(4) if choice[t] == expert][:2]
        for slot in range(2):
            x = 228 + 40 * slot
            if slot < len(mine):
                d.box(x, 74 + 52 * expert, 34, 28, TOKENS[mine[slot]], str(mine[slot] + 1), dark=True)
            else:
                d.box(x, 74 + 52 * expert, 34, 28, "#ffffff")
    d.text(200, 198, "token 4 is dropped, one slot is empty", fill=FAINT)
    d.text(490, 54, "ragged: rows [M D] and group sizes", bold=True)
    order = sorted(range(4), key=lambda t: choice[t])
    for row, token in enumerate(order):
        d.box(490 + 40 * row, 74, 34, 28, TOKENS[token], str(token + 1), dark=True)
    d.line(490, 112, 604, 112, INK)
    d.line(610, 112, 644, 112, INK)
    d.text(547, 130, "E1: 3", middle=True)
    d.text(627, 130, "E2: 1", middle=True)
    d.text(490, 160, "nothing dropped, nothing empty;", fill=FAINT)
    d.text(490, 178, "one grouped product over uneven groups", fill=FAINT)
    d.save("dispatch.svg")


def leaves() -> None:
    """Weights as leaves that know how to multiply."""
    d = Drawing(
        760, 200, "A weight is a leaf: dense, low rank, or a mixture of shared bases; the product is chosen by its type"
    )
    d.text(20, 26, "Dense", bold=True)
    d.box(20, 40, 90, 70, "#e8f1fa", "D x F")
    d.text(180, 26, "LowRank", bold=True)
    d.box(180, 40, 26, 70, "#fdf3df", "U")
    d.box(214, 40, 90, 22, "#fdf3df", "V")
    d.text(370, 26, "SharedBasis", bold=True)
    d.box(370, 40, 26, 70, "#e4f4ee", "A")
    for number in range(3):
        d.box(404 + 12 * number, 40 + 9 * number, 90, 22, "#e4f4ee", "B" if number == 2 else "")
    d.text(570, 26, "yours", bold=True)
    d.box(570, 40, 110, 70, "#f8e8f1", "one file")
    for x in (65, 240, 430, 625):
        d.arrow(x, 112, 380, 150)
    d.box(190, 152, 380, 34, "#f2f2f2", "matmul(w, x)   grouped_matmul(w, x)   materialise(w)")
    d.save("leaves.svg")


if __name__ == "__main__":
    for draw in (layer, plans, dispatch, leaves):
        draw()
