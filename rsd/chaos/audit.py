"""The audit of a campaign of kills: what no blow may do to the books of a run.

No blow costs a row, doubles one or changes one, every repeated attempt has a blow that explains it,
and whatever ends says how to go on. No torch, no ray.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import pandas as pd

from rsd.books import KEY
from rsd.chaos.blows import COMPLETE, STORE, Blow, Ending, last_line
from rsd.locking import LOCK_FILE
from rsd.types import EpisodeKey

# Exit codes with which a driver may answer a blow; workers and replicas never end a run.
ENDINGS: dict[tuple[str, str], set[int]] = {
    ("raylet", "SIGKILL"): {1},
    ("raylet", "SIGSTOP"): {1},
    ("gcs", "SIGKILL"): {1},
    ("gcs", "SIGSTOP"): {1},
    ("driver", "SIGKILL"): {-9},
    ("group", "SIGTERM"): {130},
    ("group", "SIGINT"): {130},
    (STORE, "refuses"): {1},
    (STORE, "SIGSTOP"): {1},
}
WAYS_ON = ("--resume", "prints it when it can")  # the latter where only the summary is missing
# The same before the books are open: a signal's own end, an output that cannot be opened.
UNOPENED = {"group": {-15, -2}, STORE: {2}}
AT_ONCE_S = 30.0  # what Slurm waits between SIGTERM and SIGKILL
DEATHS_PER_RETRY = 4  # of replicas, over one request, before that counts as a failed attempt


@dataclass(frozen=True)
class Evidence:
    """What a run left behind, beside what an undisturbed run of the same plan did."""

    planned: Sequence[EpisodeKey]
    episodes: pd.DataFrame
    chunks: pd.DataFrame
    calm_episodes: pd.DataFrame
    calm_chunks: pd.DataFrame
    session_starts: Sequence[float]  # s, Unix time: when each session opened the books
    blows: Sequence[Blow]
    endings: Sequence[Ending]
    workers: int  # simulators at a time
    files: Mapping[str, Sequence[str]]  # folder of the output -> leaf names
    uploads: Sequence[str] = ()  # begun and never finished, in an object store
    left: Sequence[str] = ()  # processes that outlived their driver


@dataclass(frozen=True)
class Check:
    """One promise, and where it is broken."""

    promise: str
    looked_at: str
    broken: tuple[str, ...] = ()


# --- the audit ---------------------------------------------------------------------------------

DECIDED = ["outcome", "steps", "chunks", "final_state_sha256"]  # by world and policy alone


def audit(evidence: Evidence) -> list[Check]:
    """Every promise over one complete run."""
    return [
        check_keys(evidence.planned, evidence.episodes),
        check_chunks(evidence.episodes, evidence.chunks),
        check_retries(evidence),
        check_outcomes(evidence),
        check_endings(evidence.endings, evidence.blows),
        check_files(evidence.files, evidence.uploads),
        Check("no process outlives its driver", "processes", tuple(evidence.left)),
    ]


def keys_of(rows: pd.DataFrame) -> list[EpisodeKey]:
    """The key of every row, in order."""
    return [EpisodeKey(*row) for row in rows[KEY].itertuples(index=False, name=None)]


def check_keys(planned: Sequence[EpisodeKey], episodes: pd.DataFrame) -> Check:
    """Planned = rows = unique keys."""
    rows = Counter(keys_of(episodes))
    wanted = Counter(planned)
    broken = [f"lost: {key}" for key in wanted - rows]
    broken += [f"not planned: {key}" for key in rows if key not in wanted]
    broken += [f"{count} rows of {key}" for key, count in rows.items() if count > 1]
    if episodes["run_id"].nunique() > 1:
        broken.append(f"several run ids: {sorted(episodes['run_id'].unique())}")
    looked_at = f"{len(planned)} planned, {len(episodes)} rows, {len(rows)} keys"
    return Check("every planned episode has one row", looked_at, tuple(broken))


def check_chunks(episodes: pd.DataFrame, chunks: pd.DataFrame) -> Check:
    """As many chunk rows as every episode says, numbered from 0."""
    found: dict[EpisodeKey, list[int]] = {}
    for key, index in zip(keys_of(chunks), chunks["chunk_index"], strict=True):
        found.setdefault(key, []).append(int(index))
    said = dict(zip(keys_of(episodes), episodes["chunks"], strict=True))
    broken = [
        f"{key}: says {count} chunks, there are {len(found.get(key, []))} rows"
        for key, count in said.items()
        if len(found.get(key, [])) != count
    ]
    broken += [
        f"{key}: chunks are numbered {sorted(indices)}"
        for key, indices in found.items()
        if len(indices) == said.get(key) and sorted(indices) != list(range(len(indices)))
    ]
    broken += [f"{key}: chunks without an episode" for key in found if key not in said]
    looked_at = f"{len(chunks)} chunk rows, {int(episodes['chunks'].sum())} said by episodes"
    return Check("chunk rows are those that episodes say", looked_at, tuple(broken))


def cost_limit(blows: Sequence[Blow], workers: int) -> int:
    """How many attempts these blows may have cost: one a worker; with the raylet or the GCS go all
    workers; replicas cost nothing unless several die over one request."""
    struck = Counter(blow.event.victim for blow in blows)
    whole = struck["raylet"] + struck["gcs"] + struck["replica"] // DEATHS_PER_RETRY
    return struck["worker"] + workers * whole


def check_retries(evidence: Evidence) -> Check:
    """Every attempt that came to nothing has a blow before it, in its session, that explains it.

    In the order of the rows: never more failed attempts than the blows so far can have cost.
    """
    rows = evidence.episodes.sort_values("finished_at", kind="stable")
    finished = rows["finished_at"].map(pd.Timestamp.timestamp).to_list()
    lost = (rows["attempts"] - 1 + (rows["outcome"] == "error")).to_list()
    total: Counter[int] = Counter()
    broken = []
    for key, at, failed, outcome in zip(
        keys_of(rows), finished, lost, rows["outcome"], strict=True
    ):
        if not failed:
            continue
        session = sum(start <= at for start in evidence.session_starts) - 1
        opened = evidence.session_starts[max(0, session)]
        before = [blow for blow in evidence.blows if opened <= blow.at < at]
        total[session] += failed
        limit = cost_limit(before, evidence.workers)
        if total[session] > limit:
            what = "an error" if outcome == "error" else f"{failed} failed attempts"
            broken.append(
                f"{key}: {what}, the {total[session]}th of session {session}, where blows until "
                f"then explain {limit}"
            )
            total[session] = limit
    errors = int((rows["outcome"] == "error").sum())
    looked_at = f"{sum(lost)} failed attempts, {errors} errors"
    return Check("blows explain every failed attempt and error", looked_at, tuple(broken))


def check_outcomes(evidence: Evidence) -> Check:
    """Row by row as undisturbed: outcome, steps, chunks, final state, and every chunk's actions.

    Errors have no verdict; whether they are explained is looked at elsewhere.
    """
    calm = _by_key(evidence.calm_episodes, evidence.calm_chunks)
    struck = _by_key(evidence.episodes, evidence.chunks)
    broken = [
        f"{key}: {name} {then[name]!r} undisturbed, {now[name]!r} in the campaign"
        for key, now in struck.items()
        if (then := calm.get(key)) and "error" not in (now["outcome"], then["outcome"])
        for name in now
        if now[name] != then[name]
    ]
    pairs = len(calm.keys() & struck.keys())
    return Check("rows are those of an undisturbed run", f"{pairs} pairs", tuple(broken))


def _by_key(episodes: pd.DataFrame, chunks: pd.DataFrame) -> dict[EpisodeKey, dict[str, object]]:
    rows: dict[EpisodeKey, dict[str, object]] = {
        key: {**dict(zip(DECIDED, row, strict=True)), "actions": ()}
        for key, row in zip(
            keys_of(episodes), episodes[DECIDED].itertuples(index=False, name=None), strict=True
        )
    }
    ordered = chunks.sort_values("chunk_index", kind="stable")
    for key, sha256 in zip(keys_of(ordered), ordered["action_sha256"], strict=True):
        if key in rows:
            rows[key]["actions"] = (*rows[key]["actions"], sha256)  # type: ignore[misc]
    return rows


def check_endings(endings: Sequence[Ending], blows: Sequence[Blow]) -> Check:
    """Drivers end by what struck them, with the exit code of it, in time, and say how to go on."""
    broken = []
    for ending in endings:
        mine = [b for b in blows if (b.run, b.session) == (ending.run, ending.session)]
        who = f"{ending.run} session {ending.session}"
        broken += [f"{who}: {what}" for what in _faults(ending, mine)]
    return Check(
        "drivers end as they should and say how to go on",
        f"{len(endings)} sessions, {sum(e.exit_code not in COMPLETE for e in endings)} cut short",
        tuple(broken),
    )


def _faults(ending: Ending, blows: Sequence[Blow]) -> list[str]:
    after = ", ".join(f"{b.event.signal} of {b.event.victim}" for b in blows) or "no blow"
    if ending.stuck:
        return [f"stuck after {after}: no row went on, and it did not end"]
    faults = []
    allowed = {*COMPLETE}
    for blow in blows:
        allowed |= ENDINGS.get((blow.event.victim, blow.event.signal), set())
        if not ending.opened:
            allowed |= UNOPENED.get(blow.event.victim, set())
    if ending.exit_code not in allowed:
        faults.append(f"exit code {ending.exit_code} after {after} (allowed: {sorted(allowed)})")
    if "Traceback (most recent call last)" in ending.log:
        faults.append(f"a traceback after {after}")
    says_how = any(way in ending.log for way in WAYS_ON)
    if ending.opened and ending.exit_code in (1, 130) and not says_how:
        faults.append(f"exit code {ending.exit_code} after {after} without a word of --resume")
    terms = [blow.at for blow in blows if blow.event.signal == "SIGTERM"]
    if terms and ending.ended - terms[0] > AT_ONCE_S:
        faults.append(f"SIGTERM took {ending.ended - terms[0]:.0f} s (above {AT_ONCE_S:g})")
    return faults


def check_files(files: Mapping[str, Sequence[str]], uploads: Sequence[str]) -> Check:
    """Nothing hidden but the lock, parts in pairs, no upload begun and left."""
    broken = [
        f"{folder}/{name}".lstrip("/")
        for folder, names in files.items()
        for name in names
        if name.startswith(".") and name != LOCK_FILE
    ]
    episodes, chunks = set(files.get("episodes", ())), set(files.get("chunks", ()))
    broken += [f"chunks/{name}: no episodes of that name" for name in sorted(chunks - episodes)]
    broken += [f"episodes/{name}: no chunks of that name" for name in sorted(episodes - chunks)]
    broken += [f"unfinished upload of {name}" for name in uploads]
    looked_at = f"{sum(map(len, files.values()))} files"
    return Check("no temporary file is left", looked_at, tuple(dict.fromkeys(broken)))


# --- the account -------------------------------------------------------------------------------


def account(
    blows: Sequence[Blow], endings: Sequence[Ending], finished: Mapping[str, Sequence[float]]
) -> list[dict[str, object]]:
    """Each blow with what the run did, when the next row came, and the longest time without one
    until the next blow or the end of the run.

    `finished` holds when every stored row was entered (s, Unix time), by run. Rows that a killed
    driver had not stored are run again, and count only then.
    """
    entries: list[dict[str, object]] = []
    for blow in blows:
        ending = _ended_by(blow, blows, endings)
        rows = sorted(at for at in finished.get(blow.run, ()) if at > blow.at)
        later = [b.at for b in blows if b.run == blow.run and b.at > blow.at]
        until = min(later, default=math.inf)
        seen = [blow.at, *(at for at in rows if at <= until)]
        seen += rows[len(seen) - 1 : len(seen)]  # the first one after the next blow
        did = "went on"
        if ending is not None:
            cause = "stuck, killed" if ending.stuck else f"exit code {ending.exit_code}"
            did = f"{cause} after {ending.ended - blow.at:.1f} s: {last_line(ending.log)}".rstrip(
                ": "
            )
        entries.append(
            {
                **asdict(blow.event),
                "at": round(blow.at, 3),
                "run": blow.run,
                "session": blow.session,
                "pid": blow.pid,
                "title": blow.title,
                "then": did,
                "rows_after_s": round(rows[0] - blow.at, 3) if rows else None,
                "longest_gap_s": round(max(b - a for a, b in pairwise(seen)), 3) if rows else None,
            }
        )
    return entries


def _ended_by(blow: Blow, blows: Sequence[Blow], endings: Sequence[Ending]) -> Ending | None:
    """The premature ending that goes back to a blow: to the last of its session that may end a
    driver, or the last one at all."""
    where = (blow.run, blow.session)
    ending = next((e for e in endings if (e.run, e.session) == where), None)
    if ending is None or (ending.exit_code in COMPLETE and not ending.stuck):
        return None
    mine = [other for other in blows if (other.run, other.session) == where]
    able = [b for b in mine if (b.event.victim, b.event.signal) in ENDINGS] or mine
    return ending if blow is able[-1] else None
