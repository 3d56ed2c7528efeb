"""The pictures of a video: both cameras of an episode, or of two, and the strip below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image, ImageDraw

from rsd.replay.again import Ending, parting, replay
from rsd.replay.strip import INK, LINE, MARGIN, PAPER, PARTED, USUAL, Strip, length, write
from rsd.suites import CONTROL_HZ
from rsd.types import Environment, EpisodeResult

HZ = CONTROL_HZ  # pictures a second: one a control step, in real time
STAY = 20  # pictures that the end stays
GOOD, BAD = "#1a7f37", "#b3261e"
HEADING = LINE + 6  # px, above all
GAP = 8  # px, between two episodes
FRAME = 3  # px, around views of episodes that have parted
_QUALITY = 95  # of views while they wait: a film of pictures as they are takes hundreds of MB


@dataclass(frozen=True)
class Footage:
    """An episode as it was simulated again: its views before the first step and after every one."""

    recorded: EpisodeResult
    ending: Ending
    views: list[bytes]  # JPEG, agentview beside wrist


def shoot(env: Environment, recorded: EpisodeResult) -> Footage:
    """Simulate an episode again and keep what its cameras see."""
    views: list[bytes] = []

    def watch(step: int) -> None:
        seen = env.observe()
        both = np.concatenate([seen.agentview, seen.wrist], axis=1)
        views.append(simplejpeg.encode_jpeg(both, quality=_QUALITY, colorsubsampling="444"))

    return Footage(recorded, replay(env, recorded, watch), views)


def pictures(shots: Sequence[Footage]) -> Iterator[np.ndarray]:
    """uint8 (H, W, 3), H and W even: the film of one episode, or of two in step."""
    panels = _panels(shots)
    for step in range(max(len(shot.views) for shot in shots)):
        images = [panel.at(step) for panel in panels]
        width = sum(image.width for image in images) + GAP * (len(images) - 1)
        height = HEADING + images[0].height
        whole = Image.new("RGB", (width + width % 2, height + height % 2), PAPER)
        _head(ImageDraw.Draw(whole), shots, whole.width)
        for place, image in enumerate(images):
            whole.paste(image, (place * (image.width + GAP), HEADING))
        picture = np.asarray(whole)
        yield picture
    yield from [picture] * STAY


def _panels(shots: Sequence[Footage]) -> list[_Panel]:
    parted = parting(*(shot.recorded for shot in shots)) if len(shots) > 1 else None
    steps = max(shot.recorded.steps for shot in shots)
    layers = max(chunk.trace.layers for shot in shots for chunk in shot.recorded.chunks)
    width = simplejpeg.decode_jpeg_header(shots[0].views[0])[1]
    strips = [Strip(shot.recorded, width, steps, layers, parted) for shot in shots]
    return [
        _Panel(shot, strip, strip.still(), len(shots) > 1)
        for shot, strip in zip(shots, strips, strict=True)
    ]


def _head(pen: ImageDraw.ImageDraw, shots: Sequence[Footage], width: int) -> None:
    first = shots[0].recorded
    told = first.instruction if len(shots) == 1 else f"{first.instruction} ({_world(first)})"
    write(pen, (MARGIN, 4), told, USUAL, width - 2 * MARGIN)


def _world(recorded: EpisodeResult) -> str:
    key = recorded.key
    return f"{key.suite}, task {key.task_id}, trial {key.trial}"


@dataclass(frozen=True)
class _Panel:
    """One episode's part of a picture."""

    shot: Footage
    strip: Strip
    still: Image.Image  # of the strip
    paired: bool

    def at(self, step: int) -> Image.Image:
        shot, strip = self.shot, self.strip
        view = simplejpeg.decode_jpeg(shot.views[min(step, len(shot.views) - 1)])
        height = LINE + view.shape[0] + 2 + strip.height
        image = Image.new("RGB", (strip.width, height), PAPER)
        image.paste(Image.fromarray(view), (0, LINE + 2))
        pen = ImageDraw.Draw(image)
        self._status(pen, step)
        if strip.parted is not None and step > strip.parted:
            corners = (0, LINE + 2, strip.width - 1, LINE + 1 + view.shape[0])
            pen.rectangle(corners, outline=PARTED, width=FRAME)
        image.paste(strip.at(self.still, step), (0, LINE + 2 + view.shape[0]))
        return image

    def _status(self, pen: ImageDraw.ImageDraw, step: int) -> None:
        recorded, ending = self.shot.recorded, self.shot.ending
        over = step >= recorded.steps
        colour = INK
        if not over:
            told = f"{step / HZ:.1f} s"
        elif ending.differs(recorded):
            told, colour = f"not as recorded: {ending.differs(recorded)}", BAD
        else:
            good = recorded.outcome == "success"
            told = f"{recorded.outcome} after {recorded.steps / HZ:.1f} s"
            colour = GOOD if good else BAD
        arm = f"{recorded.key.arm}: "
        right, right_colour = self._right(step)
        room = self.strip.width - 3 * MARGIN - length(right, USUAL)
        write(pen, (MARGIN, 0), arm, USUAL, room)
        left = length(arm, USUAL)
        write(pen, (MARGIN + left, 0), told, USUAL, room - left, colour)
        write(pen, (2 * MARGIN + room, 0), right, USUAL, colour=right_colour)

    def _right(self, step: int) -> tuple[str, str]:
        """What stands at the right end of the line, and its colour."""
        if not self.paired:
            return _world(self.shot.recorded), INK
        parted = self.strip.parted
        if parted is None or step <= parted:
            return "same actions so far", INK
        return f"parted at {parted / HZ:.1f} s (step {parted})", PARTED
