"""A campaign's plan follows from its seed, and its audit finds every fault that is planted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from made_up_runs import paired_results, write

from rsd import books
from rsd.chaos.audit import (
    Check,
    Evidence,
    account,
    audit,
    check_endings,
    check_retries,
    keys_of,
)
from rsd.chaos.blows import (
    STRIKES,
    VICTIMS,
    Blow,
    Ending,
    Event,
    kind_of,
    may_stand_still,
    plan_events,
)
from rsd.errors import UserError

OPENED = 1_800_000_000.0  # before the first row of a made-up run
LATE = 1_900_000_000.0  # after its last


# -- the plan -----------------------------------------------------------------------------------


def test_a_plan_is_a_pure_function_of_its_seed() -> None:
    assert plan_events(7, 60, VICTIMS) == plan_events(7, 60, VICTIMS)
    assert plan_events(7, 60, VICTIMS) != plan_events(8, 60, VICTIMS)


def test_every_strike_falls_once_before_one_falls_twice() -> None:
    events = plan_events(1, len(STRIKES) + 5, VICTIMS)
    assert [event.number for event in events] == list(range(1, len(STRIKES) + 6))
    first = [(e.victim, e.signal, e.lasts_s is None) for e in events[: len(STRIKES)]]
    assert set(first) == {(s.victim, s.signal, s.lasts_s is None) for s in STRIKES}
    assert {event.recovered for event in events} == {True, False}
    assert len(plan_events(1, 3, VICTIMS)) == 3


def test_a_plan_strikes_those_asked_for_and_refuses_others() -> None:
    events = plan_events(1, 40, ["worker", "gcs"])
    assert {event.victim for event in events} == {"worker", "gcs"}
    with pytest.raises(UserError, match="unknown victim 'wroker'; did you mean 'worker'"):
        plan_events(1, 4, ["wroker"])


@pytest.mark.parametrize(
    ("command", "victim"),
    [
        (["ray::EnvWorkerActor.episode"], "worker"),
        (["ray::PolicyReplicaActor"], "replica"),
        (["/x/ray/core/src/ray/raylet/raylet", "--raylet_socket_name=y"], "raylet"),
        (["/x/ray/core/src/ray/gcs/gcs_server"], "gcs"),
        (["ray::IDLE"], None),
        (["python", "-m", "raylet"], None),
        ([], None),
    ],
)
def test_victims_are_told_apart_by_their_command_line(
    command: list[str], victim: str | None
) -> None:
    assert kind_of(command) == victim


@pytest.mark.parametrize(
    ("victim", "title", "noticed"),
    [
        ("worker", "ray::EnvWorkerActor.episode", True),
        ("worker", "ray::EnvWorkerActor.__init__", False),
        ("worker", "ray::EnvWorkerActor", False),
        ("replica", "ray::PolicyReplicaActor", True),
        ("replica", "ray::PolicyReplicaActor.__init__", False),
        ("gcs", "gcs_server", True),
    ],
)
def test_actors_are_stopped_for_good_only_when_they_are_up(
    victim: str, title: str, noticed: bool
) -> None:
    assert may_stand_still(victim, [title]) == noticed


# -- the audit ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Of a complete run that nothing was done to."""
    output = tmp_path_factory.mktemp("run")
    results = [result for result in paired_results(tasks=3) if result.outcome != "error"]
    write(output, results)
    episodes = books.read_episodes(str(output)).to_pandas()
    chunks = books.read_chunks(str(output)).to_pandas()
    parts = [path.name for path in (output / "episodes").iterdir()]
    return Evidence(
        planned=[result.key for result in results],
        episodes=episodes,
        chunks=chunks,
        calm_episodes=episodes.copy(),
        calm_chunks=chunks.copy(),
        session_starts=[OPENED],
        blows=[],
        endings=[ending()],
        workers=2,
        files={"": [".lock", "chunks", "episodes", "run.json"], "episodes": parts, "chunks": parts},
    )


def ending(exit_code: int = 0, log: str = "\noutput   x\n", **other: Any) -> Ending:
    values = {"run": "run-000", "session": 0, "started": OPENED, "ended": LATE, "stuck": False}
    return Ending(exit_code=exit_code, log=log, **{**values, **other})


def blow(victim: str = "worker", at: float = OPENED, signal: str = "SIGKILL", **other: Any) -> Blow:
    event = Event(1, victim, signal, None, True, 0.0, 0.0)
    values = {"run": "run-000", "session": 0, "pid": 1, "title": "ray::X"}
    return Blow(event, at, **{**values, **other})


def broken(checks: list[Check]) -> dict[str, tuple[str, ...]]:
    return {check.promise: check.broken for check in checks if check.broken}


def with_rows(evidence: Evidence, change: Callable[[pd.DataFrame], object]) -> Evidence:
    rows = evidence.episodes.copy()
    changed = change(rows)
    return replace(evidence, episodes=changed if isinstance(changed, pd.DataFrame) else rows)


def with_chunks(evidence: Evidence, change: Callable[[pd.DataFrame], object]) -> Evidence:
    rows = evidence.chunks.copy()
    changed = change(rows)
    return replace(evidence, chunks=changed if isinstance(changed, pd.DataFrame) else rows)


def set_value(column: str, value: object) -> Callable[[pd.DataFrame], object]:
    """Of the fourth row."""
    return lambda rows: rows.isetitem(
        rows.columns.get_loc(column), [*rows[column][:3], value, *rows[column][4:]]
    )


def a_doubled_row(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([rows, rows.iloc[[3]]], ignore_index=True)


def a_false_failure(rows: pd.DataFrame) -> None:
    flipped = "timeout" if rows.loc[3, "outcome"] == "success" else "success"
    rows.loc[3, "outcome"] = flipped


def test_an_undisturbed_run_passes(evidence: Evidence) -> None:
    checks = audit(evidence)
    assert broken(checks) == {}
    assert len({check.promise for check in checks}) == 7


@pytest.mark.parametrize(
    ("plant", "promise", "told"),
    [
        (lambda e: with_rows(e, lambda rows: rows.drop(3)), "one row", "lost: "),
        (lambda e: with_rows(e, a_doubled_row), "one row", "2 rows of "),
        (lambda e: with_rows(e, set_value("trial", 49)), "one row", "not planned: "),
        (lambda e: with_rows(e, set_value("run_id", "other")), "one row", "several run ids"),
        (lambda e: with_chunks(e, lambda rows: rows.drop(4)), "chunk rows", "there are 2 rows"),
        (lambda e: with_chunks(e, a_doubled_row), "chunk rows", "there are 4 rows"),
        (lambda e: with_chunks(e, set_value("chunk_index", 7)), "chunk rows", "numbered [1, 2, 7]"),
        (lambda e: with_chunks(e, set_value("trial", 49)), "chunk rows", "without an episode"),
        (lambda e: with_rows(e, set_value("attempts", 2)), "failed attempt", "1 failed attempts"),
        (lambda e: with_rows(e, set_value("outcome", "error")), "failed attempt", "an error"),
        (lambda e: with_rows(e, a_false_failure), "undisturbed", "outcome 'success' und"),
        (
            lambda e: with_rows(e, set_value("final_state_sha256", "0")),
            "undisturbed",
            "final_state",
        ),
        (lambda e: with_rows(e, set_value("steps", 9)), "undisturbed", "steps 24 undisturbed, 9"),
        (lambda e: with_chunks(e, set_value("action_sha256", "0")), "undisturbed", "actions"),
        (lambda e: replace(e, endings=[ending(1)]), "drivers end", "exit code 1 after no blow"),
        (lambda e: replace(e, left=["raylet"]), "outlives", "raylet"),
        (lambda e: replace(e, uploads=["run-000/x"]), "temporary", "unfinished upload"),
        (lambda e: replace(e, files={"": [".run.json.tmp"]}), "temporary", ".run.json.tmp"),
        (lambda e: replace(e, files={"chunks": ["a"]}), "temporary", "no episodes of that name"),
        (lambda e: replace(e, files={"episodes": ["a"]}), "temporary", "no chunks of that name"),
    ],
)
def test_a_planted_fault_is_found(
    plant: Callable[[Evidence], Evidence], promise: str, told: str, evidence: Evidence
) -> None:
    found = broken(audit(plant(evidence)))
    name = next(name for name in found if promise in name)
    assert any(told in case for case in found[name]), found


def test_a_retry_is_explained_by_a_blow_before_it_in_its_session(evidence: Evidence) -> None:
    retried = with_rows(evidence, set_value("attempts", 2))
    at = retried.episodes["finished_at"].map(pd.Timestamp.timestamp)[3]

    def explained(blows: list[Blow], starts: Sequence[float] = (OPENED,)) -> bool:
        return not check_retries(replace(retried, blows=blows, session_starts=starts)).broken

    assert explained([blow(at=at - 1)])
    assert explained([blow("raylet", at - 1)])
    assert explained([blow("replica", at - 1)] * 4)
    assert not explained([blow(at=at + 1)])
    assert not explained([blow("replica", at - 1)])
    assert not explained([blow("driver", at - 1)])
    assert not explained([blow(at=at - 2)], starts=[OPENED, at - 1])
    assert explained([blow(at=at - 0.5)], starts=[OPENED, at - 1])


def test_one_blow_explains_one_failed_attempt_and_an_error_needs_as_many_as_attempts(
    evidence: Evidence,
) -> None:
    def two(rows: pd.DataFrame) -> None:
        rows.loc[[3, 5], "attempts"] = 2

    def error(rows: pd.DataFrame) -> None:
        rows.loc[3, "attempts"] = 3
        rows.loc[3, "outcome"] = "error"

    for change, needed in ((two, 2), (error, 3)):
        changed = with_rows(evidence, change)
        enough = replace(changed, blows=[blow()] * needed)
        assert check_retries(enough).broken == ()
        assert len(check_retries(replace(enough, blows=[blow()] * (needed - 1))).broken) == 1


RESUME = "\noutput   x\nstopped: 3 episodes left; go on with --resume"


@pytest.mark.parametrize(
    ("victim", "signal", "end", "told"),
    [
        ("driver", "SIGKILL", ending(-9, ""), None),
        ("group", "SIGINT", ending(130, RESUME), None),
        ("group", "SIGTERM", ending(130, RESUME, ended=OPENED + 2), None),
        ("group", "SIGTERM", ending(-15, "", ended=OPENED + 2), None),
        ("gcs", "SIGKILL", ending(1, RESUME), None),
        ("store", "refuses", ending(1, RESUME), None),
        ("store", "refuses", ending(2, ""), None),
        ("store", "refuses", ending(2), "exit code 2 after refuses of store"),
        ("worker", "SIGKILL", ending(1, RESUME), "exit code 1 after SIGKILL of worker"),
        ("worker", "SIGKILL", ending(-9, stuck=True), "stuck after SIGKILL of worker"),
        ("group", "SIGTERM", ending(-15, RESUME, ended=OPENED + 2), "exit code -15"),
        ("group", "SIGTERM", ending(130, RESUME, ended=OPENED + 62), "SIGTERM took 62 s"),
        ("group", "SIGINT", ending(130), "without a word of --resume"),
        ("gcs", "SIGKILL", ending(-6, RESUME), "exit code -6"),
        ("gcs", "SIGKILL", ending(1, RESUME + "\nTraceback (most recent call last):"), "traceback"),
    ],
)
def test_an_ending_fits_what_caused_it(
    victim: str, signal: str, end: Ending, told: str | None
) -> None:
    cases = check_endings([end], [blow(victim, signal=signal)]).broken
    assert len(cases) == (told is not None)
    assert told is None or told in cases[0]


def test_an_account_says_what_the_run_did_and_how_long_it_stood_still() -> None:
    blows = [
        blow(at=10.0),
        blow("gcs", at=20.0, session=1),
        blow("worker", at=21.0, session=1),
        blow("driver", at=50.0, session=2),
    ]
    endings = [
        ending(1, "a\n\x1b[31mstopped: x\x1b[0m\n", session=1, ended=23.0),
        ending(-9, "", session=2, ended=50.1),
        ending(0, "done", session=3),
    ]
    first, gcs, worker, driver = account(blows, endings, {"run-000": [9, 11, 12.5, 30, 33, 51]})
    assert (first["then"], first["rows_after_s"], first["longest_gap_s"]) == ("went on", 1.0, 17.5)
    assert gcs["then"] == "exit code 1 after 3.0 s: stopped: x" and gcs["rows_after_s"] == 10.0
    assert worker["then"] == "went on"
    assert driver["then"] == "exit code -9 after 0.1 s" and driver["longest_gap_s"] == 1.0


def test_keys_of_rows_are_those_planned(evidence: Evidence) -> None:
    assert sorted(keys_of(evidence.episodes)) == sorted(evidence.planned)
