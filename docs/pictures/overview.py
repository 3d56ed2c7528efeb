"""Make docs/pictures/overview.svg: who does what in a run, and how a chunk's codes are decoded.

python docs/pictures/overview.py
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

PICTURE = Path(__file__).with_name("overview.svg")
WIDTH, HEIGHT = 880, 468
INK, SOFT, LINE, PAPER, CARD = "#1f2933", "#52606d", "#9aa5b1", "#f7f9fb", "#ffffff"
GUESS, KEPT, REJECTED, OWN, NOTHING = "#f2c57c", "#1a9988", "#d1495b", "#486581", "#e4e7eb"
LAYERS, TOKENS, CELL = 6, 14, 12


def text(x: float, y: float, words: str, size: int = 13, colour: str = INK, how: str = "") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" {how}>{escape(words)}</text>'


def middle(x: float, y: float, words: str, size: int = 13, colour: str = INK, how: str = "") -> str:
    return text(x, y, words, size, colour, f'text-anchor="middle" {how}')


def box(x: float, y: float, width: float, height: float, fill: str = CARD) -> str:
    place = f'x="{x}" y="{y}" width="{width}" height="{height}" rx="6"'
    return f'<rect {place} fill="{fill}" stroke="{LINE}"/>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    ends = f'x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"'
    return f'<line {ends} stroke="{SOFT}" stroke-width="1.6" marker-end="url(#tip)"/>'


BOLD = 'font-weight="bold"'


def run() -> list[str]:
    """Workers, replicas and books, with the driver below them."""
    return [
        *(box(32 + 6 * i, 60 - 6 * i, 196, 104) for i in (2, 1, 0)),
        middle(130, 88, "environment workers", 14, INK, BOLD),
        middle(130, 110, "one LIBERO simulator each;", 12, SOFT),
        middle(130, 126, "a frame is drawn only", 12, SOFT),
        middle(130, 142, "where a policy looks", 12, SOFT),
        *(box(344 + 6 * i, 60 - 6 * i, 248, 104) for i in (1, 0)),
        middle(468, 84, "policy replicas", 14, INK, BOLD),
        box(358, 96, 96, 40, GUESS),
        middle(406, 113, "draft", 13, INK, BOLD),
        middle(406, 129, "guesses codes", 11),
        box(482, 96, 96, 40, KEPT),
        middle(530, 113, "target", 13, "#ffffff", BOLD),
        middle(530, 129, "verifies them", 11, "#ffffff"),
        arrow(454, 116, 480, 116),
        middle(468, 155, "batch what waits, on GPUs or CPUs", 12, SOFT),
        arrow(242, 88, 340, 88),
        middle(291, 80, "2 images, state,", 11, SOFT),
        middle(291, 102, "instruction", 11, SOFT),
        arrow(340, 134, 232, 134),
        middle(288, 150, "8 actions", 11, SOFT),
        box(660, 60, 188, 104),
        middle(754, 88, "books", 14, INK, BOLD),
        middle(754, 110, "Parquet: a row an episode,", 12, SOFT),
        middle(754, 126, "a row a decode; each", 12, SOFT),
        middle(754, 142, "episode exactly once", 12, SOFT),
        box(32, 192, 816, 34),
        middle(440, 214, DRIVER, 12),
        arrow(130, 192, 130, 167),
        arrow(468, 192, 468, 167),
        arrow(754, 192, 754, 167),
    ]


DRIVER = (
    "driver (Ray): leases episodes, retries what infrastructure breaks, scales, writes; "
    "killed anywhere, --resume goes on"
)


def matrix(x: float, y: float, colour: Callable[[int, int], str]) -> list[str]:
    """Codes of a chunk: a row a layer, the coarsest on top; a column a token."""
    return [
        f'<rect x="{x + CELL * token}" y="{y + CELL * layer}" width="{CELL - 2}" '
        f'height="{CELL - 2}" fill="{colour(layer, token)}"/>'
        for layer in range(LAYERS)
        for token in range(TOKENS)
    ]


WRONG = (2, 9)  # layer and token of the draft's first wrong guess


def guessed(layer: int, token: int) -> str:
    return GUESS if layer < LAYERS - 1 else NOTHING


def judged(layer: int, token: int) -> str:
    if layer > WRONG[0]:
        return guessed(layer, token)
    return REJECTED if (layer, token) == WRONG else KEPT


def anew(layer: int, token: int) -> str:
    if (layer, token) == WRONG:
        return OWN
    return KEPT if layer <= WRONG[0] else guessed(layer, token)


def done(layer: int, token: int) -> str:
    return OWN if layer == LAYERS - 1 or (layer, token) == WRONG else KEPT


STEPS = (
    (guessed, "The draft guesses all", "layers but the last."),
    (judged, "Pass 1 of the target judges", "all; a token is wrong."),
    (anew, "The target's own token stands;", "what is finer is guessed anew."),
    (done, "Pass 2 keeps the rest and adds", "the last layer: 2 passes, not 6."),
)


def decoding() -> list[str]:
    """The codes of one chunk, in four steps."""
    left, top, pitch = 50, 300, 204
    parts = [
        text(32, 262, "How the codes of one chunk are decoded", 14, INK, BOLD),
        text(32, 281, "Rows are layers, coarse to fine; columns are tokens.", 12, SOFT),
        text(28, top + 10, "0", 10, SOFT),
        text(28, top + CELL * LAYERS - 2, "5", 10, SOFT),
    ]
    for place, (colour, first, second) in enumerate(STEPS):
        x = left + place * pitch
        parts += matrix(x, top, colour)
        parts += [text(x, top + 92, first, 12), text(x, top + 108, second, 12)]
        if place:
            parts.append(arrow(x - 30, top + 36, x - 8, top + 36))
    legend = ((GUESS, "guess"), (KEPT, "kept"), (REJECTED, "rejected"), (OWN, "the target's own"))
    for place, (fill, words) in enumerate(legend):
        x = left + place * 110
        parts.append(f'<rect x="{x}" y="434" width="10" height="10" fill="{fill}"/>')
        parts.append(text(x + 16, 443, words, 12, SOFT))
    return parts


def picture() -> str:
    """The whole; on paper of its own, so that it reads on light and on dark pages."""
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    fonts = "font-family=\"system-ui, 'Segoe UI', Helvetica, Arial, sans-serif\""
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" '
        f'markerHeight="6" orient="auto"><path d="M0 0L8 4L0 8z" fill="{SOFT}"/></marker></defs>'
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {fonts} role="img">',
        "<title>A run of RSD, and how the codes of one chunk are decoded</title>",
        tip,
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="{PAPER}" stroke="{LINE}"/>',
        text(32, 32, "A run", 14, INK, BOLD),
        *run(),
        *decoding(),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture())
    print(PICTURE)
