"""The world goes on while the policy thinks: schedules worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import RUN, key, result, write

from rsd.arms import arm_of
from rsd.books import Books
from rsd.commands.delay import DelayConfig, evaluation
from rsd.config import parse, parse_tree
from rsd.delay import Schedule, steps_of
from rsd.envs.toy import ToyEnvironment
from rsd.episode import run_episode
from rsd.errors import UserError
from rsd.models.toy import ToyPolicy
from rsd.plan import identity, resolve
from rsd.preflight import prepare
from rsd.presentation.delays import picture
from rsd.summary import delays
from rsd.types import Chunk, ChunkRequest, DecodeTrace, Decoding, Delay, EpisodeKey, EpisodeResult

LENGTH = 4


def chunk(number: int, length: int = LENGTH, decode_s: float = 0.0) -> Chunk:
    """Its actions say what they are: 10 * number + place; the gripper closes in odd chunks."""
    actions = np.zeros((length, 7), np.float32)
    actions[:, 0] = 10 * number + np.arange(length)
    actions[:, 6] = 1.0 if number % 2 else -1.0
    return Chunk(actions, None, DecodeTrace((), (), 1, 0, target_s=decode_s))


def story(
    steps: int,
    delay: Delay | None,
    replan: int | None = None,
    length: int = LENGTH,
    decode_s: list[float] | None = None,
) -> str:
    """What happens in so many steps: `?` a chunk is asked for, `.` the robot stands still, a number
    an action (20 is the first of chunk 2)."""
    schedule = Schedule(delay, replan)
    told, taken, asked = [], 0, 0
    while taken < steps:
        if schedule.asks:
            schedule.asked(chunk(asked, length, decode_s[asked] if decode_s else 0.0))
            asked += 1
            told.append("?")
        else:
            move = schedule.move()
            told.append("." if move.still else str(int(move.action[0])))
            assert move.chunk == (asked - 1 if move.still else int(move.action[0]) // 10)
            taken += 1
    return " ".join(told)


@pytest.mark.parametrize(
    ("delay", "replan", "told"),
    [
        (None, None, "? 0 1 2 3 ? 10 11 12 13 ? 20"),
        (Delay(0), None, "? 0 1 2 3 ? 10 11 12 13 ? 20"),
        (Delay(0, "hold"), None, "? 0 1 2 3 ? 10 11 12 13 ? 20"),
        (Delay(0), 3, "? 0 1 2 ? 10 11 12 ? 20 21 22"),
        # asked for when what is left lasts as long; what is past of the new chunk is left out
        (Delay(1), None, "? . 0 1 2 ? 3 11 12 ? 13 21 22"),
        (Delay(2), None, "? . . 0 1 ? 2 3 ? 12 13 ? 22 23"),
        # longer than what is left: the rest, then still; stillness makes nothing past
        (Delay(3), None, "? . . . 0 ? 1 2 3 ? 13 . . ? 21 22 23 ? 33 . ."),
        (Delay(5), None, "? . . . . . ? 0 1 2 3 . ? . . . . ."),
        # standing still: nothing of a chunk is past
        (Delay(2, "hold"), None, "? . . 0 1 2 3 ? . . 10 11 12 13"),
        (Delay(6, "hold"), None, "? . . . . . . 0 1 2 3 ? . ."),
        # replanning before the end leaves a rest to go on with
        (Delay(1), 2, "? . 0 1 ? 2 11 ? 12 21 ? 22 31"),
        (Delay(1, "hold"), 2, "? . 0 1 ? . 10 11 ? . 20 21"),
    ],
)
def test_a_schedule_is_the_one_worked_out_by_hand(
    delay: Delay | None, replan: int | None, told: str
) -> None:
    steps = sum(word != "?" for word in told.split())
    assert story(steps, delay, replan) == told


def test_a_measured_delay_is_that_of_each_decode_and_the_last_one_is_expected() -> None:
    told = story(12, Delay(None), decode_s=[0.0, 0.12, 0.05, 0.05])
    assert told == "? 0 1 2 3 ? . . . 10 ? 11 21 22 ? 23"


def test_chunks_of_a_repeated_episode_are_as_late_as_they_were() -> None:
    """Whatever decoding takes now; one more than there were is as late as the last."""
    recorded = Delay(None, recorded=(0, 3, 1))
    once = story(12, Delay(None), decode_s=[0.0, 0.12, 0.05, 0.05])
    assert story(12, recorded, decode_s=[9.0] * 4) == once


def test_who_stands_still_keeps_the_gripper_as_it_was_told_last() -> None:
    schedule = Schedule(Delay(1, "hold"))
    schedule.asked(chunk(1))
    assert schedule.move().action.tolist() == [0, 0, 0, 0, 0, 0, -1]  # nothing was told yet
    for _ in range(LENGTH):
        schedule.move()
    schedule.asked(chunk(2))
    assert schedule.move().action.tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert schedule.move().action[6] == -1


@pytest.mark.parametrize(
    ("seconds", "steps"), [(0.0, 0), (0.001, 1), (0.05, 1), (0.0501, 2), (0.15, 3), (1.0, 20)]
)
def test_an_answer_can_be_used_from_the_next_control_step_on(seconds: float, steps: int) -> None:
    assert steps_of(seconds) == steps


# -- episodes ------------------------------------------------------------------------------------


def episode(delay: Delay | None, trial: int = 0, replan: int | None = None) -> EpisodeResult:
    env = ToyEnvironment("toy", 0, None, "none", ToyPolicy.images)
    arm = arm_of(Decoding("parallel"), delay)
    key = EpisodeKey(arm.name, "toy", 0, trial)
    return run_episode(env, key, arm, lambda request: ToyPolicy().act([request])[0], 40, replan)


@pytest.mark.parametrize("trial", [0, 3, 4])  # that succeed
def test_no_delay_at_all_is_the_arm_itself_bit_for_bit(trial: int) -> None:
    plain = episode(None, trial)
    for none in (Delay(0), Delay(0, "hold"), Delay(None)):  # the toy takes no time
        late = episode(none, trial)
        assert late.final_state_sha256 == plain.final_state_sha256
        assert [c.action_sha256 for c in late.chunks] == [c.action_sha256 for c in plain.chunks]
        assert (late.outcome, late.steps, late.still_steps) == (plain.outcome, plain.steps, 0)
    assert episode(Delay(3), trial).final_state_sha256 != plain.final_state_sha256


def test_an_episode_records_how_late_its_chunks_were_and_how_long_it_stood_still() -> None:
    plain, late = episode(None), episode(Delay(3, "hold"))
    assert (plain.delay, plain.while_waiting, plain.still_steps) == (None, None, None)
    assert {c.delay_steps for c in plain.chunks} == {None}
    assert (late.delay, late.while_waiting) == ("3", "hold")
    assert {c.delay_steps for c in late.chunks} == {3}
    assert late.outcome == plain.outcome == "success"
    assert late.steps == plain.steps + late.still_steps
    assert late.still_steps == 3 * len(late.chunks)
    assert episode(Delay(None)).delay == "measured"


def test_a_goal_that_is_reached_while_a_chunk_is_waited_for_ends_the_episode() -> None:
    """A chunk that was asked for and never executed is recorded all the same."""
    asked: list[ChunkRequest] = []

    def decide(request: ChunkRequest) -> Chunk:
        asked.append(request)
        return ToyPolicy().act([request])[0]

    env = ToyEnvironment("toy", 0, None, "none", ToyPolicy.images)
    arm = arm_of(Decoding("parallel"), Delay(7))
    result = run_episode(env, EpisodeKey(arm.name, "toy", 0, 0), arm, decide, 40)
    assert len(result.chunks) == len(asked)
    assert [request.alone for request in asked] == [False] * len(asked)


@pytest.mark.parametrize("delay", [None, Delay(2), Delay(5), Delay(3, "hold"), Delay(11)])
def test_the_actions_of_all_chunks_are_those_that_the_simulator_got(delay: Delay | None) -> None:
    class Seen(ToyEnvironment):
        got: list[np.ndarray]

        def step(self, action: np.ndarray) -> bool:
            self.got.append(action.copy())
            return super().step(action)

    env = Seen("toy", 0, None, "none", ToyPolicy.images)
    env.got = []
    arm = arm_of(Decoding("parallel"), delay)
    made = run_episode(
        env, EpisodeKey(arm.name, "toy", 0, 1), arm, lambda r: ToyPolicy().act([r])[0], 40
    )
    recorded = np.concatenate([each.actions for each in made.chunks])
    assert recorded.dtype == np.float32
    assert np.array_equal(recorded, np.array(env.got))


def test_a_measured_delay_wants_its_chunks_decoded_alone() -> None:
    asked: list[ChunkRequest] = []

    def decide(request: ChunkRequest) -> Chunk:
        asked.append(request)
        return ToyPolicy().act([request])[0]

    env = ToyEnvironment("toy", 0, None, "none", ToyPolicy.images)
    arm = arm_of(Decoding("parallel"), Delay(None))
    run_episode(env, EpisodeKey(arm.name, "toy", 0, 0), arm, decide, 40)
    assert asked and all(request.alone for request in asked)


# -- what is asked for ---------------------------------------------------------------------------


def arms(*words: str) -> list[str]:
    return list(resolve(parse(["--arms", *words])).arms)


def test_while_waiting_is_for_arms_that_do_not_say_it() -> None:
    names = ("speculative", "speculative+delay=2", "parallel+delay=2+continue")
    assert arms(*names, "--while-waiting", "hold") == [
        "speculative",
        "speculative+delay=2+hold",
        "parallel+delay=2",
    ]


def test_late_arms_are_part_of_a_runs_identity_and_others_are_as_they_were() -> None:
    described = identity(resolve(parse(["--arms", "parallel", "parallel+delay=2+hold"])))["arms"]
    assert "delay" not in described["parallel"]  # as in older runs
    assert described["parallel+delay=2+hold"]["delay"] == {"steps": 2, "waiting": "hold"}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--arms parallel+delay=-1", "from 0 to 20, or measured, not '-1'"),
        ("--arms parallel+delay=abc", "from 0 to 20, or measured, not 'abc'"),
        ("--arms parallel+delay=1000", "from 0 to 20, or measured, not '1000'"),
        ("--arms parallel+delay=", "from 0 to 20, or measured, not ''"),
        ("--arms parallel+dealy=3", r"unknown part of arm .*; did you mean '\+delay=D'"),
        ("--arms parallel+delay=3+delay=4", "says its delay twice"),
        ("--arms parallel+hold", r"write parallel\+delay=D\+hold"),
        ("--arms expert+delay=3", "the expert decides every step anew"),
        ("--arms parallel parallel+delay=0", "arm named twice: parallel"),
        ("--arms parallel --while-waiting hold", "no arm has a delay"),
        ("--arms parallel+delay=3 --while-waiting halt", "unknown --while-waiting 'halt'"),
        ("--arms parallel+delay=3 --latency 80", "no arm's delay is measured"),
    ],
)
def test_bad_delays_name_the_value_and_the_fix(flags: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        resolve(parse(flags.split()))


# -- a delay that was measured elsewhere ---------------------------------------------------------


def settled(*words: str) -> list[str]:
    flags = ["--policy", "toy", "--task-suite", "toy", "--arms", *words]
    plan = prepare(parse(flags))
    assert {key.arm for key in plan.keys} == set(plan.arms)
    return list(plan.arms)


def test_milliseconds_become_control_steps() -> None:
    measured = "speculative+delay=measured+hold"
    assert settled(measured, "--latency", "120") == ["speculative+delay=3+hold"]
    assert settled(measured, "--latency", "0") == ["speculative"]
    assert settled("parallel", measured, "--latency", "50.0") == [
        "parallel",
        "speculative+delay=1+hold",
    ]


@pytest.mark.parametrize(
    ("latency", "told"),
    [
        ("1001", "21 control steps; a chunk may be 20 late at most"),
        ("-3", "a finite number from 0 on"),
        ("nan", "a finite number from 0 on"),
        ("/nowhere", "neither milliseconds a chunk, as in --latency 120, nor the folder of a run"),
        ("120ms", "neither milliseconds a chunk"),
    ],
)
def test_a_latency_that_means_nothing_is_told(latency: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        settled("speculative+delay=measured", f"--latency={latency}")


def test_a_run_says_how_long_its_arms_decode_where_they_do_it_alone(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    with Books.open(run, RUN, resume=False) as books:
        for trial, batch_size in enumerate([1, 1, 4]):
            made = result(key(trial))
            seconds = {1: 0.08, 4: 0.9}[batch_size]  # a batch takes longer, and is no chunk's
            trace = DecodeTrace((), (), 1, 0, batch_size=batch_size, target_s=seconds)
            chunks = [replace(each, trace=trace) for each in made.chunks]
            books.add(replace(made, chunks=chunks), attempts=1, worker="w", node="n")
        crowded = replace(made, key=key(0, "autoregressive"))
        books.add(replace(crowded, chunks=chunks), attempts=1, worker="w", node="n")
    assert settled("speculative+delay=measured", "--latency", run) == ["speculative+delay=2"]
    with pytest.raises(UserError, match="decoded in batches; measure them with --max-batch-size 1"):
        settled("autoregressive+delay=measured", "--latency", run)
    with pytest.raises(UserError, match="it holds no chunk of parallel"):
        settled("parallel+delay=measured", "--latency", run)
    begun = write(tmp_path / "begun", [], planned=2)
    with pytest.raises(UserError, match=r"it holds no chunk of parallel \(but of none\)"):
        settled("parallel+delay=measured", "--latency", begun)


# -- the sweep -----------------------------------------------------------------------------------


def swept(*words: str) -> list[str]:
    flags = ["--policy", "toy", "--task-suite", "toy", *words]
    return list(resolve(evaluation(parse_tree(DelayConfig, flags, "rsd delay", ""))).arms)


def test_a_sweep_is_one_run_of_every_arm_at_every_delay() -> None:
    assert swept("--arms", "speculative", "parallel", "--delays", "0", "2", "5") == [
        "speculative",
        "speculative+delay=2",
        "speculative+delay=5",
        "speculative+delay=2+hold",
        "speculative+delay=5+hold",
        "parallel",
        "parallel+delay=2",
        "parallel+delay=5",
        "parallel+delay=2+hold",
        "parallel+delay=5+hold",
    ]
    assert swept("--arms", "parallel", "--delays", "3", "--meanwhile", "hold") == [
        "parallel+delay=3+hold"
    ]
    arms = ["--arms", "speculative-exact", "speculative", "--rule", "sampling"]
    assert swept(*arms, "--delays", "3", "--meanwhile", "hold") == [
        "speculative+delay=3+hold",
        "speculative-sampling+delay=3+hold",
    ]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--delays 21", "from 0 to 20, or measured, not '21'"),
        ("--delays -1", "from 0 to 20, or measured, not '-1'"),
        ("--meanwhile halt", "unknown --meanwhile 'halt'"),
        ("--arms parallel+delay=3", "arm 'parallel\\+delay=3' has a delay; the grid has --delays"),
        ("--latency 30", "the grid has --meanwhile and --delays"),
    ],
)
def test_a_sweep_that_means_nothing_is_told(flags: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        swept(*flags.split())


PARTS = {"early": (0, 7), "late": (7, 20)}


def late_arms(run: Path, trials: range) -> str:
    """Of 20 worlds: 16 solved on time, 12 at 2 steps, 8 at 4; decoded alone in 30 ms."""
    trace = DecodeTrace((), (), 1, 0, batch_size=1, target_s=0.03)
    solved = {"speculative": 16, "speculative+delay=2": 12, "speculative+delay=4": 8}
    described = RUN | {"run_id": run.name}
    with Books.open(str(run), described, resume=False) as books:
        for arm, count in {**solved, "speculative+delay=measured": 3}.items():
            for trial in trials:
                made = result(key(trial, arm), "success" if trial < count else "timeout")
                chunks = [replace(each, trace=trace) for each in made.chunks]
                books.add(replace(made, chunks=chunks), attempts=1, worker="w", node="n")
    return str(run)


@pytest.fixture()
def sweep(tmp_path: Path) -> str:
    return late_arms(tmp_path / "sweep", range(20))


def test_a_curve_begins_with_the_arm_itself_and_knows_what_10_ms_are_worth(sweep: str) -> None:
    (curve,) = delays.curves(sweep)
    assert (curve.arm, curve.waiting) == ("speculative", "continue")
    assert [(p.steps, p.success.successes, p.success.finished) for p in curve.points] == [
        (0, 16, 20),
        (2, 12, 20),
        (4, 8, 20),
    ]
    assert curve.decode_ms == pytest.approx(30.0)
    worth = curve.worth_of_10_ms
    assert worth is not None
    assert worth[0] == pytest.approx(-40 / 20)  # 40 points over 200 ms
    assert worth[1] < worth[0] < worth[2] < 0
    (told,) = delays.sentences([curve])
    assert "10 ms of delay are worth -2.00 points of success" in told
    assert "from 0 to 200 ms on 20 worlds" in told


def test_runs_of_other_trials_make_one_curve_and_a_run_twice_makes_none(
    sweep: str, tmp_path: Path
) -> None:
    parts = [late_arms(tmp_path / name, range(*ends)) for name, ends in PARTS.items()]
    assert delays.curves(*parts) == delays.curves(sweep)
    with pytest.raises(UserError, match="report each once"):
        delays.curves(parts[0], parts[1], parts[0])


def test_the_picture_holds_both_axes_every_curve_and_the_latency(sweep: str) -> None:
    found = delays.curves(sweep)
    assert picture(found, "png").startswith(b"\x89PNG")
    assert picture(found, "svg").startswith(b"<?xml")


def test_a_run_without_late_arms_is_told(tmp_path: Path) -> None:
    with Books.open(str(tmp_path), RUN, resume=False) as books:
        books.add(result(key()), attempts=1, worker="w", node="n")
    with pytest.raises(UserError, match="no episode of a late arm"):
        delays.curves(str(tmp_path))
