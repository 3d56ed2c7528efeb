"""Under which conditions rows were made: what must agree for them to stand in one table, and how
tables name it. Reads run.json as a value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rsd.provenance import deciding_packages

_SINGLE = (
    "checkpoint_sha256",
    "assets_fingerprint",
    "renderer",
    "images",
    "arithmetic",
    "simulator",
)

UNKNOWN = "unknown"  # what older runs did not record


def deciding(run: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal for rows of two runs, or of both sides of a resume, to be pooled.

    What a run did not record is None, and agrees with None only.
    """
    packages = deciding_packages(run.get("packages") or {})
    return {name: run.get(name) for name in _SINGLE} | {"packages": packages}


def machines(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The machines of all sessions of a run.json, each once."""
    found: list[dict[str, Any]] = []
    for session in run.get("sessions") or []:
        found += [entry for entry in session.get("machines") or [] if entry not in found]
    return found


def arithmetic(run: Mapping[str, Any]) -> str:
    """Such as `x86-64-v3`."""
    return run.get("arithmetic") or UNKNOWN


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
