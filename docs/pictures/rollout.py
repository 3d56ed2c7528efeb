"""Make docs/pictures/rollout.webp: a real episode, and what speculation did in each of its chunks.

  python docs/pictures/rollout.py [--suite libero_10 --task 3 --trial 12]

The bundled policy `libero` decodes speculatively on lite assets; states are recorded while it runs,
and drawn larger afterwards.
"""

from __future__ import annotations

import argparse
import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from rsd.arms import read_arm
from rsd.envs.assets import ResolvedAssets, resolve
from rsd.envs.libero import LiberoEnvironment
from rsd.envs.rendering import resolve as resolve_renderer
from rsd.episode import run_episode
from rsd.models import load_policy
from rsd.outputs import write_atomically
from rsd.suites import get_suite
from rsd.types import (
    Chunk,
    ChunkRequest,
    DecodeTrace,
    EpisodeKey,
    EpisodeResult,
    ImageSpec,
)

if TYPE_CHECKING:
    import numpy as np

PICTURE = Path(__file__).with_name("rollout.webp")
SIDE = 288  # px, of a camera's view
STRIP = 120  # px, below the views
EVERY = 2  # control steps a frame: 10 frames a second in real time
CELL = 9  # px, one layer of one chunk
KEPT, REJECTED, ANEW, TARGETS = "#1a9988", "#d1495b", "#edae49", "#9aa5b1"
LEGEND = {
    KEPT: "draft kept whole",
    REJECTED: "a token rejected",
    ANEW: "guessed anew",
    TARGETS: "not drafted",
}
PAPER, INK = "#ffffff", "#24292f"


class Recorded(LiberoEnvironment):
    """Notes the state after every step of the policy."""

    states: list[np.ndarray]

    def reset(self, trial: int) -> None:
        self.states = []  # of the wait steps
        super().reset(trial)
        self.states = [self.state()]

    def step(self, action: np.ndarray) -> bool:
        done = super().step(action)
        self.states.append(self.state())
        return done


def roll_out(key: EpisodeKey, assets: ResolvedAssets) -> tuple[EpisodeResult, list[np.ndarray]]:
    """The episode, and its states: one before, one after every step."""
    policy = load_policy("libero", deterministic=True, device="cpu")
    renderer = resolve_renderer("auto")
    env = Recorded(key.suite, key.task_id, assets, renderer, policy.images)

    def decide(request: ChunkRequest) -> Chunk:
        return policy.act([request])[0]

    steps = get_suite(key.suite).max_steps
    try:
        return run_episode(env, key, read_arm("speculative"), decide, steps), env.states
    finally:
        env.close()


def draw(
    key: EpisodeKey, assets: ResolvedAssets, states: list[np.ndarray], result: EpisodeResult
) -> list[Image.Image]:
    """A frame every EVERY steps: both cameras, and the chunks so far."""
    env = LiberoEnvironment(
        key.suite, key.task_id, assets, resolve_renderer("auto"), ImageSpec(SIDE, SIDE)
    )
    chunk_steps = -(-result.steps // len(result.chunks))
    frames = []
    try:
        env.reset(key.trial)
        for step in range(0, len(states), EVERY):
            env.set_state(states[step])
            seen = env.observe()
            frame = Image.new("RGB", (2 * SIDE, SIDE + STRIP), PAPER)
            frame.paste(Image.fromarray(seen.agentview), (0, 0))
            frame.paste(Image.fromarray(seen.wrist), (SIDE, 0))
            now = min(step // chunk_steps, len(result.chunks) - 1)
            describe(ImageDraw.Draw(frame), result, now)
            frames.append(frame)
    finally:
        env.close()
    return frames


def describe(pen: ImageDraw.ImageDraw, result: EpisodeResult, now: int) -> None:
    """The strip: a column a chunk, a cell a layer, the coarsest on top."""
    traces = [chunk.trace for chunk in result.chunks]
    passes, layers = traces[now].passes, traces[now].layers
    write(pen, (8, SIDE + 5), textwrap.shorten(result.instruction, 90, placeholder=" ..."), 13)
    told = f"chunk {now + 1}: {passes} target pass{'es' * (passes > 1)} instead of {layers}"
    write(pen, (8, SIDE + 24), told, 12)
    pitch = min(24, (2 * SIDE - 16) // len(traces))
    for index, trace in enumerate(traces[: now + 1]):
        left = 8 + index * pitch
        for layer, colour in enumerate(colours(trace)):
            above = SIDE + 60 + layer * CELL
            pen.rectangle((left, above, left + pitch - 3, above + CELL - 2), colour)
    for place, (colour, words) in enumerate(LEGEND.items()):
        left, above = 2 * SIDE - 244 + place % 2 * 126, SIDE + 24 + place // 2 * 16
        pen.rectangle((left, above + 3, left + 9, above + 12), colour)
        write(pen, (left + 14, above), words, 12)


def colours(trace: DecodeTrace) -> list[str]:
    """By layer: what the first pass said of the draft. It judges no layer behind a rejection."""
    found = []
    for layer, (drafted, accepted) in enumerate(zip(trace.drafted, trace.accepted, strict=True)):
        if drafted:
            found.append(KEPT if accepted == drafted else REJECTED)
        else:
            found.append(TARGETS if layer == trace.layers - 1 else ANEW)
    return found


def write(pen: ImageDraw.ImageDraw, where: tuple[int, int], words: str, size: int) -> None:
    pen.text(where, words, INK, ImageFont.load_default(size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="libero_10")
    parser.add_argument("--task", type=int, default=3)
    parser.add_argument("--trial", type=int, default=12)
    parser.add_argument("--output", type=Path, default=PICTURE)
    options = parser.parse_args()
    key = EpisodeKey("speculative", options.suite, options.task, options.trial)
    assets = resolve("lite", [key.suite])
    result, states = roll_out(key, assets)
    frames = draw(key, assets, states, result)
    frames += [frames[-1]] * 15  # a moment to look at the end
    content = io.BytesIO()
    frames[0].save(
        content,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=1000 * EVERY // 20,
        loop=0,
        quality=50,
        method=6,
    )
    write_atomically(options.output, content.getvalue())
    size = len(content.getvalue()) / 1024
    print(f"{options.output}: {result.outcome}, {result.steps} steps, {size:.0f} KiB")


if __name__ == "__main__":
    main()
