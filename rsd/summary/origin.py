"""What made rows: the part of a run.json that results keep, and how tables name it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rsd import conditions
from rsd.errors import UserError
from rsd.summary.values import Provenance

_KEPT = (
    "run_id",
    "source",
    "config",
    "protocol",
    "checkpoint_sha256",
    "assets",
    "assets_fingerprint",
    "renderer",
    "arithmetic",
    "images",
    "simulator",
    "code",
    "packages",
    "hardware",
)


def origin_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run.json; `changes` and `machines` are those of all its sessions."""
    return {name: run.get(name) for name in _KEPT} | {
        "changes": [session["changes"] for session in run["sessions"]],
        "machines": conditions.machines(run),
    }


def decodings(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How each arm decodes, by its name, in runs by theirs; raises UserError where two runs
    disagree."""
    found: dict[str, Any] = {}
    for name, run in runs.items():
        for arm, decoding in run["config"]["arms"].items():
            if found.setdefault(arm, decoding) != decoding:
                raise UserError(
                    f"arm {arm} of {name} decodes by {decoding}, elsewhere by {found[arm]}; keep "
                    "one of them"
                )
    return found


def provenance(origins: Sequence[Mapping[str, Any]]) -> Provenance:
    """Of rows that were made under the same conditions (`conditions.of_rows`)."""
    first = origins[0]
    code = dict.fromkeys(version for origin in origins for version in _versions(origin))
    return Provenance(
        checkpoint_sha256=first["checkpoint_sha256"],
        code=tuple(code),
        protocol=conditions.protocol(first),
        assets=first["assets"] or conditions.UNKNOWN,
        renderer=first["renderer"] or conditions.UNKNOWN,
        arithmetic=conditions.arithmetic(first),
        frames=conditions.frames(first),
        processors=_processors(origins),
        source=_source(first.get("source")),
    )


def _source(source: Mapping[str, Any] | None) -> str | None:
    """Such as `vla-eval 0.8.0 (recording-ab.sqlite, sha256 0123456789ab)`."""
    if source is None:
        return None
    software = " ".join(filter(None, (source["software"], source["version"])))
    files = ", ".join(f"{file['name']}, sha256 {file['sha256'][:12]}" for file in source["files"])
    return f"{software} ({files})"


def _processors(origins: Sequence[Mapping[str, Any]]) -> str:
    """Of all origins; of one that noted none, its driver's."""
    noted = [machine for origin in origins for machine in origin.get("machines") or []]
    drivers = [origin.get("hardware") for origin in origins if not origin.get("machines")]
    return conditions.processors(noted, drivers)


def _versions(origin: Mapping[str, Any]) -> Iterator[str]:
    """Of the code: the first session's, and those of sessions that went on with another."""
    code = origin["code"] or {}
    yield _version(code)
    for changes in origin["changes"]:
        new = {
            name.removeprefix("code."): json.loads(change.partition(" -> ")[2])
            for name, change in changes.items()
            if name.startswith("code.")
        }
        if new:
            yield _version(code | new)


def _version(code: Mapping[str, Any]) -> str:
    if not code:
        return f"code {conditions.UNKNOWN}"
    commit = f"commit {code['git_commit'][:12]}" if code["git_commit"] else ""
    if commit and not code["git_dirty"]:
        return commit
    return f"{commit} with sources {code['source_sha256'][:12]}".strip()
