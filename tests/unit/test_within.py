"""Phases, tallies within episodes and the cost model, against counts by hand and slow loops."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_runs import (
    STEPS,
    TOKENS,
    key,
    of_expert,
    of_numbers,
    paired_results,
    result,
    unjudged,
    write,
)

from rsd.books import committed, read_chunks, read_episodes
from rsd.episode import sha256_of
from rsd.summary import speed
from rsd.summary.phases import PHASES, STANDS_M, UNKNOWN, motion
from rsd.summary.within import PATH_CM, PLACES, TENTHS, actions_of_episodes, within
from rsd.types import METRES_PER_UNIT, EpisodeResult


def steps_of(*hand: str, speed: float = 1.0) -> np.ndarray:
    """Actions of a hand that is o open, c closed, C closed and standing, O open and standing."""
    rows = []
    for each in "".join(hand):
        moves = speed if each in "oc" else 0.0
        rows.append([moves, 0, 0, 0, 0, 0, 1 if each in "cC" else -1])
    return np.array(rows, np.float32)


def phases_of(*chunks: str) -> list[str]:
    lengths = np.array([len(chunk) for chunk in chunks])
    begins = np.arange(len(chunks)) == 0
    found = motion(steps_of(*chunks), lengths, begins).phase
    return [PHASES[one] for one in found]


def test_a_pick_and_a_place_have_their_phases() -> None:
    chunks = ("oooooooo", "ooooooCC", "CCCCcccc", "cccccccc", "cccCCOOO", "OOoooooo")
    names = ["approach", "grasp", "grasp", "carry", "release", "approach"]
    assert phases_of(*chunks) == names


def test_a_closed_hand_that_has_gone_on_carries() -> None:
    """One step of 50 mm is farther than the hand goes while its fingers close."""
    assert METRES_PER_UNIT > STANDS_M
    assert phases_of("ooooooCC", "cCCCCCCC") == ["grasp", "carry"]
    assert phases_of("ooooooCC", "CCCCCCCC", "CCCCCCCc") == ["grasp"] * 3


def test_every_episode_begins_with_an_open_hand() -> None:
    """Its first closing is a grasp, also after an episode that ended with a closed hand."""
    chunks = ["cccc", "cccc", "cccc", "cccc"]
    begins = np.array([True, False, True, False])
    found = motion(steps_of(*chunks), np.full(4, 4), begins)
    assert [PHASES[one] for one in found.phase] == ["grasp", "carry", "grasp", "carry"]


def test_the_way_left_ends_where_the_hand_turns_or_the_episode_does() -> None:
    """50 mm a step: 8 and 4 steps until it closes, 0 where it closes at once, 8 until the end."""
    chunks = ["oooo", "oooo", "cccc", "cccc", "oooo"]
    begins = np.array([True, False, False, False, True])
    found = motion(steps_of(*chunks), np.full(5, 4), begins)
    assert found.left_m == pytest.approx(METRES_PER_UNIT * np.array([8, 4, 0, 4, 4]))


def test_chunks_without_actions_are_in_no_phase() -> None:
    found = motion(steps_of("oo", "cc"), np.array([2, 0, 2]), np.array([True, False, False]))
    assert list(found.phase) == [0, UNKNOWN, 1]
    with pytest.raises(ValueError, match="are not 5 steps"):
        motion(steps_of("oo"), np.array([2, 3]), np.array([True, False]))


def slow_phase(actions: np.ndarray, before: bool, since: float) -> tuple[str, bool, float]:
    """Phase of one chunk, step by step; `since`: path since the hand closed, m."""
    closes = opens = False
    standing = closed_steps = 0
    for action in actions:
        closed = bool(action[6] > 0)
        closes |= closed and not before
        opens |= before and not closed
        if closed and not before:
            since = 0.0
        since += METRES_PER_UNIT * float(np.linalg.norm(action[:3].astype(np.float64)))
        standing += closed and since <= STANDS_M
        closed_steps += closed
        before = closed
    if closes or standing >= len(actions) / 2:
        return "grasp", before, since
    return ("release" if opens else "carry" if closed_steps else "approach"), before, since


def slowly(run: str) -> pd.DataFrame:
    """Chunks of a run with what they are sorted by, row by row."""
    outcome = read_episodes(run).to_pandas().set_index(["arm", "task_id", "trial"])["outcome"]
    rows = []
    for episode, own in read_chunks(run).to_pandas().groupby(["arm", "task_id", "trial"]):
        before, since = False, 0.0
        for _, chunk in own.sort_values("chunk_index").iterrows():
            actions = np.reshape(chunk["actions"], (-1, 7))
            phase, before, since = slow_phase(actions, before, since)
            tenth = PLACES["time"][chunk["chunk_index"] * TENTHS // len(own)]
            rows.append({**chunk, "outcome": outcome[episode], "phase": phase, "time": tenth})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("run"), paired_results(tasks=3, trials=4))


@pytest.mark.parametrize("place", ["phase", "time"])
def test_shares_are_those_of_a_slow_loop(run: str, place: str) -> None:
    chunks = slowly(run)
    for outcome in ("success", "timeout", None):
        kept = chunks if outcome is None else chunks[chunks["outcome"] == outcome]
        found = within(committed(run)).table(place, outcome)
        assert set(found["arm"]) <= {"speculative"}
        for row in found.itertuples():
            own = kept[(kept["arm"] == row.arm) & (kept[place] == row.place)]
            drafted = sum(one[row.layer] for one in own["drafted"])
            accepted = sum(one[row.layer] for one in own["accepted"])
            assert (row.drafted, row.rate) == (drafted, pytest.approx(accepted / drafted))
            judged = [drafted[row.layer] > 0 for drafted in own["drafted"]]
            pairs = zip(own["drafted"], own["accepted"], strict=True)
            whole = [d[row.layer] == a[row.layer] > 0 for d, a in pairs]
            assert (row.judged, row.whole_rate) == (sum(judged), pytest.approx(np.mean(whole)))
            assert row.episodes == len(own.groupby(["task_id", "trial"]))
        passes = within(committed(run)).passes(place, outcome)
        wanted = kept.groupby(["arm", place])["passes"].agg(["size", "mean"])
        for row in passes.itertuples():
            size, mean = wanted.loc[row.arm, row[2]]
            assert (row.chunks, row.passes) == (size, pytest.approx(mean))


def test_what_is_read_in_portions_is_what_is_read_at_once(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = committed(run)
    whole = within(parts)
    found = sum((within(some) for some in parts.portions(1)), start=type(whole).empty())
    for place in PLACES:
        pd.testing.assert_frame_equal(found.table(place), whole.table(place))
        pd.testing.assert_frame_equal(found.passes(place), whole.passes(place))
    assert (found.chunks, found.unknown) == (whole.chunks, 0)


def without_actions(episode: EpisodeResult) -> EpisodeResult:
    chunks = [dataclasses.replace(chunk, actions=None) for chunk in episode.chunks]
    return dataclasses.replace(episode, chunks=chunks)


def test_a_run_without_actions_is_in_no_phase_and_says_so(tmp_path: Path) -> None:
    run = write(tmp_path, map(without_actions, paired_results(tasks=1, trials=3)))
    found = within(committed(run))
    assert found.unknown == found.chunks > 0
    assert found.table("phase").empty and found.passes("path left").empty
    assert found.table("episode")["drafted"].iloc[0] == TOKENS * 2 * 3  # trial 0 is an error


def test_codes_are_believed_where_their_actions_have_the_recorded_hash(tmp_path: Path) -> None:
    actions = np.full((STEPS, 7), 0.5, np.float32)
    episode = without_actions(result(key(0), chunks=3))
    told = [sha256_of(actions), sha256_of(-actions), sha256_of(actions)]
    chunks = [
        dataclasses.replace(chunk, action_sha256=sha)
        for chunk, sha in zip(episode.chunks, told, strict=True)
    ]
    run = write(tmp_path, [dataclasses.replace(episode, chunks=chunks)])
    found = within(committed(run), lambda codes: np.stack([actions] * len(codes)))
    assert (found.chunks, found.unknown) == (3, 1)
    assert list(found.passes("phase")["phase"]) == ["grasp", "carry"]


def test_a_policy_of_numbers_has_passes_and_no_layers(tmp_path: Path) -> None:
    found = within(committed(write(tmp_path, [of_numbers(key(trial)) for trial in range(2)])))
    assert found.table("episode").empty
    assert found.passes("episode")["passes"].tolist() == [1.0]


def test_what_no_pass_decoded_is_a_decode_and_what_an_expert_did_is_none(tmp_path: Path) -> None:
    run = write(tmp_path, [unjudged(key(0, "draft")), of_expert(key(0, "expert"))])
    found = within(committed(run)).passes("episode")
    assert found[["arm", "chunks", "passes"]].to_numpy().tolist() == [["draft", 3, 0.0]]


def test_the_actions_of_an_episode_are_its_chunks_in_order(run: str) -> None:
    episodes = list(actions_of_episodes(committed(run), "speculative"))
    assert {len(actions) for actions in episodes} == {3 * STEPS} and len(episodes) == 11
    rows = read_chunks(run).to_pandas().query("arm == 'speculative'")
    first = np.concatenate(rows["actions"].tolist()[:3]).reshape(-1, 7)
    assert np.array_equal(episodes[0], first)


def test_labels_cover_every_way_left() -> None:
    assert len(PLACES["path left"]) == len(PATH_CM)


# --- the cost model ------------------------------------------------------------------------------


def test_the_cost_model_finds_the_costs_that_made_the_times() -> None:
    medians = pd.DataFrame(
        {
            "arm": ["guesses"] * 4 + ["steady"],
            "passes": [1, 2, 3, 4, 6],
            "decode_s": [0.020, 0.024, 0.028, 0.032, 0.040],
            "decodes": [50, 30, 15, 5, 100],
        }
    )
    model = speed.fitted(medians, "guesses")
    assert model is not None
    assert (model.fixed_s, model.pass_s) == pytest.approx((0.020, 0.004))
    assert model.off == pytest.approx(0, abs=1e-9)
    assert model.decode_s(6) == pytest.approx(0.040)
    assert model.passes_worth(0.040) == pytest.approx(6)
    assert speed.fitted(medians, "steady") is None


def test_a_speed_up_is_the_ratio_of_mean_times_over_shared_worlds(run: str) -> None:
    found = speed.decodes(committed(run))
    rows = read_chunks(run).to_pandas()
    sizes = rows["batch_size"].value_counts()
    assert sizes[found.batch_size] == sizes.max() and len(found.rows) == sizes.max()
    assert found.left_out == len(rows) - sizes.max()
    rows = rows[rows["batch_size"] == found.batch_size]
    rows["decode_s"] = rows[["vision_s", "draft_s", "target_s", "detokenise_s"]].sum(axis=1)
    means = rows.groupby(["task_id", "trial", "arm"])["decode_s"].mean().unstack().dropna()
    measured = speed.speed_up(found, "autoregressive", "speculative")
    wanted = means["autoregressive"].sum() / means["speculative"].sum()
    assert measured.worlds == len(means) and measured.ratio == pytest.approx(wanted)
    assert measured.low < measured.ratio < measured.high


def test_an_arm_without_passes_has_a_speed_up_and_an_expert_has_none(tmp_path: Path) -> None:
    """`draft` takes 6 ms a chunk; a policy of numbers 20."""
    arms = {"autoregressive": of_numbers, "draft": unjudged, "expert": of_expert}
    episodes = [made(key(trial, arm)) for arm, made in arms.items() for trial in range(2)]
    found = speed.decodes(committed(write(tmp_path, episodes)))
    assert set(found.rows["arm"]) == {"autoregressive", "draft"}
    measured = speed.speed_up(found, "autoregressive", "draft")
    assert (measured.worlds, measured.ratio) == (2, pytest.approx(20 / 6))
    assert found.rows.groupby("arm", observed=True)["passes"].max().to_dict()["draft"] == 0


def test_a_run_without_decodes_has_no_costs(tmp_path: Path) -> None:
    found = speed.decodes(committed(write(tmp_path, [result(key(0), "error")])))
    assert len(found.rows) == 0 and speed.fitted(speed.by_passes(found), "speculative") is None
    assert np.isnan(speed.speed_up(found, "autoregressive", "speculative").ratio)
