"""World identity: trial k's world as the reference loop gives it, in any order (DESIGN 7).

LIBERO draws fixture poses at every reset from numpy's global stream, outside the stored initial
state, so in the reference loop (`seed(0)`, one reset a trial) trial k depends on the k resets
before it. What that draw leaves behind is recorded here once per (task, asset tree), and put back
for any trial at any time.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsd import arithmetic, installation
from rsd.conditions import WORLD_PACKAGES, flat
from rsd.envs.assets import ResolvedAssets, cache_dir
from rsd.outputs import write_atomically
from rsd.protocols import OFT, Protocol
from rsd.provenance import packages
from rsd.suites import TRIALS_PER_TASK, Task

_FORMAT = 5  # of the cache


@dataclass(frozen=True)
class World:
    """What a reset draws or leaves behind outside [time, qpos, qvel]."""

    body_pos: np.ndarray  # float64 (nbody, 3), m; fixtures are placed by moving their bodies
    body_quat: np.ndarray  # float64 (nbody, 4), wxyz
    qacc_warmstart: np.ndarray  # float64 (nv,), start of the contact solver's first iteration
    loads: int = (
        1  # model loads that the reset took: more where the samplers found no room at first
    )


class WorldStream:
    """The worlds of one task under one protocol, extended on demand and kept in the user's cache.

    `extend` is given `hard_reset`: it performs one reset of the reference loop after so many loads
    of the model, drawing from numpy's global stream, and returns what it left behind.
    """

    def __init__(
        self,
        task: Task,
        assets: ResolvedAssets,
        cache: Path | None = None,
        protocol: Protocol = OFT,
    ) -> None:
        name = f"{_cache_key(task, assets)}{_draws(protocol)}.npz"
        self._path = (cache or cache_dir()) / "worlds" / name
        self._protocol = protocol
        self._worlds: list[World] = []
        self._stream: dict[str, Any] | None = None  # numpy's state after the last recorded reset
        if self._path.exists():
            try:
                self._load()
            except (OSError, ValueError, KeyError, zipfile.BadZipFile):
                self._worlds = []  # a torn file is recorded anew

    def __contains__(self, trial: int) -> bool:
        return trial < len(self._worlds)

    def __getitem__(self, trial: int) -> World:
        return self._worlds[trial]

    def extend(self, trial: int, hard_reset: Callable[[int], World]) -> None:
        """Record worlds up to `trial`, and as many again: a run through all trials then costs few
        interruptions. Leaves numpy's global stream as it was."""
        target = min(TRIALS_PER_TASK, max(trial + 1, 2 * len(self._worlds)))
        before = np.random.get_state(legacy=False)
        try:
            if self._stream is None:
                np.random.seed(self._protocol.env_seed)
            else:
                np.random.set_state(self._stream)
            while len(self._worlds) < target:
                self._worlds.append(self._next(hard_reset))
            self._stream = np.random.get_state(legacy=False)
        finally:
            np.random.set_state(before)
        self._save()

    def _next(self, hard_reset: Callable[[int], World]) -> World:
        """The first load of the model makes the loop. A script that seeds each trial has an
        environment a trial, which it resets once before that."""
        if self._protocol.reseeds:
            np.random.seed(self._protocol.env_seed + len(self._worlds))
            return hard_reset(2)
        return hard_reset(1 + sum(world.loads for world in self._worlds))

    def _save(self) -> None:
        assert self._stream is not None
        buffer = io.BytesIO()
        np.savez(
            buffer,
            body_pos=np.stack([world.body_pos for world in self._worlds]),
            body_quat=np.stack([world.body_quat for world in self._worlds]),
            qacc_warmstart=np.stack([world.qacc_warmstart for world in self._worlds]),
            loads=np.array([world.loads for world in self._worlds]),
            stream_key=self._stream["state"]["key"],
            stream_pos=self._stream["state"]["pos"],
            stream_has_gauss=self._stream["has_gauss"],
            stream_gauss=self._stream["gauss"],
        )
        write_atomically(self._path, buffer.getvalue())

    def _load(self) -> None:
        with np.load(self._path, allow_pickle=False) as stored:
            names = ("body_pos", "body_quat", "qacc_warmstart", "loads")
            rows = zip(*(stored[name] for name in names), strict=True)
            self._worlds = [World(pos, quat, start, int(loads)) for pos, quat, start, loads in rows]
            self._stream = {
                "bit_generator": "MT19937",
                "state": {"key": stored["stream_key"], "pos": int(stored["stream_pos"])},
                "has_gauss": int(stored["stream_has_gauss"]),
                "gauss": float(stored["stream_gauss"]),
            }


def _draws(protocol: Protocol) -> str:
    """Part of a cache's name; none where they are those of the reference loop."""
    if (protocol.env_seed, protocol.reseeds) == (OFT.env_seed, OFT.reseeds):
        return ""
    return f"-{protocol.env_seed}{'+trial' if protocol.reseeds else ''}"


def _cache_key(task: Task, assets: ResolvedAssets) -> str:
    """What decides the draws of a task's resets: assets, packages and their content, arithmetic."""
    versions = flat(packages(WORLD_PACKAGES) | {"content": installation.check()})
    parts = [
        str(_FORMAT),
        assets.fingerprint,
        str(assets.simplify_robot),
        arithmetic.name(),
        *(f"{name}={version}" for name, version in versions.items()),
    ]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return f"{task.suite}-{task.task_id:02d}-{digest}"
