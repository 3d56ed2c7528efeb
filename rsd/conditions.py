"""What makes two recordings the same experiment: which of their fields decide, how a disagreement
is told, and how tables name what they agree on.

Recordings are values as JSON has them: run.json, collection.json, the identity of a training. What
one did not record is None there, and agrees with None only: rows of which nobody knows how they
were made are not pooled with others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rsd import protocols
from rsd.errors import UserError

# Packages whose version decides what comes out. What else is installed may differ.
WORLD_PACKAGES = ("hf-libero", "mujoco", "numpy", "robosuite")  # that make a world
ROW_PACKAGES = (*WORLD_PACKAGES, "torch")  # that make an episode
TRAINING_PACKAGES = ("numpy", "torch")  # that make a checkpoint

_ROW = (
    "checkpoint_sha256",
    "assets_fingerprint",
    "renderer",
    "images",
    "arithmetic",
    "simulator",
    "source",  # of imported results; None: our own
)
_STATE = ("assets_fingerprint", "arithmetic", "simulator")  # beside WORLD_PACKAGES
_DRAWS = ("env_seed", "reseeds", "wait_steps")  # of a protocol, that make a world
_ROW_OF_CONFIG = ("deterministic",)
_RUN = ("config", "schema_version", "assets")

UNKNOWN = "unknown"  # what older runs did not record


def of_rows(run: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal for rows of two runs to stand in one table."""
    config = run.get("config") or {}
    return _deciding(run) | {name: config.get(name) for name in _ROW_OF_CONFIG}


def of_world(run: Mapping[str, Any]) -> dict[str, Any] | None:
    """What makes the world of a (suite, task, trial), whoever acts in it. None where a part of it
    was not recorded: nobody knows whether two of its worlds are the same."""
    draws = {name: _protocol(run).get(name) for name in _DRAWS}
    world = of_states(run) | draws
    return None if None in flat(world).values() else world


def of_run(run: Mapping[str, Any]) -> dict[str, Any]:
    """The same for rows on both sides of a resume, which are of one configuration, too. Code and
    hardware may differ: a run is resumed after a fix, and on other machines."""
    return {name: run.get(name) for name in _RUN} | _deciding(run)


def of_states(run: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal for the same actions to lead to the same states."""
    packages = versions(run.get("packages") or {}, WORLD_PACKAGES)
    return {name: run.get(name) for name in _STATE} | {"packages": packages}


def of_machine(run: Mapping[str, Any]) -> dict[str, Any]:
    """What must not decide anything, and is the first suspect where something differs."""
    hardware = run["hardware"]
    return {
        "Python": hardware["python"],
        "libc": hardware.get("libc"),
        "processor": hardware["cpu"],
    }


def of_collection(shared: Mapping[str, Any]) -> dict[str, Any]:
    """The same for the demonstrations of a folder, of all that collection.json says."""
    known = (
        {"packages": versions(shared["packages"], WORLD_PACKAGES)} if "packages" in shared else {}
    )
    return {**shared, **known}


def of_training(settings: Mapping[str, Any], packages: Mapping[str, str]) -> dict[str, Any]:
    """The same for the steps of a training."""
    return {**settings, "packages": versions(packages, TRAINING_PACKAGES)}


# Fields that older collections and trainings lack: those are gone on with.
LATER = ("first_seed", "packages")


def _deciding(run: Mapping[str, Any]) -> dict[str, Any]:
    packages = versions(run.get("packages") or {}, ROW_PACKAGES)
    return {name: run.get(name) for name in _ROW} | {
        "packages": packages,
        "protocol": _protocol(run),
    }


def _protocol(run: Mapping[str, Any]) -> Mapping[str, Any]:
    """In numbers; `oft` of runs that had no other."""
    return run.get("protocol") or protocols.recorded(protocols.OFT)


def versions(packages: Mapping[str, str], deciding: Sequence[str]) -> dict[str, str | None]:
    """Of recorded versions those that decide. Builds of one version do not differ: `2.13.0+cpu`
    decides as `2.13.0+cu130` does (docs/decisions.md)."""
    return {
        name: packages[name].partition("+")[0] if name in packages else None for name in deciding
    }


# --- disagreement --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """A field that two recordings have otherwise."""

    name: str  # dotted
    before: Any  # None: not recorded
    after: Any

    def __str__(self) -> str:
        before, after = (
            "(absent)" if value is None else json.dumps(value)
            for value in (self.before, self.after)
        )
        return f"{self.name.removeprefix('config.')}: {before} -> {after}"

    def as_json(self) -> str:
        """Both values, to be kept."""
        return f"{json.dumps(self.before)} -> {json.dumps(self.after)}"


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any], later: Sequence[str] = ()
) -> list[Difference]:
    """Every leaf that differs. Fields in `later` are not compared where `before` lacks them."""
    old, new = _as_json(before), _as_json(after)
    for name in later:
        if name not in old:
            new.pop(name, None)
    old, new = flat(old), flat(new)
    return [
        Difference(name, old.get(name), new.get(name))
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]


_NOT_RECORDED = "not recorded"  # by an older run


def then_and_here(before: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """A line for every field that this machine has otherwise than what was recorded."""
    return [
        f"{each.name}: {_said(each.before)} then, {_said(each.after)} here"
        for each in differences(before, here)
    ]


def _said(value: object) -> object:
    return _NOT_RECORDED if value is None else value


def require_same(
    before: Mapping[str, Any], after: Mapping[str, Any], otherwise: str, later: Sequence[str] = ()
) -> None:
    """Raises UserError that begins with `otherwise` and lists every difference."""
    found = differences(before, after, later)
    if found:
        raise UserError(f"{otherwise}:\n" + "\n".join(f"  {each}" for each in found))


def require_own(run: Mapping[str, Any], shown: str, why: str) -> None:
    """Raises UserError for what other software recorded, of which nobody knows how."""
    if source := run.get("source"):
        raise UserError(f"{shown} was imported from {source['software']}: {why}")


def _as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """Tuples become lists."""
    made: dict[str, Any] = json.loads(json.dumps(value))
    return made


def flat(value: object, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dicts under dotted names; lists are leaves."""
    if not isinstance(value, dict) or (prefix and not value):
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for name, inner in value.items():
        leaves |= flat(inner, f"{prefix}.{name}" if prefix else str(name))
    return leaves


# --- for tables ----------------------------------------------------------------------------------


def machines(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The machines of all sessions of a run.json, each once."""
    found: list[dict[str, Any]] = []
    for session in run.get("sessions") or []:
        found += [entry for entry in session.get("machines") or [] if entry not in found]
    return found


def arithmetic(run: Mapping[str, Any]) -> str:
    """Such as `x86-64-v3`."""
    return run.get("arithmetic") or UNKNOWN


def protocol(run: Mapping[str, Any]) -> str:
    """Its name."""
    return str(_protocol(run)["name"])


def frames(run: Mapping[str, Any]) -> str:
    """What the policy saw, such as `96 x 96 px, 0 samples, no reflection`."""
    images = run.get("images")
    if not images:
        return UNKNOWN
    reflection = "reflection" if images["reflection"] else "no reflection"
    return f"{images['width']} x {images['height']} px, {images['samples']} samples, {reflection}"


def processors(noted: Iterable[Mapping[str, Any]], drivers: Iterable[object] = ()) -> str:
    """Every kind of processor that made rows, with what ran on it: `AMD EPYC (replica, worker)`.

    `drivers` are the `hardware` of run.json files that noted no machine.
    """
    roles: dict[str, set[str]] = {}
    for machine in noted:
        on_gpu = machine["runs_on"] == "cuda" and machine["gpus"]
        for model in machine["gpus"] if on_gpu else [machine["cpu"]]:
            roles.setdefault(model, set()).add(machine["role"])
    for driver in drivers:
        if isinstance(driver, Mapping) and driver.get("cpu"):
            roles.setdefault(driver["cpu"], set()).add("driver")
    named = [f"{model} ({', '.join(sorted(of))})" for model, of in sorted(roles.items())]
    return ", ".join(named) or UNKNOWN
