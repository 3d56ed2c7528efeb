from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rsd.arms import NAMES
from rsd.config import EvaluateConfig, parse
from rsd.errors import UserError
from rsd.models import PolicyInfo
from rsd.plan import check_arms, identity, resolve
from rsd.types import EpisodeKey


def plan(config: EvaluateConfig) -> list[EpisodeKey]:
    return resolve(config).keys


def test_the_defaults_are_the_demo() -> None:
    keys = plan(EvaluateConfig())
    assert len(keys) == 20
    assert keys[:2] == [
        EpisodeKey("autoregressive", "libero_spatial", 0, 0),
        EpisodeKey("speculative", "libero_spatial", 0, 0),
    ]


def test_every_planned_episode_is_there_once_and_long_suites_come_first() -> None:
    keys = plan(parse(["--task-suite", "libero_spatial", "libero_10", "--num-trials", "3"]))
    assert len(keys) == len(set(keys)) == 2 * 10 * 3 * 2
    assert [key.suite for key in keys] == ["libero_10"] * 60 + ["libero_spatial"] * 60


def test_trials_and_tasks_can_be_named() -> None:
    keys = plan(parse(["--tasks", "0", "3", "--trials", "49", "7", "--arms", "parallel"]))
    assert [(key.task_id, key.trial) for key in keys] == [(0, 49), (0, 7), (3, 49), (3, 7)]


def test_an_arms_name_says_how_it_decodes() -> None:
    arms = identity(
        resolve(parse(["--arms", "autoregressive@3", "speculative", "parallel", "--layers", "5"]))
    )["arms"]
    assert list(arms) == ["autoregressive@3", "speculative@5", "parallel@5"]
    assert arms["autoregressive@3"]["layers"] == 3
    sampled = identity(resolve(parse(["--arms", "speculative", "--rule", "sampling"])))["arms"]
    assert list(sampled) == ["speculative-sampling"]
    both = resolve(parse(["--rule", "sampling"])).arms
    assert list(both) == ["autoregressive-sampling", "speculative-sampling"]
    assert {arm.decoding.rule for arm in both.values()} == {"sampling"}


def test_a_plan_says_who_is_asked() -> None:
    assert resolve(EvaluateConfig()).modes == {"autoregressive", "speculative"}
    assert resolve(EvaluateConfig()).asks_policy
    assert not resolve(parse(["--arms", "expert"])).asks_policy


def test_auto_is_resolved_to_a_policys_own_name() -> None:
    assert resolve(EvaluateConfig()).config.policy.policy == "spatial"


@pytest.mark.parametrize(("value", "arm"), [("true", "speculative"), ("false", "autoregressive")])
def test_use_speculative_decoding_is_shorthand_for_an_arm(value: str, arm: str) -> None:
    config = parse(["--use-speculative-decoding", value])
    assert {key.arm for key in plan(config)} == {arm}


def test_a_yaml_file_is_read_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "task_suite: [libero_goal, libero_10]\nnum-trials: 50\ndeterministic: false\n"
        "use_speculative_decoding: true\nworkers: null\nmax_wait_ms: 2.5\n"
    )
    config = parse(["--num-trials", "3", "--config", str(file), "--tasks", "1"])
    assert config.episodes.task_suite == ("libero_goal", "libero_10")
    assert (config.episodes.num_trials, config.episodes.tasks) == (3, (1,))
    assert config.episodes.use_speculative_decoding is True
    assert config.policy.deterministic is False
    assert (config.cluster.workers, config.cluster.max_wait_ms) == (None, 2.5)
    assert parse([f"--config={file}"]).episodes.num_trials == 50


def test_of_two_yaml_files_the_later_one_wins_and_the_command_line_over_both(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("num_trials: 3\nworkers: 3\nseed: 3\nretries: 3")
    second.write_text("num_trials: 7\nworkers: 7\ndeterministic: false\nretries: 7")
    config = parse(["--retries", "1", "--config", str(first), f"--config={second}"])
    assert (config.episodes.num_trials, config.cluster.workers) == (7, 7)
    assert (config.episodes.seed, config.policy.deterministic) == (3, False)
    assert config.cluster.retries == 1
    for flags in (["--config"], ["--config="]):
        with pytest.raises(UserError, match="--config needs the path"):
            parse(flags)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("num_trails: 3", "did you mean 'num_trials'"),
        ("resume: perhaps", "resume is true or false"),
        ("- a list", "expected `setting: value`"),
        ("a: [", "cannot read"),
    ],
)
def test_a_wrong_yaml_file_is_told(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=told):
        parse(["--config", str(file)])


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--task-suite libero_spacial", "did you mean 'libero_spatial'"),
        ("--task-suite toy libero_10", "suites of one simulator"),
        ("--task-suite toy toy", "suite named twice: toy"),
        ("--tasks 10", "tasks 0..9; task 10 does not exist"),
        ("--tasks -1", "task -1 does not exist"),
        ("--arms speculativ", "unknown arm 'speculativ'; did you mean 'speculative'"),
        ("--arms speculative-exect", "unknown acceptance rule 'exect'; did you mean 'exact'"),
        ("--arms parallel@two", "a number of layers"),
        ("--arms expert@2", "the expert decodes no layers"),
        ("--arms regression@2", "a regression head decodes no layers; write regression"),
        ("--arms parallel parallel", "arm named twice: parallel"),
        ("--rule exat", "unknown acceptance rule 'exat'; did you mean 'exact'"),
        ("--num-trials 51", "choose 1 to 50"),
        ("--num-trials 0", "choose 1 to 50"),
        ("--trials 50", "trials 0..49"),
        ("--workers 0", "--workers 0: at least 1"),
        ("--time-limit-s 0", "--time-limit-s 0"),
        ("--time-limit-s inf", "--time-limit-s inf: a finite number"),
        ("--time-limit-s nan", "--time-limit-s nan: a finite number"),
        ("--worker-memory-gb 0", "--worker-memory-gb 0.0: at least 0.1"),
        ("--worker-memory-gb inf", "--worker-memory-gb inf: a finite number"),
        ("--gpus-per-replica 1.5", "whole GPUs only; choose 1 or 2"),
        ("--trials 3 4 5 --num-trials 2", "--num-trials 2 beside --trials of 3"),
        ("--time-limit-s 60", "--decode-limit-s 120 is not below --time-limit-s 60"),
        ("--resume", "--resume needs --output"),
        ("--output=", "names no folder: it is empty"),
        ("--output s3:/b", "no address; write s3://"),
        ("--use-speculative-decoding true --arms parallel", "leave --arms out"),
    ],
)
def test_bad_requests_name_the_value_and_the_fix(flags: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        resolve(parse(flags.split()))


@pytest.mark.parametrize("setting", ["output", "policy", "assets"])
@pytest.mark.parametrize("value", [r"a\0b", r"a\ud800b", r"a\eb"])
def test_names_that_only_a_file_can_spell_are_refused(
    setting: str, value: str, tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f'{setting}: "{value}"')
    with pytest.raises(UserError, match=r"it holds|holds control characters"):
        resolve(parse(["--config", str(file)]))


def test_a_policy_whose_name_cannot_be_recorded_is_called_a_policy() -> None:
    with pytest.raises(UserError, match=r"'a\\x1bb' cannot be the name of a policy here"):
        resolve(parse(["--policy", "a\x1bb"]))


def check_asked(flags: list[str], layers: int) -> None:
    policy = PolicyInfo(modes=("speculative", "autoregressive", "parallel", "draft"), layers=layers)
    check_arms(resolve(parse(flags)).arms.values(), "some policy", policy)


def test_more_layers_than_the_policy_has_are_refused() -> None:
    check_asked(["--arms", "parallel@8"], layers=8)
    with pytest.raises(UserError, match="has 1 to 7"):
        check_asked(["--arms", "parallel@8"], layers=7)


def test_the_finest_layer_is_no_drafts() -> None:
    check_asked(["--arms", "draft@7", "autoregressive@8"], layers=8)
    with pytest.raises(UserError, match=r"'draft@8' .* has 1 to 7 in this mode, 8 in others"):
        check_asked(["--arms", "draft@8"], layers=8)
    check_asked(["--draft-layers", "7"], layers=8)
    with pytest.raises(UserError, match=r"8 draft layers: of 8 layers .* choose 1 to 7"):
        check_asked(["--draft-layers", "8"], layers=8)


def test_every_arm_of_the_table_can_be_asked_for() -> None:
    assert tuple(resolve(parse(["--arms", *NAMES])).arms) == NAMES


def test_how_a_run_is_spread_is_no_part_of_its_identity() -> None:
    config = EvaluateConfig()
    spread = dataclasses.replace(
        config, cluster=dataclasses.replace(config.cluster, workers=7, max_batch_size=2)
    )
    assert identity(resolve(config)) == identity(resolve(spread))
