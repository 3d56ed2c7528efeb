"""One expert's episode, the choice of seeds and the folder, without a simulator or Ray."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from rsd.commands.collect import _drivers_decoding
from rsd.demos import (
    CollectionSettings,
    Demonstration,
    Failure,
    NoiseSettings,
    NoviceSettings,
    Quota,
    Store,
    collect_demonstration,
    read_demonstrations,
    stored_seeds,
    takes_other_rim,
    task_file,
    write_demonstration,
)
from rsd.demos.steering import Disturbance, Misses
from rsd.envs.looks import Looks
from rsd.errors import UserError
from rsd.models import inspect_policy
from rsd.suites import get_task
from rsd.types import (
    Chunk,
    ChunkRequest,
    DecodeTrace,
    Decoding,
    ImageSpec,
    Observation,
    SimTimings,
)
from tests.full_disk import full_disk

TASK = get_task("libero_spatial", 1)
IMAGES = ImageSpec(4, 4, 0, False)
TRACE = DecodeTrace(drafted=(0,), accepted=(0,), passes=1, layers=1)


class Line:
    """A point on a line; the goal holds beyond 3. Frames and states show the steps taken."""

    instruction, assets, renderer = TASK.instruction, "lite", "osmesa"

    def __init__(self) -> None:
        self.timings = SimTimings()
        self.x, self.steps = 0.0, 0

    @property
    def proprio(self) -> np.ndarray:
        return np.full(8, self.x, np.float32)

    def reset_fresh(self, seed: int, looks: Looks | None = None) -> None:
        self.x, self.steps = -float(seed), 0

    def step(self, action: np.ndarray) -> bool:
        self.x += float(action[0])
        self.steps += 1
        return self.x >= 3

    def observe(self) -> Observation:
        frame = np.full((4, 4, 3), self.steps, np.uint8)
        return Observation(frame, frame, self.proprio, self.instruction)

    def state(self) -> np.ndarray:
        return np.full(12, self.x)

    def model_xml(self) -> str:
        return f"<mujoco model='{self.steps}'/>"


def forward() -> np.ndarray:
    return np.array([1, 0, 0, 0, 0, 0, -1], np.float32)


def collect(seed: int, settings: CollectionSettings) -> Demonstration | Failure:
    return collect_demonstration(Line(), forward, TASK, seed, IMAGES, settings)


def solved(seed: int, settings: CollectionSettings | None = None) -> Demonstration:
    outcome = collect(seed, settings or CollectionSettings(20, 3, 2, noise=None))
    assert isinstance(outcome, Demonstration)
    return outcome


def driven(seed: int, share: float, steps: int = 100) -> tuple[Demonstration | Failure, list[int]]:
    """With a policy that goes nowhere in chunks of two; and the steps at which it was asked."""
    asked: list[int] = []

    def decide(request: ChunkRequest) -> Chunk:
        asked.append(int(request.observation.agentview[0, 0, 0]))
        assert request.chunk_index == len(asked) - 1
        return Chunk(np.zeros((2, 7), np.float32), np.zeros((2, 1, 1), np.int64), TRACE)

    settings = CollectionSettings(
        20, 3, 2, noise=None, driver=NoviceSettings("sha", 2, share, steps)
    )
    outcome = collect_demonstration(Line(), forward, TASK, seed, IMAGES, settings, decide)
    return outcome, asked


def test_a_driver_acts_and_the_expert_labels() -> None:
    demo, asked = driven(1, share=1.0, steps=4)
    assert isinstance(demo, Demonstration)
    assert asked == [0, 2]  # the expert alone from step 4 on
    np.testing.assert_array_equal(demo.actions, np.tile(forward(), (len(demo), 1)))
    assert not demo.executed_actions[:4].any()
    np.testing.assert_array_equal(demo.executed_actions[4:], demo.actions[4:])
    np.testing.assert_array_equal(demo.driven, np.arange(len(demo)) < 4)
    assert demo.settings["driver"]["checkpoint_sha256"] == "sha"


def test_a_driver_that_never_hands_over_gives_no_demonstration() -> None:
    outcome, asked = driven(1, share=1.0)
    assert isinstance(outcome, Failure) and len(asked) == 10


def test_a_driver_takes_its_share_of_the_chunks() -> None:
    _, never = driven(1, share=0.0)
    assert never == []
    asked = [len(driven(seed, share=0.5)[1]) for seed in range(50, 90)]
    assert asked == [len(driven(seed, share=0.5)[1]) for seed in range(50, 90)]
    assert 2.5 < np.mean(asked) < 4.2  # of 10 chunks, one for every two of the expert's


@pytest.mark.parametrize("seed", range(50, 56))
def test_a_driver_decodes_as_it_is_told_and_knows_its_own_chunk_before(seed: int) -> None:
    """A draft goes on from the codes of the chunk before; behind the expert's turn nothing is
    known, as at the start."""
    requests: list[ChunkRequest] = []

    def decide(request: ChunkRequest) -> Chunk:
        requests.append(request)
        return Chunk(np.zeros((2, 7), np.float32), np.full((2, 1, 1), len(requests)), TRACE)

    driver = NoviceSettings("sha", 2, 0.8, 100, expert_chunks=1, decoding=Decoding("draft"))
    settings = CollectionSettings(40, 2, 2, noise=None, driver=driver)
    collect_demonstration(Line(), forward, TASK, seed, IMAGES, settings, decide)
    assert {request.decoding.mode for request in requests} == {"draft"}
    places = [int(request.observation.proprio[0]) for request in requests]
    for index, request in enumerate(requests):  # the driver stands still, the expert moves
        follows = index > 0 and places[index] == places[index - 1]
        assert request.past.codes is None if not follows else (request.past.codes == index).all()
    assert len(set(places)) > 1 and len(places) > len(set(places))


def test_a_collection_from_before_drivers_had_arms_is_gone_on_with(tmp_path: Path) -> None:
    """By the arm that drove then, however it is asked for, and by no other."""

    def shared(arm: str | None) -> dict[str, Any]:
        decoding = _drivers_decoding(arm, "libero", inspect_policy("libero"))
        driver = NoviceSettings("sha", 8, 0.5, 100, decoding=decoding)
        return {"settings": dataclasses.asdict(CollectionSettings(40, driver=driver))}

    older = shared(None)
    del older["settings"]["driver"]["decoding"]
    Store(tmp_path, older, resume=False).close()
    for arm in (None, "autoregressive"):
        Store(tmp_path, shared(arm), resume=True).close()
    with pytest.raises(UserError, match=r'driver.decoding.mode: \(absent\) -> "draft"'):
        Store(tmp_path, shared("draft"), resume=True)
    trusting = tmp_path / "trusting"  # its confidence is in collection.json, too
    for resume in (False, True):
        Store(trusting, shared("temporal-confident=0.9"), resume=resume).close()
    with pytest.raises(UserError, match=r'trust.by: "confident=0.9" -> "confident=0.8"$'):
        Store(trusting, shared("temporal-confident=0.8"), resume=True)


def test_an_episode_ends_some_steps_after_the_goal() -> None:
    demo = solved(1)
    assert len(demo) == 4 + 2
    np.testing.assert_array_equal(demo.states[:, 0], [-1, 0, 1, 2, 3, 4])
    np.testing.assert_array_equal(demo.proprio[:, 0], demo.states[:, 0])
    np.testing.assert_array_equal(demo.frame_steps, [0, 3])
    np.testing.assert_array_equal(demo.agentview[:, 0, 0, 0], [0, 3])
    np.testing.assert_array_equal(demo.actions, demo.executed_actions)
    assert demo.model_xml == "<mujoco model='0'/>"


def test_a_placement_that_is_solved_already_is_neither_kept_nor_the_experts_failure() -> None:
    settings = CollectionSettings(20, 3, 2, noise=None)
    outcome = collect(-3, settings)  # at 3, where the goal holds
    assert outcome == Failure(-3, "the goal holds before anything was done", void=True)
    assert isinstance(collect(-1, settings), Demonstration)  # two steps away
    assert not Failure(1, "").void


def test_a_demonstration_that_no_file_may_hold_is_an_error_of_its_placement() -> None:
    class Broken(Line):
        def state(self) -> np.ndarray:
            return np.full(12, np.nan if self.steps == 2 else self.x)

    settings = CollectionSettings(20, 3, 2, noise=None)
    with pytest.raises(UserError, match=f"{TASK.name}, seed 1: states holds NaN"):
        collect_demonstration(Broken(), forward, TASK, 1, IMAGES, settings)


def test_an_expert_that_needs_too_long_has_failed() -> None:
    assert isinstance(collect(7, CollectionSettings(10, 3, 2, noise=None)), Demonstration)
    outcome = collect(8, CollectionSettings(10, 3, 2, noise=None))
    assert outcome == Failure(8, "the goal was not reached in 10 steps")


@pytest.mark.parametrize("value", [np.nan, 1.5])
def test_an_expert_out_of_range_is_an_error(value: float) -> None:
    bad = np.full(7, value, np.float32)
    settings = CollectionSettings(10, noise=None)
    with pytest.raises(ValueError, match="out of range"):
        collect_demonstration(Line(), lambda: bad, TASK, 1, IMAGES, settings)


def test_noise_is_executed_and_labels_stay_clean() -> None:
    noise = NoiseSettings(0.3, burst_probability=0.3, slip_probability=0.05)
    settings = CollectionSettings(100, 2, 2, noise)
    demo = solved(20, settings)
    assert (demo.actions == forward()).all()
    assert (demo.executed_actions[:, :3] != demo.actions[:, :3]).any()
    assert (demo.executed_actions[:, 6] == 1).any()
    assert np.abs(demo.executed_actions).max() <= 1
    np.testing.assert_array_equal(demo.executed_actions[-2:], demo.actions[-2:])  # goal reached
    np.testing.assert_array_equal(
        demo.executed_actions, solved(20, settings).executed_actions
    )  # from the seed alone


def test_a_missed_grasp_rises_open_and_closes_on_nothing() -> None:
    """It is marked as not the expert's, so that it does not become examples."""

    def once() -> Demonstration:
        opens, closes = forward(), forward() * np.array([1, 1, 1, 1, 1, 1, -1], np.float32)
        labels = iter([opens] * 3 + [closes] * 200)
        settings = CollectionSettings(100, 1, 2, noise=None, misses=1.0)
        outcome = collect_demonstration(Line(), lambda: next(labels), TASK, 20, IMAGES, settings)
        assert isinstance(outcome, Demonstration)
        return outcome

    demo = once()
    assert demo.driven is not None
    missed = np.flatnonzero(demo.driven)
    np.testing.assert_array_equal(missed, np.arange(3, 3 + len(missed)))  # where closing begins
    done = demo.executed_actions[missed]
    rising = np.flatnonzero(done[:, 6] < 0)
    assert 4 <= len(rising) <= 7 and 6 <= len(missed) - len(rising) <= 24
    assert (done[rising, 2] > 0.5).all() and (rising == np.arange(len(rising))).all()
    np.testing.assert_array_equal(demo.executed_actions[~demo.driven], demo.actions[~demo.driven])
    np.testing.assert_array_equal(once().executed_actions, demo.executed_actions)


def test_the_expert_gets_its_turn() -> None:
    misses = Misses(1.0, seed=1, task_id=0)
    labels = np.tile(np.repeat([-1.0, 1.0], 40)[:, None], (10, 7))  # ten grasps
    missed = [misses(label) is not None for label in labels]
    starts = np.flatnonzero(np.diff([False, *missed]))[::2]
    assert list(starts) == [40, 120, 200]


def test_no_grasp_of_somebody_elses_is_missed_later() -> None:
    misses = Misses(1.0, seed=1, task_id=0)
    opened, closed = np.full(7, -1.0), np.full(7, 1.0)
    drives = [misses(closed, driven=True), misses(closed), misses(closed)]
    assert all(action is None for action in drives)
    assert misses(opened) is None and misses(closed) is not None
    assert misses(closed, driven=True) is None and misses(closed) is None  # the rest is dropped


def test_either_rim_is_taken_by_half_of_the_seeds_and_by_a_seed_always_the_same() -> None:
    for task_id in range(10):
        rims = [takes_other_rim(seed, task_id) for seed in range(2, 202)]
        assert sum(rims) == 100  # a pair of seeds takes one each
        assert rims == [takes_other_rim(seed, task_id) for seed in range(2, 202)]
        firsts = rims[::2]  # coins: of 100, fewer than 30 or more than 70 once in 30,000
        assert 30 <= sum(firsts) <= 70
    assert len({tuple(takes_other_rim(s, t) for s in range(2, 42)) for t in range(10)}) == 10


def test_the_rim_is_in_the_file_where_one_was_drawn(tmp_path: Path) -> None:
    settings = CollectionSettings(20, 3, 2, noise=None, either_rim=True)
    for other_rim in (False, True, None):
        demo = collect_demonstration(
            Line(), forward, TASK, 1, IMAGES, settings, other_rim=other_rim
        )
        assert isinstance(demo, Demonstration)
        path = tmp_path / str(other_rim) / f"{TASK.name}_demo.hdf5"
        write_demonstration(path, demo)
        (read,) = read_demonstrations(path)
        assert read.other_rim is other_rim and read.settings["either_rim"] is True


def test_a_collection_that_asks_for_one_rim_is_written_as_ever(tmp_path: Path) -> None:
    path = tmp_path / f"{TASK.name}_demo.hdf5"
    write_demonstration(path, solved(1))
    with h5py.File(path) as file:
        attributes = file["data/demo_0"].attrs
        assert "other_rim" not in attributes
        assert json.loads(attributes["settings"])["either_rim"] is None


def test_a_burst_holds_one_offset() -> None:
    disturb = Disturbance(NoiseSettings(0.1, 1.0, (5, 5), 0.0), seed=1, task_id=0)
    offsets = np.stack([disturb(np.zeros(7)) for _ in range(10)])
    assert (offsets[:5] == offsets[0]).all() and (offsets[5:] == offsets[5]).all()
    assert (offsets[0] != offsets[5])[:3].all() and (offsets[:, 3:] == 0).all()


def test_the_kept_seeds_do_not_depend_on_who_finishes_first() -> None:
    solvable = {seed for seed in range(1, 200) if seed % 3}
    for order in range(20):
        rng = random.Random(order)
        quota = Quota(10, 1, done=(), failed=())
        held: list[int] = []
        while quota.open or held:
            while len(held) < 4 and (seed := quota.take()) is not None:
                held.append(seed)
            seed = held.pop(rng.randrange(len(held)))
            if rng.random() < 0.2:
                quota.returned(seed)
            elif seed in solvable:
                quota.succeeded(seed)
            else:
                quota.gave_nothing(seed)
        assert sorted(quota.done) == sorted(solvable)[:10]


def test_a_skipped_seed_keeps_its_place_for_another_session() -> None:
    quota = Quota(3, 1, done=(), failed=())
    assert [quota.take() for _ in range(4)] == [1, 2, 3, None]
    quota.skip(2)
    quota.succeeded(1)
    quota.gave_nothing(3)
    assert [quota.take(), quota.take()] == [4, None]
    quota.succeeded(4)
    assert quota.take() is None and quota.done == {1, 4}
    resumed = Quota(3, 1, quota.done, quota.failed)
    assert [resumed.take(), resumed.take()] == [2, None]


def test_a_store_goes_on_where_a_killed_one_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "demos"
    first = Store(folder, {"frame_every": 3}, resume=False)
    first.add(solved(2))
    first.merge(TASK)
    first.add(solved(1))
    first.note_failure(TASK, Failure(3, "no"))
    first.note_error(TASK, 4, "hung")
    (folder / "parts" / TASK.name / ".00000004.hdf5.tmp").write_bytes(b"half")
    first.close()  # as the kernel does for a killed process

    store = Store(folder, {"frame_every": 3}, resume=True)
    quota = store.quota(TASK, wanted=4, first_seed=1)
    assert (quota.done, quota.failed) == ({1, 2}, {3})
    assert [quota.take(), quota.take(), quota.take()] == [4, 5, None]
    store.merge(TASK)
    assert stored_seeds(task_file(folder, TASK)) == {1, 2}
    assert [demo.seed for demo in read_demonstrations(folder)] == [1, 2]
    assert (folder / "errors" / TASK.name / "00000004.txt").read_text() == "hung"
    store.note_error(TASK, 5, "hung")
    store.add(solved(4))
    store.note_failure(TASK, Failure(5, "no"))
    assert not (folder / "errors").exists()


def test_all_parts_are_merged_also_of_a_task_that_is_not_asked_for(tmp_path: Path) -> None:
    store = Store(tmp_path, {}, resume=False)
    store.add(solved(2))
    store.merge_all()
    assert stored_seeds(task_file(tmp_path, TASK)) == {2}
    assert not (tmp_path / "parts").exists()


def test_a_store_refuses_what_would_mix_or_overwrite(tmp_path: Path) -> None:
    store = Store(tmp_path, {"frame_every": 3, "assets": "lite"}, resume=False)
    with pytest.raises(UserError, match="another process"):
        Store(tmp_path, {"frame_every": 3, "assets": "lite"}, resume=True)
    store.close()
    with pytest.raises(UserError, match="is not empty"):
        Store(tmp_path, {"frame_every": 3, "assets": "lite"}, resume=False)
    with pytest.raises(UserError, match="frame_every: 3 -> 2"):
        Store(tmp_path, {"frame_every": 2, "assets": "lite"}, resume=True)
    later = {"frame_every": 3, "assets": "lite", "driver": None}  # a setting of newer code, unused
    Store(tmp_path, later, resume=True).close()
    with pytest.raises(UserError, match="cannot write"):
        Store(Path("/proc/nowhere"), {}, resume=False)


def test_a_store_that_cannot_be_opened_lets_go_of_its_folder(tmp_path: Path) -> None:
    with full_disk(0), pytest.raises(UserError) as refused:
        Store(tmp_path, {}, resume=False)
    Store(tmp_path, {}, resume=False).close()
    assert "make room" in str(refused.value)  # and its traceback kept the first store alive


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", "null", "[" * 200_000, '{"assets": "lite", "assets": "full"}']
)
def test_a_damaged_description_of_a_folder_is_named(tmp_path: Path, content: str) -> None:
    Store(tmp_path, {"assets": "lite"}, resume=False).close()
    (tmp_path / "collection.json").write_text(content)
    with pytest.raises(UserError, match=r"collection\.json is damaged.*another --output"):
        Store(tmp_path, {"assets": "lite"}, resume=True)


@pytest.mark.parametrize("name", [f"{TASK.name}_demo.hdf5", f"parts/{TASK.name}/00000001.hdf5"])
def test_demonstrations_that_nobody_describes_are_not_added_to(tmp_path: Path, name: str) -> None:
    write_demonstration(tmp_path / name, solved(1))
    with pytest.raises(UserError, match=r"no collection\.json"):
        Store(tmp_path, {}, resume=True)
    assert not (tmp_path / "collection.json").exists()


@pytest.mark.parametrize("name", [f"{TASK.name}_demo.hdf5", f"parts/{TASK.name}/00000001.hdf5"])
def test_a_truncated_file_of_a_folder_is_named(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path, {}, resume=False)
    write_demonstration(tmp_path / name, solved(1))
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:3000])
    with pytest.raises(UserError, match=f"{name} is damaged"):
        store.merge_all()
        store.quota(TASK, 1, 1)


def test_other_seeds_and_another_simulator_are_refused_by_name(tmp_path: Path) -> None:
    def shared(first_seed: int, mujoco: str) -> dict[str, Any]:
        packages = {"mujoco": mujoco, "numpy": "2.4.6"}
        return {"assets": "lite", "first_seed": first_seed, "packages": packages}

    Store(tmp_path, shared(1, "3.2.3"), resume=False).close()
    Store(tmp_path, shared(1, "3.2.3"), resume=True).close()
    with pytest.raises(UserError, match=r"  first_seed: 1 -> 50$"):
        Store(tmp_path, shared(50, "3.2.3"), resume=True)
    with pytest.raises(UserError, match=r"  packages.mujoco: \"3\.2\.3\" -> \"3\.3\.0\"$"):
        Store(tmp_path, shared(1, "3.3.0"), resume=True)
    (tmp_path / "collection.json").write_text(json.dumps({"assets": "lite"}))  # from before
    Store(tmp_path, shared(50, "3.3.0"), resume=True).close()


def test_a_full_disk_is_told_by_the_file_that_it_has_no_room_for(tmp_path: Path) -> None:
    with (
        full_disk(0),
        pytest.raises(UserError, match=r"cannot write .*collection\.json.*make room"),
    ):
        Store(tmp_path, {}, resume=False)
    store = Store(tmp_path, {}, resume=False)
    with full_disk(0):
        with pytest.raises(UserError, match=r"cannot write .*failed.*00000003\.txt"):
            store.note_failure(TASK, Failure(3, "no"))
        with pytest.raises(UserError, match=r"cannot write .*errors.*00000004\.txt"):
            store.note_error(TASK, 4, "hung")
        with pytest.raises(UserError, match=r"cannot write .*00000005\.hdf5"):
            store.add(solved(5))
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".txt", ".tmp"))]
    assert store.quota(TASK, 2, 1).take() == 1
