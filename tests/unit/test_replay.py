"""Episodes simulated again from the books: which, how they end, what is drawn of them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from made_up_recordings import (
    ARMS,
    STEPS,
    WORLDS,
    episode,
    episodes,
    otherwise,
    simulator,
    without_actions,
    write,
)

from rsd.arms import read_arm
from rsd.envs.toy import ToyEnvironment
from rsd.episode import run_episode
from rsd.errors import UserError
from rsd.models.toy import ToyPolicy
from rsd.replay import choice, film, strip, video
from rsd.replay.again import actions_of, parting, replay
from rsd.replay.choice import Filter, Take
from rsd.replay.recording import Recording
from rsd.types import Chunk, ChunkRequest, DecodeTrace, EpisodeKey, Observation


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("run"), episodes())


@pytest.fixture(scope="module")
def recording(run: str) -> Recording:
    return Recording.of(run)


# --- from the books -----------------------------------------------------------------------------


def test_an_episode_is_read_as_it_was_entered_but_for_its_codes(recording: Recording) -> None:
    entered = {result.key: result for result in episodes()}
    for key in recording.outcomes:
        (read,) = recording.read(Take((key,)))
        chunks = entered[key].chunks
        for was, now in zip(chunks, read.chunks, strict=True):
            assert was.actions is not None and now.actions is not None
            assert now.actions.dtype == np.float32
            assert now.actions.tobytes() == was.actions.tobytes()
            assert (now.chunk_index, now.trace) == (was.chunk_index, was.trace)
            assert now.action_sha256 == was.action_sha256 and now.codes is None
        for name in ("key", "instruction", "outcome", "steps", "final_state_sha256", "assets"):
            assert getattr(read, name) == getattr(entered[key], name)


def test_every_episode_ends_as_recorded(recording: Recording) -> None:
    assert set(recording.outcomes.values()) == {"success", "timeout"}
    for key in recording.outcomes:
        (recorded,) = recording.read(Take((key,)))
        assert replay(simulator(key.task_id), recorded).differs(recorded) == ""


def test_another_action_is_another_end_and_is_told(recording: Recording) -> None:
    solved = [key for key, outcome in recording.outcomes.items() if outcome == "success"]
    assert len(solved) >= 3  # in the others the point ends at the wall whatever it did before
    for key in solved:
        recorded = otherwise(episode(key.arm, key.task_id, key.trial))
        told = replay(simulator(key.task_id), recorded).differs(recorded)
        assert "final state" in told and recorded.final_state_sha256[:12] in told


def test_the_frames_before_each_chunk_are_those_that_the_policy_saw() -> None:
    class Seen(ToyEnvironment):
        """Keeps what it shows."""

        def observe(self) -> Observation:
            shown.append(super().observe())
            return shown[-1]

    shown: list[Observation] = []
    key = EpisodeKey("speculative", "toy", 0, 0)

    def decide(request: ChunkRequest) -> Chunk:
        return ToyPolicy().act([request])[0]

    recorded = run_episode(simulator(0, Seen), key, read_arm("speculative"), decide, STEPS)
    starts = strip.Strip(recorded, 512, STEPS, 1).starts[:-1]
    again, env = {}, simulator()

    def watch(step: int) -> None:
        again[step] = env.observe()

    replay(env, recorded, watch)
    assert len(starts) == len(shown) > 2
    for start, was in zip(starts, shown, strict=True):
        assert np.array_equal(again[start].agentview, was.agentview)
        assert np.array_equal(again[start].wrist, was.wrist)
        assert np.array_equal(again[start].proprio, was.proprio)


def test_an_episode_without_actions_cannot_be_simulated_and_says_what_can_be_done() -> None:
    with pytest.raises(UserError, match=r"not recorded: .* `rsd repeat` .* `rsd evaluate`"):
        actions_of(without_actions(episode()))


def test_a_chunk_that_is_missing_is_noticed() -> None:
    recorded = episode()
    cut = dataclasses.replace(recorded, chunks=recorded.chunks[:-1])
    with pytest.raises(UserError, match="actions are recorded of"):
        actions_of(cut)


# --- which --------------------------------------------------------------------------------------


def key(arm: str = "a", task: int = 0, trial: int = 0) -> EpisodeKey:
    return EpisodeKey(arm, "toy", task, trial)


OUTCOMES = {
    key("a", 0, 0): "success",
    key("b", 0, 0): "timeout",
    key("c", 0, 0): "success",
    key("a", 0, 1): "timeout",
    key("b", 0, 1): "timeout",
    key("a", 1, 0): "success",
    key("b", 1, 0): "error",
}


def test_failures_are_timeouts_and_errors_are_none() -> None:
    assert choice.failures(OUTCOMES) == [
        Take((key("b", 0, 0),)),
        Take((key("a", 0, 1),)),
        Take((key("b", 0, 1),)),
    ]
    assert len(choice.each(OUTCOMES)) == 6


def test_a_disagreement_is_two_arms_of_a_world_with_different_outcomes() -> None:
    found = choice.disagreements(OUTCOMES)
    assert [take.keys for take in found] == [
        (key("a", 0, 0), key("b", 0, 0)),
        (key("b", 0, 0), key("c", 0, 0)),
    ]
    assert found[0].file == "toy-0-00-a_vs_b.mp4" and found[0].key.arm == "a vs b"


def test_a_sample_is_drawn_by_its_seed() -> None:
    drawn = {tuple(choice.sample(OUTCOMES, 3, seed)) for seed in range(8)}
    assert len(drawn) > 1
    assert choice.sample(OUTCOMES, 3, 5) == choice.sample(OUTCOMES, 3, 5)
    assert choice.sample(OUTCOMES, 99, 0) == choice.each(OUTCOMES)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (Filter(suite=("libero_10",)), "--suite libero_10: .* there are toy"),
        (Filter(arm=("speculativ",)), "--arm speculativ: .* there are a, b, c"),
        (Filter(task=(7,)), "--task 7: .* there are 0 to 1"),
        (Filter(arm=("c",), trial=(1,)), "--trial 1: .* there are 0"),
    ],
)
def test_what_is_not_recorded_is_told_with_what_is(asked: Filter, told: str) -> None:
    with pytest.raises(UserError, match=told):
        asked.of(OUTCOMES)


def test_where_nothing_is_recorded_yet_no_name_is_blamed() -> None:
    with pytest.raises(UserError, match=r"^no episode is recorded there yet$"):
        Filter(arm=("draft",)).of({})


def test_numbers_are_told_in_ranges() -> None:
    assert choice.ranges([0, 1, 2, 5, 7, 8]) == "0 to 2, 5, 7 to 8"


def test_names_of_files_differ_and_are_names() -> None:
    arms = ("speculative", "speculative@3", "speculative-sampling", "a/../b", "x+delay=3")
    files = [Take((key(arm),)).file for arm in arms]
    files.append(Take((dataclasses.replace(key(), seed=1),)).file)
    assert len(set(files)) == len(files) and not any("/" in file for file in files)


# --- what is drawn ------------------------------------------------------------------------------


def test_arms_part_where_their_actions_first_differ() -> None:
    one, other = (episode(arm, 0, 0) for arm in ARMS)
    chunk = len(one.chunks[0].actions)  # type: ignore[arg-type]
    assert parting(one, other) == chunk
    assert parting(one, otherwise(one)) == 0
    assert parting(one, one) is None


@pytest.mark.parametrize(
    ("trace", "colours"),
    [
        (
            DecodeTrace((8, 8, 0, 0), (8, 5, 0, 0), 2, 4, (0, 0, 8, 0), (0, 0, 8, 0)),
            [strip.KEPT, strip.REJECTED, strip.ANEW, strip.NOT_DRAFTED],
        ),
        (DecodeTrace((), (), 1, 3), [strip.NOT_DRAFTED] * 3),
        (DecodeTrace((0, 0), (0, 0), 0, 2), [strip.UNJUDGED] * 2),
        (DecodeTrace((), (), 0, 0), []),
    ],
)
def test_a_layers_colour_is_what_became_of_its_guess(
    trace: DecodeTrace, colours: list[str]
) -> None:
    assert strip.colours(trace) == colours


def test_the_play_head_stands_where_the_episode_is() -> None:
    recorded = episode()
    drawn = strip.Strip(recorded, 512, recorded.steps, 8)
    still = drawn.still()
    black = []
    for step in (0, recorded.steps // 2, recorded.steps):
        row = np.asarray(drawn.at(still, step))[strip.TOP - 3]
        black.append(np.flatnonzero((row < 60).all(axis=1)).mean())
        assert abs(black[-1] - drawn.x(step)) < 2
    assert black == sorted(black)


@pytest.fixture(scope="module")
def shots() -> list[film.Footage]:
    return [film.shoot(simulator(), episode(arm, 0, 0)) for arm in ARMS]


def test_a_video_plays_in_a_browser_and_shows_every_step(
    shots: list[film.Footage], tmp_path: Path
) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(video.encode(film.pictures(shots[:1]), film.HZ))
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # plays before it is loaded
    frames = imageio_ffmpeg.read_frames(str(path))
    described = next(frames)
    assert described["codec"] == "h264" and described["pix_fmt"].startswith("yuv420p")
    assert described["fps"] == film.HZ and all(side % 2 == 0 for side in described["size"])
    assert sum(1 for _ in frames) == shots[0].recorded.steps + 1 + film.STAY
    assert path.read_bytes() == video.encode(film.pictures(shots[:1]), film.HZ)


def test_two_arms_are_beside_each_other_and_the_shorter_one_waits(
    shots: list[film.Footage],
) -> None:
    one, two = list(film.pictures(shots[:1])), list(film.pictures(shots))
    assert two[0].shape[1] == 2 * one[0].shape[1] + film.GAP
    assert len(two) == max(shot.recorded.steps for shot in shots) + 1 + film.STAY
    assert shots[0].recorded.outcome == "success"
    parted = parting(*(shot.recorded for shot in shots))
    assert parted is not None
    marked = np.array([int(strip.PARTED[i : i + 2], 16) for i in (1, 3, 5)])
    frame = film.HEADING + strip.LINE + 2  # the row of the views' upper edge
    for step, said in ((parted, False), (parted + 1, True)):
        assert bool((two[step][frame] == marked).all(axis=1).any()) == said


# --- ffmpeg -------------------------------------------------------------------------------------


def test_without_ffmpeg_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    with pytest.raises(UserError, match=r"/nowhere/ffmpeg is no program; pip install imageio-ff"):
        video.check()


def test_an_ffmpeg_without_the_codec_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    poor = tmp_path / "ffmpeg"
    poor.write_text("#!/bin/sh\necho \"Unknown encoder 'libx264'\" >&2\nexit 1\n")
    poor.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(poor))
    with pytest.raises(UserError, match=r"Unknown encoder 'libx264'; unset IMAGEIO_FFMPEG_EXE"):
        video.check()


def test_nothing_of_it_imports_ray_or_torch(run: str, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom rsd.commands import call\n"
        f"code = call('replay', [{run!r}, '--all', '--output', {str(tmp_path)!r}])\n"
        f"code += call('verify', [{run!r}, '--sample', '4'])\n"
        "print(code, sorted({'ray', 'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr
    assert len(list(tmp_path.glob("*.mp4"))) == len(ARMS) * len(WORLDS)
