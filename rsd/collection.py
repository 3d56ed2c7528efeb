"""Collecting demonstrations: one episode of an expert, which placements to try, and the folder
that is filled. No ray.

A demonstration's placement is drawn from its seed and never from LIBERO's 50 stored states, which
are kept for evaluation (tests/jobs/test_collect.py compares them).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rsd.demonstrations import (
    SUFFIX,
    Demonstration,
    check_demonstration,
    merge,
    part_files,
    stored_seeds,
    task_file,
    write_demonstration,
)
from rsd.envs.looks import Looks
from rsd.episode import Decide, check_actions
from rsd.errors import UserError, writing
from rsd.foreign import MOST_BYTES, parse_json, read_bytes
from rsd.locking import hold, let_go_on_failure
from rsd.outputs import ASIDE, write_atomically
from rsd.provenance import flat
from rsd.suites import Task
from rsd.types import (
    ACTION_DIM,
    ChunkRequest,
    Decoding,
    EpisodeKey,
    ImageSpec,
    Observation,
    SimTimings,
    draws_of,
)

FIRST_SEED = 1  # seed 0 is the stream of evaluation's fixture poses (PROTOCOL 4)

Act = Callable[[], np.ndarray]  # the expert's action float32 (7,) for the simulator's present state


class FreshEnvironment(Protocol):
    """What collecting needs of a simulator; `LiberoEnvironment` has it."""

    instruction: str
    assets: str
    renderer: str
    timings: SimTimings

    @property
    def proprio(self) -> np.ndarray:
        """float32 (8,): what `observe` would report."""

    def reset_fresh(self, seed: int, looks: Looks | None = None) -> None: ...

    def step(self, action: np.ndarray) -> bool: ...

    def observe(self) -> Observation: ...

    def state(self) -> np.ndarray: ...

    def model_xml(self) -> str: ...


@dataclass(frozen=True)
class NoiseSettings:
    """Disturbances that lead the robot off the expert's path, so that the labels show how to come
    back (DART, arXiv:1703.09327, but in bursts: single steps of noise average out at 20 Hz)."""

    sigma: float = 0.2  # of the xyz offset that a burst adds to every action, in action units
    burst_probability: float = 0.05  # that a burst starts at a step outside of one
    burst_steps: tuple[int, int] = (4, 10)  # length of a burst, both ends included
    slip_probability: float = 0.002  # that the gripper starts to do the opposite
    slip_steps: int = 4


@dataclass(frozen=True)
class NoviceSettings:
    """A policy that drives part of the way while the expert labels, so that the demonstrations
    hold the states that it leads to (DAgger, arXiv:1011.0686). The expert ends the episode."""

    checkpoint_sha256: str
    chunk_steps: int  # T
    share: float  # probability that the policy drives the next chunk
    steps: int  # of an episode, from which on the expert drives alone
    expert_chunks: int = 2  # that the expert drives in a row where the policy does not


@dataclass(frozen=True)
class CollectionSettings:
    """How a demonstration is recorded."""

    max_steps: int  # an expert that needs more has failed
    frame_every: int = 2  # steps from frame to frame; step 0 always has one
    hold_steps: int = 8  # steps recorded after the goal was reached: they fill the last chunk
    noise: NoiseSettings | None = dataclasses.field(default_factory=NoiseSettings)
    looks: Looks | None = None  # how much cameras, lamps and colours vary
    driver: NoviceSettings | None = None  # None: the expert drives; named as in files, --driver
    misses: float | None = None  # probability that a grasp is missed on purpose (`Misses`)


@dataclass(frozen=True)
class Failure:
    """A placement that gives no demonstration, whoever tries it again."""

    seed: int
    reason: str
    void: bool = False  # solved by LIBERO's sampler: neither a success nor a failure of the expert


class Disturbance:
    """The noise of one episode, from a generator of its own."""

    def __init__(self, settings: NoiseSettings, seed: int, task_id: int) -> None:
        self._settings = settings
        self._rng = np.random.default_rng([seed, task_id])
        self._offset = np.zeros(3)
        self._burst_left = 0
        self._slip_left = 0

    def __call__(self, label: np.ndarray) -> np.ndarray:
        """The action float32 (7,) to execute in place of the label."""
        settings = self._settings
        if self._burst_left == 0 and self._rng.random() < settings.burst_probability:
            self._burst_left = int(self._rng.integers(*settings.burst_steps, endpoint=True))
            self._offset = self._rng.normal(0.0, settings.sigma, 3)
        if self._slip_left == 0 and self._rng.random() < settings.slip_probability:
            self._slip_left = settings.slip_steps
        action = label.astype(np.float64)
        if self._burst_left:
            self._burst_left -= 1
            action[:3] += self._offset
        if self._slip_left:
            self._slip_left -= 1
            action[6] = -action[6]
        return np.clip(action, -1.0, 1.0).astype(np.float32)


class Misses:
    """Grasps that fail on purpose, of one episode, from a generator of its own: where the expert
    begins to close its fingers the hand rises instead, closes them on nothing and drifts on, as a
    policy does that has not noticed. Nothing is pushed over; then the expert goes back for it."""

    RISE_STEPS = (4, 7)  # with open fingers; both ends included, as below
    DRIFT_STEPS = (6, 24)  # with closed ones
    RISE, DRIFT = 0.7, 0.4  # position actions
    MOST = 3  # of an episode: the expert needs its turn

    def __init__(self, probability: float, seed: int, task_id: int) -> None:
        self._probability = probability
        self._rng = np.random.default_rng([seed, task_id, _MISSES_STREAM])
        self._closed = False
        self._planned: deque[np.ndarray] = deque()
        self._left = self.MOST

    def __call__(self, label: np.ndarray, driven: bool = False) -> np.ndarray | None:
        """The action float32 (7,) to execute in place of the label, or None: the label. While
        somebody else drives (`driven`) nothing is missed."""
        begins = label[6] > 0 and not self._closed
        self._closed = bool(label[6] > 0)
        if driven:
            self._planned.clear()
            return None
        due = begins and self._left > 0 and not self._planned
        if due and self._rng.random() < self._probability:
            self._left -= 1
            self._plan()
        return self._planned.popleft() if self._planned else None

    def _plan(self) -> None:
        heading, level = self._rng.uniform(-np.pi, np.pi), self._rng.uniform(-0.3, 0.3)
        aside = np.array([np.cos(heading), np.sin(heading), level])
        rise = np.array([0.3 * aside[0], 0.3 * aside[1], self.RISE, 0, 0, 0, -1], np.float32)
        drift = np.array([*(self.DRIFT * aside), 0, 0, 0, 1], np.float32)
        for action, steps in ((rise, self.RISE_STEPS), (drift, self.DRIFT_STEPS)):
            self._planned.extend([action] * int(self._rng.integers(*steps, endpoint=True)))


class Novice:
    """Whose actions are executed, the expert's labels or a policy's, decided chunk by chunk from a
    generator of its own. Only what follows a frame by the expert's own hand becomes an example
    (rsd/training/data.py), so the expert drives for more than a chunk at a time."""

    def __init__(self, settings: NoviceSettings, decide: Decide, task: Task, seed: int) -> None:
        self._settings, self._decide = settings, decide
        self._key = EpisodeKey("driver", task.suite, task.task_id, seed)
        self._rng = np.random.default_rng([seed, task.task_id, _NOVICES_STREAM])
        self._planned: deque[np.ndarray | None] = deque()  # None: as the label says
        self._chunks = 0

    def __call__(self, step: int, observe: Callable[[], Observation]) -> np.ndarray | None:
        """The policy's action float32 (7,) for a step, or None where the expert drives; `observe`
        is asked where the policy decides."""
        settings = self._settings
        if step >= settings.steps:
            return None
        if not self._planned:
            if self._rng.random() < settings.share:
                self._planned.extend(self._ask(observe()))
            else:
                self._planned.extend([None] * settings.chunk_steps * settings.expert_chunks)
        return self._planned.popleft()

    def _ask(self, observation: Observation) -> list[np.ndarray]:
        draws = draws_of(self._key, self._chunks)
        request = ChunkRequest(observation, _NOVICES_DECODING, draws, self._chunks)
        self._chunks += 1
        actions = self._decide(request).actions
        check_actions(actions)
        return list(actions)


_NOVICES_STREAM, _MISSES_STREAM = 11, 13  # apart from the noise of the same seed and task
_NOVICES_DECODING = Decoding("autoregressive")


def collect_demonstration(
    env: FreshEnvironment,
    act: Act,
    task: Task,
    seed: int,
    images: ImageSpec,
    settings: CollectionSettings,
    decide: Decide | None = None,
) -> Demonstration | Failure:
    """Let the expert solve the placement of `seed`; the reason where it does not.

    `act` is asked once a step, before it; `decide` is the policy that `settings.driver` wants. Only
    `env.observe` renders. Exceptions propagate, and so does a ValueError for an action that is not
    float32 (7,) within [-1, 1] and the UserError of a demonstration that no file may hold.
    """
    env.reset_fresh(seed, settings.looks)
    model_xml = env.model_xml()
    disturb = Disturbance(settings.noise, seed, task.task_id) if settings.noise else None
    misses = Misses(settings.misses, seed, task.task_id) if settings.misses else None
    novice = None
    if settings.driver is not None:
        assert decide is not None, "a novice needs its policy"
        novice = Novice(settings.driver, decide, task, seed)
    labels: list[np.ndarray] = []
    executed: list[np.ndarray] = []
    driven: list[bool] = []
    proprio: list[np.ndarray] = []
    states: list[np.ndarray] = []
    frames: list[Observation] = []
    hold = None  # steps still to record, from the step that reached the goal
    while hold != 0:
        if hold is None and len(labels) == settings.max_steps:
            return Failure(seed, f"the goal was not reached in {settings.max_steps} steps")
        drawn = len(labels) % settings.frame_every == 0
        if drawn:
            frames.append(env.observe())
        states.append(env.state())
        proprio.append(env.proprio)
        labels.append(_checked(act()))
        action = None
        if hold is None and novice is not None:
            observe = (lambda: frames[-1]) if drawn else env.observe
            action = novice(len(labels) - 1, observe)
        if hold is None and misses is not None:
            missed = misses(labels[-1], driven=action is not None)
            action = missed if action is None else action
        driven.append(action is not None)
        if action is None:
            action = labels[-1] if disturb is None or hold is not None else disturb(labels[-1])
        executed.append(action)
        success = env.step(executed[-1])
        if success and len(labels) == 1:  # the sampler drops an object on its goal now and then
            return Failure(seed, "the goal holds before anything was done", void=True)
        if hold is not None:
            hold -= 1
        elif success:
            hold = settings.hold_steps
    demo = Demonstration(
        instruction=env.instruction,
        suite=task.suite,
        task_id=task.task_id,
        seed=seed,
        actions=np.stack(labels),
        executed_actions=np.stack(executed),
        proprio=np.stack(proprio),
        states=np.stack(states),
        frame_steps=np.arange(0, len(labels), settings.frame_every),
        agentview=np.stack([frame.agentview for frame in frames]),
        wrist=np.stack([frame.wrist for frame in frames]),
        assets=env.assets,
        driven=None if novice is None and misses is None else np.array(driven),
        renderer=env.renderer,
        images=images,
        settings=dataclasses.asdict(settings),
        model_xml=model_xml,
    )
    check_demonstration(demo, f"{task.name}, seed {seed}")
    return demo


def _checked(action: np.ndarray) -> np.ndarray:
    if action.shape != (ACTION_DIM,) or not np.abs(action).max() <= 1.0:
        raise ValueError(f"the expert acts out of range: {action!r}")
    return action.astype(np.float32)


def _made(settings: Mapping[str, Any]) -> dict[str, object]:
    """By dotted names, and without what is None: a setting that did not exist yet is one that was
    not made."""
    return {name: value for name, value in flat(settings).items() if value is not None}


class Quota:
    """Which seeds of one task to try until it has `wanted` demonstrations.

    Seeds are given out in order, never more than could still be needed: whatever the number of
    workers and the order in which they finish, the kept seeds are the lowest that succeed. For the
    same reason a skipped seed keeps its place, until a later session tries it again.
    """

    def __init__(self, wanted: int, first_seed: int, done: Iterable[int], failed: Iterable[int]):
        self.wanted = wanted
        self.done = set(done)
        self.failed = set(failed)
        self.skipped: set[int] = set()  # that ended in errors too often
        self._held: set[int] = set()
        self._again: deque[int] = deque()
        self._next = first_seed

    @property
    def open(self) -> int:
        """Seeds that could be given out now."""
        return max(0, self.wanted - len(self.done) - len(self._held) - len(self.skipped))

    @property
    def held(self) -> int:
        """Seeds that are being tried."""
        return len(self._held)

    def take(self) -> int | None:
        """The next seed to try; None where enough are done or being tried."""
        if not self.open:
            return None
        seed = self._again.popleft() if self._again else self._unused()
        self._held.add(seed)
        return seed

    def _unused(self) -> int:
        while self._next in self.done or self._next in self.failed:
            self._next += 1
        self._next += 1
        return self._next - 1

    def succeeded(self, seed: int) -> None:
        self._held.remove(seed)
        self.done.add(seed)

    def gave_nothing(self, seed: int) -> None:
        self._held.remove(seed)
        self.failed.add(seed)

    def returned(self, seed: int) -> None:
        """The attempt was cut short by something else than the expert: try the seed again."""
        self._held.remove(seed)
        self._again.append(seed)

    def skip(self, seed: int) -> None:
        """The same, and often enough for this session."""
        self._held.remove(seed)
        self.skipped.add(seed)


class Store:
    """A folder that demonstrations are collected into; one writer at a time.

    `<task>_demo.hdf5` per task (rsd/demonstrations.py); until a task is complete, `parts/` holds a
    file per demonstration. `failed/` holds a text per placement that gives none, for good, and
    `errors/` one per placement that something else than the expert broke off, until a later session
    settles it. `collection.json` holds what all of them share. A kill at any moment loses the
    episodes that were running and nothing else.

    Every method raises UserError where a file is damaged or cannot be written.
    """

    _LATER = ("first_seed", "packages")  # of what is shared; folders from before are not checked

    def __init__(self, folder: Path, shared: Mapping[str, Any], resume: bool) -> None:
        """`shared`: settings that a resumed collection must not change. Raises UserError also where
        the folder is in use, holds something and `resume` is not asked for, or holds demonstrations
        with other or unknown settings."""
        self.folder = folder
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = hold(folder)
        with let_go_on_failure(self._lock):
            if not resume and any(not path.name.startswith(".") for path in folder.iterdir()):
                raise UserError(
                    f"{folder} is not empty; --resume adds to it, another --output starts anew"
                )
            self._agree(json.loads(json.dumps(shared)))
            with writing(folder):
                for unfinished in folder.rglob(f".*{ASIDE}"):  # of a killed writer
                    unfinished.unlink()

    def _agree(self, shared: dict[str, Any]) -> None:
        path = self.folder / "collection.json"
        if not path.exists():
            self._refuse_unknown()
            self._write(path, json.dumps(shared, indent=2))
            return
        try:
            stored = parse_json(read_bytes(path, MOST_BYTES))
            stored = {**{name: shared.get(name) for name in self._LATER}, **stored}
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path} is damaged ({error}), so nobody knows how the demonstrations beside it "
                "were made; put a copy back or choose another --output"
            ) from error
        before, now = _made(stored), _made(shared)
        changed = [
            f"  {name}: {before.get(name)} -> {now.get(name)}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        ]
        if changed:
            raise UserError(
                f"{self.folder} was collected with other settings; resume with the same ones or "
                "choose another --output:\n" + "\n".join(changed)
            )

    def _refuse_unknown(self) -> None:
        made = [*self.folder.glob(f"*{SUFFIX}"), *part_files(self.folder)]
        if made:
            raise UserError(
                f"{self.folder} holds demonstrations ({made[0].name}) but no collection.json, so "
                "nobody knows how they were made; choose another --output"
            )

    def quota(self, task: Task, wanted: int, first_seed: int) -> Quota:
        """What there is of a task already, and how many more are wanted."""
        done = stored_seeds(task_file(self.folder, task)) | {
            int(part.stem) for part in part_files(self.folder, task.name)
        }
        noted = self.folder.glob(f"failed/{task.name}/[0-9]*.txt")
        failed = {int(path.stem) for path in noted if path.stem.isdecimal()}
        return Quota(wanted, first_seed, done, failed)

    def add(self, demo: Demonstration) -> None:
        """Keep a demonstration; it is safe when this returns."""
        name = f"{demo.seed:08d}.hdf5"
        write_demonstration(self.folder / "parts" / demo.task.name / name, demo)
        self._settle(demo.task, demo.seed)

    def note_failure(self, task: Task, failure: Failure) -> None:
        """Remember that a placement gives no demonstration, so that no resume tries it again."""
        self._write(self._text("failed", task, failure.seed), failure.reason + "\n")
        self._settle(task, failure.seed)

    def note_error(self, task: Task, seed: int, reason: str) -> None:
        """Keep why a placement was skipped; a resume tries it again."""
        self._write(self._text("errors", task, seed), reason)

    def _settle(self, task: Task, seed: int | None) -> None:
        if seed is not None:
            path = self._text("errors", task, seed)
            with writing(path):
                path.unlink(missing_ok=True)
            _remove_empty(path.parent)

    def _text(self, folder: str, task: Task, seed: int) -> Path:
        return self.folder / folder / task.name / f"{seed:08d}.txt"

    @staticmethod
    def _write(path: Path, content: str) -> None:
        with writing(path):
            write_atomically(path, content.encode())

    def merge(self, task: Task) -> None:
        """Move a task's parts into its file."""
        self._merge(task.name)

    def merge_all(self) -> None:
        """Move all parts into their tasks' files."""
        for name in sorted({part.parent.name for part in part_files(self.folder)}):
            self._merge(name)

    def _merge(self, task_name: str) -> None:
        merge(part_files(self.folder, task_name), self.folder / f"{task_name}{SUFFIX}")
        _remove_empty(self.folder / "parts" / task_name)

    def close(self) -> None:
        """Let another process write."""
        if self._lock is not None:
            self._lock.close()


def _remove_empty(folder: Path) -> None:
    """With the folder that it is in; what is absent or holds something stays as it is."""
    for each in (folder, folder.parent):
        with contextlib.suppress(OSError):
            each.rmdir()
