"""A policy of the user's own: `module:factory`, importable where RSD runs; no fork needed.

`factory(device)` makes the policy, once a replica: an object that is called with one Observation
and returns actions, an array (n, 7) of 1 or more control steps. Where it has a method `batch`, that
gets a list of observations and returns as many arrays. An object that implements
`rsd.types.Policy` is taken as it is. It holds no state of an episode: any replica may be asked for
any chunk, and twice.

What it wants, and is, stands in the factory's attribute `info`, a PolicyInfo; without one it gets
frames as the protocol has them, and its identity is a hash of its module's source.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import inspect as introspection
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from rsd.errors import UserError
from rsd.models.seam import Family, PolicyInfo
from rsd.types import (
    ACTION_DIM,
    Chunk,
    ChunkRequest,
    DecodeTrace,
    Deliver,
    ImageSpec,
    Policy,
)


class PluginPolicy:
    """Implements `rsd.types.Policy` with what a factory made."""

    def __init__(self, made: Any, info: PolicyInfo, spec: str) -> None:
        self.chunk_steps = info.chunk_steps
        self.images: ImageSpec = info.images
        self.checkpoint_sha256 = info.sha256
        self._spec = spec
        self._batch = getattr(made, "batch", None)
        self._single = made
        if self._batch is None and not callable(made):
            raise UserError(
                f"policy {spec!r}: its factory made a {type(made).__name__}, which can neither be "
                "called with an observation nor has a method `batch`"
            )

    def act(self, requests: list[ChunkRequest], deliver: Deliver | None = None) -> list[Chunk]:
        """Raises ValueError for answers that are no actions."""
        observations = [request.observation for request in requests]
        if self._batch is not None:
            started = time.perf_counter()
            answers = list(self._batch(observations))
            if len(answers) != len(observations):
                raise ValueError(
                    f"policy {self._spec!r} gave {len(answers)} answers to {len(observations)} "
                    "observations"
                )
            return self._deliver(answers, started, deliver)
        chunks: list[Chunk] = []
        for row, observation in enumerate(observations):
            started = time.perf_counter()
            (chunk,) = self._deliver([self._single(observation)], started, None)
            chunks.append(chunk)
            if deliver is not None:
                deliver(row, chunk)
        return chunks

    def _deliver(
        self, answers: Sequence[Any], started: float, deliver: Deliver | None
    ) -> list[Chunk]:
        seconds = time.perf_counter() - started
        trace = DecodeTrace((), (), 1, 0, batch_size=len(answers), target_s=seconds)
        chunks = [Chunk(self._actions(answer), None, trace) for answer in answers]
        for row, chunk in enumerate(chunks):
            if deliver is not None:
                deliver(row, chunk)
        return chunks

    def _actions(self, answer: Any) -> np.ndarray:
        """float32 (n, 7)."""
        actions = np.asarray(answer)
        if actions.ndim != 2 or len(actions) == 0 or actions.shape[1] != ACTION_DIM:
            raise ValueError(
                f"policy {self._spec!r} gave an array of shape {actions.shape}; actions are "
                f"(n, {ACTION_DIM}): one row a control step"
            )
        return actions.astype(np.float32)


def _factory(spec: str) -> tuple[ModuleType, Callable[..., Any]]:
    """Raises UserError for a module that cannot be imported or has no such factory."""
    name, _, attribute = spec.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # a console command does not look where it is called
    try:
        module = importlib.import_module(name)
    except Exception as error:  # whatever a module of somebody else's raises
        raise UserError(
            f"policy {spec!r}: module {name!r} cannot be imported: {_reason(error)}; it is looked "
            f"for in this folder ({Path.cwd()}), on PYTHONPATH and among the installed packages"
        ) from error
    made: Any = module
    for part in attribute.split("."):
        if not hasattr(made, part):
            near = difflib.get_close_matches(part, vars(made), n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"policy {spec!r}: {name} has no {part!r}{meant}")
        made = getattr(made, part)
    if not callable(made):
        raise UserError(f"policy {spec!r}: {attribute!r} is a {type(made).__name__}, no factory")
    try:
        introspection.signature(made).bind("cpu")
    except TypeError as error:
        raise UserError(
            f"policy {spec!r}: {attribute} cannot be called as {attribute}(device): {error}"
        ) from error
    except ValueError:
        pass  # a builtin that does not tell its signature
    return module, made


def _reason(error: Exception) -> str:
    """The exception, and the line of the module that it came from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if len(frames) > 1 else ""
    return f"{type(error).__name__}: {error}{place}"


def inspect(spec: str) -> PolicyInfo:
    """What a plug-in tells of itself. Raises UserError for one that is no plug-in."""
    module, factory = _factory(spec)
    info = getattr(factory, "info", PolicyInfo())
    if not isinstance(info, PolicyInfo):
        raise UserError(
            f"policy {spec!r}: `info` is a {type(info).__name__}, not an rsd.models.PolicyInfo"
        )
    return dataclasses.replace(
        info,
        sha256=info.sha256 or _sources(module, spec),
        batches=info.batches and _batches(factory),
    )


def _batches(factory: object) -> bool:
    """A class shows it. Of what a function makes nothing is known before, unless it says so."""
    if isinstance(factory, type):
        return hasattr(factory, "batch") or hasattr(factory, "act")
    return hasattr(factory, "info")


def _sources(module: ModuleType, spec: str) -> str:
    """sha256 over the module's file, or all of its package's."""
    if module.__file__ is None:
        raise UserError(
            f"policy {spec!r}: {module.__name__} has no source file to tell its identity by; set "
            "`sha256` in its `info`"
        )
    file = Path(module.__file__)
    files = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
    digest = hashlib.sha256(spec.encode())
    for each in files:
        digest.update(f"{each.relative_to(file.parent)}\0".encode() + each.read_bytes())
    return digest.hexdigest()


def load(spec: str, deterministic: bool, device: str) -> Policy:
    """Have the factory make its policy. What it raises is raised."""
    _, factory = _factory(spec)
    info = inspect(spec)
    made = factory(device)
    if hasattr(made, "act") and hasattr(made, "checkpoint_sha256"):
        policy: Policy = made
        return policy
    return PluginPolicy(made, info, spec)


FAMILY = Family(
    "module:factory for one of your own (README, `Bring your own policy`)", inspect, load
)
