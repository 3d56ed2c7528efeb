"""Repeating results: the sample comes from what was recorded, rows are compared one by one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from made_up_runs import RUN, key, result, write

from rsd import repeat, results
from rsd.arms import described, read_arm
from rsd.config import EvaluateConfig
from rsd.errors import UserError
from rsd.models.small_vla import checkpoint
from rsd.plan import resolve
from rsd.types import Delay, EpisodeResult


def episodes(final_state: str = "a") -> list[EpisodeResult]:
    return [
        result(key(trial, arm), final_state=final_state * 64)
        for arm in ("autoregressive", "speculative")
        for trial in range(6)
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("run"), episodes())


def test_a_run_and_its_compact_file_are_the_same_rows(run: str, tmp_path: Path) -> None:
    results.keep(run, tmp_path / "kept.parquet")
    lines = repeat.compare(repeat.load(str(tmp_path / "kept.parquet")), repeat.load(run))
    assert [line.arm for line in lines] == ["autoregressive", "speculative"]
    for line in lines:
        assert (line.episodes, line.outcomes, line.steps, line.states) == (6, 6, 6, 6)
        assert not line.parted


def test_what_differs_is_counted_and_named(run: str, tmp_path: Path) -> None:
    other = episodes()
    other[2] = result(key(2, "autoregressive"), "timeout", final_state="b" * 64)
    other[3] = dataclasses.replace(other[3], steps=other[3].steps + 1)
    del other[6:]
    (line,) = repeat.compare(repeat.load(run), repeat.load(write(tmp_path / "again", other)))
    assert (line.arm, line.episodes) == ("autoregressive", 6)
    assert (line.outcomes, line.steps, line.states) == (5, 5, 5)
    assert line.parted == ((0, 2),)


def test_the_sample_is_worlds_that_every_arm_recorded(run: str, tmp_path: Path) -> None:
    rows = episodes()
    rows[0] = result(key(0, "autoregressive"), "error")
    kept = repeat.load(write(tmp_path / "run", rows))
    keys = repeat.worlds_of(kept, [], 50, 0)
    assert {(one.arm, one.trial) for one in keys} == {
        (arm, trial) for arm in ("autoregressive", "speculative") for trial in range(1, 6)
    }
    few = repeat.worlds_of(repeat.load(run), ["speculative"], 2, 0)
    assert len(few) == 2 and few == repeat.worlds_of(repeat.load(run), ["speculative"], 2, 0)
    drawn = {repeat.worlds_of(repeat.load(run), [], 2, seed)[0].trial for seed in range(9)}
    assert len(drawn) > 1


def test_an_arm_that_was_not_recorded_is_named(run: str) -> None:
    with pytest.raises(UserError, match=r"no episodes of parallel .* autoregressive, speculative"):
        repeat.worlds_of(repeat.load(run), ["parallel"], 2, 0)


def test_the_policy_is_found_by_its_hash(run: str) -> None:
    kept = repeat.load(run)
    with pytest.raises(UserError, match="--policy"):
        repeat.config_of(kept, [], None)
    sha256 = checkpoint.inspect("libero").sha256
    decodings = {
        "speculative": {"mode": "speculative", "rule": "exact", "layers": None},
    }
    decodings["speculative"]["draft_layers"] = None
    made = RUN["config"] | {"seed": 0, "deterministic": True, "arms": decodings}
    known = repeat.Kept(kept.origin | {"checkpoint_sha256": sha256, "config": made}, kept.rows)
    config = repeat.config_of(known, ["speculative"], None)
    assert config.policy.policy == "libero" and config.episodes.arms == ("speculative",)
    decodings["speculative"]["rule"] = "relaxed"
    with pytest.raises(UserError, match="decoded by"):
        repeat.config_of(known, ["speculative"], None)


LATE = "speculative+delay=measured+hold"


def late_run(output: Path) -> str:
    """Two episodes of an arm whose delay was measured, and one of an arm without."""
    rows = []
    for trial, delays in enumerate([(0, 1, 2), (3, 1, 1)]):
        made = result(key(trial, LATE), final_state="a" * 64)
        chunks = [
            dataclasses.replace(chunk, delay_steps=steps)
            for chunk, steps in zip(made.chunks, delays, strict=True)
        ]
        rows.append(dataclasses.replace(made, chunks=chunks))
    return write(output, [*rows, result(key(0, "autoregressive"))])


def test_a_measured_delay_is_repeated_chunk_by_chunk_from_the_run(tmp_path: Path) -> None:
    run = late_run(tmp_path)
    arms = {name: read_arm(name) for name in (LATE, "autoregressive")}
    keys = [key(1, LATE), key(0, LATE), key(0, "autoregressive")]
    found = repeat.lateness_of(run, keys, arms)
    assert found == {key(1, LATE): (3, 1, 1), key(0, LATE): (0, 1, 2)}
    plan = dataclasses.replace(resolve(EvaluateConfig()), arms=arms, keys=keys, lateness=found)
    assert plan.arm_of(keys[0]).delay == Delay(None, "hold", (3, 1, 1))
    assert plan.arm_of(keys[2]) == arms["autoregressive"]
    assert described(plan.arm_of(keys[0])) == described(arms[LATE])  # it is the arm all the same


def test_a_file_that_lacks_how_late_chunks_were_says_what_to_do(tmp_path: Path) -> None:
    arms = {LATE: read_arm(LATE)}
    kept = str(tmp_path / "kept.parquet")
    with pytest.raises(UserError, match="give the folder of the run, whose chunks say it, or name"):
        repeat.lateness_of(kept, [key(0, LATE)], arms)
    assert repeat.lateness_of(kept, [key(0)], {"speculative": read_arm("speculative")}) == {}


def test_what_an_older_run_did_not_record_is_said_so() -> None:
    here = {
        "arithmetic": "x86-64-v3",
        "packages": {"torch": "2.13.0"},
        "hardware": {"python": "3.11.7", "libc": "glibc 2.36", "cpu": "AMD EPYC"},
    }
    old = here | {"arithmetic": None, "hardware": {"python": "3.11.7", "cpu": "AMD EPYC"}}
    kept = repeat.Kept(old, pd.DataFrame())
    assert repeat.differences(kept, here) == [
        "arithmetic: not recorded then, x86-64-v3 here",
        "libc: not recorded then, glibc 2.36 here",
    ]
