"""What was decided in an episode, as a strip below its pictures: time runs to the right.

A column a chunk, as wide as the steps that were executed of it; a cell a layer, the coarsest on
top, coloured by what became of the draft's guess; below them a bar as high as the passes that the
chunk took, of as many as it has layers.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from rsd.types import ChunkRecord, DecodeTrace, EpisodeResult

KEPT, REJECTED, ANEW, UNJUDGED, NOT_DRAFTED = "#1a9988", "#d1495b", "#edae49", "#3d6fb6", "#9aa5b1"
LEGEND = {
    KEPT: "draft kept whole",
    REJECTED: "a token rejected",
    ANEW: "guessed anew",
    UNJUDGED: "guessed, executed unjudged",
    NOT_DRAFTED: "not drafted",
}
PAPER, INK, FAINT, HEAD, PARTED = "#ffffff", "#24292f", "#e4e8ec", "#111418", "#c2185b"
MARGIN = 8  # px
CELL = 9  # px, a layer
BARS = 20  # px, the passes
LINE = 17  # px, of text
TOP = LINE + 8  # px, above the cells: a line of text, and the play head's arrow
SMALL, USUAL = 11, 12  # px


def colours(trace: DecodeTrace) -> list[str]:
    """By layer, the coarsest first. A pass judges no layer behind a rejection: those are guessed
    anew. Where there is no pass, the draft's guesses are what was executed."""
    if not trace.passes:
        return [UNJUDGED] * trace.layers
    found = []
    judged = (trace.drafted, trace.accepted, trace.redrafted)
    for _, drafted, accepted, redrafted in itertools.zip_longest(
        range(trace.layers), *judged, fillvalue=0
    ):
        if drafted:
            found.append(KEPT if accepted == drafted else REJECTED)
        else:
            found.append(ANEW if redrafted else NOT_DRAFTED)
    return found


def words(chunk: ChunkRecord, chunks: int) -> str:
    """What became of a chunk, in a line."""
    trace = chunk.trace
    told = f"chunk {chunk.chunk_index + 1} of {chunks}"
    if not trace.layers:
        return told
    told += f": {trace.passes} pass{'es' * (trace.passes != 1)} for {trace.layers} layers"
    for layer, (drafted, accepted) in enumerate(zip(trace.drafted, trace.accepted, strict=True)):
        if accepted < drafted:
            return f"{told}, the first kept {accepted} of {drafted} tokens of layer {layer}"
    return told


@dataclass(frozen=True)
class Strip:
    """The strip of one episode, `width` px wide, on which `steps` have room (of two episodes beside
    each other the longer one's); `parted`: the step at which they begin to differ."""

    recorded: EpisodeResult
    width: int
    steps: int
    layers: int  # rows of cells: of two episodes the deeper one's
    parted: int | None = None

    @property
    def height(self) -> int:
        """px."""
        return TOP + self._cells + BARS + LINE + 8

    @property
    def _cells(self) -> int:
        return CELL * max(1, self.layers)

    @property
    def starts(self) -> list[int]:
        """The step before which each chunk was decided, and the end."""
        lengths = [0 if c.actions is None else len(c.actions) for c in self.recorded.chunks]
        return list(itertools.accumulate(lengths, initial=0))

    def x(self, step: float) -> float:
        """px from the left."""
        return MARGIN + (self.width - 2 * MARGIN) * step / max(1, self.steps)

    def still(self) -> Image.Image:
        """All that does not move."""
        image = Image.new("RGB", (self.width, self.height), PAPER)
        pen = ImageDraw.Draw(image)
        base = TOP + self._cells + BARS
        most = max(1, *(chunk.trace.passes for chunk in self.recorded.chunks), self.layers)
        for chunk, (start, end) in zip(
            self.recorded.chunks, itertools.pairwise(self.starts), strict=True
        ):
            left, right = self.x(start) + 1, max(self.x(start) + 1, self.x(end) - 1)
            for layer, colour in enumerate(colours(chunk.trace) or [FAINT]):
                top = TOP + layer * CELL
                pen.rectangle((left, top, right, top + CELL - 2), colour)
            tall = (BARS - 4) * chunk.trace.passes / most
            if tall:
                pen.rectangle((left, base - tall, right, base), INK)
            pen.line((self.x(start), base + 1, self.x(start), base + 4), INK)
        pen.line((self.x(0), base + 1, self.x(self.starts[-1]), base + 1), INK)
        if self.parted is not None:
            _dashed(pen, self.x(self.parted), LINE, base + 4)
        self._legend(pen, base + 8)
        return image

    def _legend(self, pen: ImageDraw.ImageDraw, top: int) -> None:
        shown = {colour for chunk in self.recorded.chunks for colour in colours(chunk.trace)}
        entries = [(colour, said) for colour, said in LEGEND.items() if colour in shown]
        entries += [(INK, "passes")] * any(chunk.trace.passes for chunk in self.recorded.chunks)
        left = float(MARGIN)
        for colour, said in entries:
            pen.rectangle((left, top + 3, left + 8, top + 11), colour)
            write(pen, (left + 12, top), said, SMALL)
            left += 26 + length(said, SMALL)

    def at(self, still: Image.Image, step: int) -> Image.Image:
        """The strip at the moment after `step` steps."""
        image = still.copy()
        pen = ImageDraw.Draw(image)
        step = min(step, self.starts[-1])
        place = max(0, sum(start <= step for start in self.starts[:-1]) - 1)
        told = words(self.recorded.chunks[place], len(self.recorded.chunks))
        write(pen, (MARGIN, 0), told, SMALL, self.width - 2 * MARGIN)
        x = self.x(step)
        pen.line((x, LINE, x, TOP + self._cells + BARS + 4), HEAD, 2)
        pen.polygon([(x - 4, LINE), (x + 5, LINE), (x + 0.5, TOP - 2)], HEAD)
        return image


def write(
    pen: ImageDraw.ImageDraw,
    where: tuple[float, float],
    text: str,
    size: int,
    width: float | None = None,
    colour: str = INK,
) -> None:
    """A line of text, cut where it is wider than `width` px."""
    font = _font(size)
    if width is not None and font.getlength(text) > width:
        while text and font.getlength(f"{text}…") > width:
            text = text[:-1]
        text = f"{text.rstrip()}…"
    pen.text(where, text, colour, font)


def length(text: str, size: int) -> float:
    """px."""
    return _font(size).getlength(text)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, as matplotlib brings it: Pillow's own runs words together at this size."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)


def _dashed(pen: ImageDraw.ImageDraw, x: float, top: int, bottom: int) -> None:
    for y in range(top, bottom, 6):
        pen.line((x, y, x, min(y + 3, bottom)), PARTED, 2)
