from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsd import calibration
from rsd.calibration import Calibration, Closeness, reliability
from rsd.config import parse
from rsd.envs import assets
from rsd.envs.assets import resolve
from rsd.errors import UserError
from rsd.models import PolicyInfo, inspect_policy
from rsd.models.small_vla.checkpoint import bundled, inspect
from rsd.outputs import lasting
from rsd.preflight import check_output, open_books, output_of, prepare
from rsd.types import Confidence

TOY = ["--task-suite", "toy", "--policy", "toy", "--resume", "--output"]


def test_a_run_below_the_home_folder_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    told: list[str] = []
    for _ in range(2):
        with open_books(prepare(parse([*TOY, "~/run"])), told.append) as books:
            run_id = books.run_id
    assert told == ["nothing is recorded in ~/run yet: this is a new run"]
    assert run_id in (tmp_path / "run" / "run.json").read_text()


@pytest.mark.parametrize("output", ["run", "~/run"])
def test_in_an_uploaded_working_folder_an_output_lies_below_the_home_folder(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded = tmp_path / "working_dir_files" / "pkg"
    uploaded.mkdir(parents=True)
    monkeypatch.chdir(uploaded)
    monkeypatch.setenv("HOME", str(tmp_path))
    run = prepare(parse([*TOY, output]))
    assert output_of(run) == lasting(output) == str(tmp_path / "run")
    assert lasting("s3://bucket/run") == "s3://bucket/run"


def test_a_regression_arm_needs_a_policy_that_has_the_head() -> None:
    with pytest.raises(UserError, match=r"policy 'toy' decodes .* only; leave the arm out"):
        prepare(parse([*TOY, "run", "--arms", "regression"]))


def told_of(monkeypatch: pytest.MonkeyPatch, info: PolicyInfo) -> None:
    """Whatever policy is named, that is known of it."""
    monkeypatch.setattr("rsd.preflight.inspect_policy", lambda spec: info)


def test_a_mode_that_a_policy_lacks_comes_with_the_way_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told_of(monkeypatch, PolicyInfo(modes=("regression",), other_modes="`rsd train` brings heads"))
    with pytest.raises(
        UserError, match=r"decodes regression only; .* \(`rsd train` brings heads\)"
    ):
        prepare(parse([*TOY, "run", "--arms", "speculative"]))


def test_a_lossy_rule_needs_tokens_that_are_the_grippers_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = [*TOY, "run", "--arms", "speculative-relaxed=1"]
    assert list(prepare(parse(asked)).arms) == ["speculative-relaxed=1"]
    told_of(monkeypatch, PolicyInfo(modes=("speculative",), layers=3))
    with pytest.raises(UserError, match=r"'speculative-relaxed=1': .* the gripper's alone"):
        prepare(parse(asked))
    assert all(inspect_policy(name).lossy_rules for name in bundled())


def calibrated(folder: Path, sha256: str, bias: float = 0.5) -> Confidence:
    """Leaves a calibration in a folder."""
    confidence = Confidence(("entropy",), (-1.0,), bias)
    found = reliability(np.array([0.2, 0.9]), np.array([False, True]))
    made = Calibration(sha256, Closeness(), confidence, found, {})
    (folder / calibration.FILE).write_text(made.content())
    return confidence


def test_trust_needs_a_draft_and_a_calibration_of_this_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found before any actor starts; what the draft is trusted by goes with the arm."""
    asked = parse([*TOY, "run", "--arms", "temporal-confident=0.8"])
    with pytest.raises(UserError, match=r"policy 'toy' decodes .* only; leave the arm out"):
        prepare(asked)
    told_of(monkeypatch, PolicyInfo("a" * 64, ("temporal",), layers=3, folder=tmp_path))
    with pytest.raises(UserError, match=r"no calibration.*`rsd calibrate --policy toy`"):
        prepare(asked)
    assert list(prepare(parse([*TOY, "run", "--arms", "temporal-random=0.5"])).arms)
    calibrated(tmp_path, "b" * 64)
    with pytest.raises(UserError, match="calibration of another checkpoint"):
        prepare(asked)
    confidence = calibrated(tmp_path, "a" * 64)
    (arm,) = prepare(asked).arms.values()
    assert arm.name == "temporal-confident=0.8"
    assert arm.decoding.trust is not None and arm.decoding.trust.confidence == confidence


def test_a_run_is_not_resumed_with_another_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_of(monkeypatch, PolicyInfo("a" * 64, ("temporal",), layers=3, folder=tmp_path))
    asked = parse([*TOY, str(tmp_path / "run"), "--arms", "temporal"])
    calibrated(tmp_path, "a" * 64)
    with open_books(prepare(asked), str):
        pass
    with open_books(prepare(asked), str):  # what is recorded is what is read again
        pass
    calibrated(tmp_path, "a" * 64, bias=0.6)
    with pytest.raises(UserError, match="bias"):
        check_output(prepare(asked))


def test_without_named_arms_a_policy_is_evaluated_in_what_it_decodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told_of(monkeypatch, PolicyInfo(modes=("regression",)))
    assert list(prepare(parse([*TOY, "run"])).arms) == ["regression"]
    with pytest.raises(UserError, match="decodes regression only"):
        prepare(parse([*TOY, "run", "--use-speculative-decoding", "true"]))


def test_a_server_must_be_given_up_before_the_replica_that_asks_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told_of(monkeypatch, PolicyInfo(answer_limit_s=120.0))
    native = [*TOY, "run", "--arms", "native"]
    with pytest.raises(UserError, match=r"120 s for an answer .* --decode-limit-s 120: its repl"):
        prepare(parse(native))
    assert prepare(parse([*native, "--decode-limit-s", "121"]))


def test_a_policy_is_not_sent_to_a_suite_that_it_cannot_act_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told_of(monkeypatch, PolicyInfo(suites=("libero_goal",), suites_only=True))
    with pytest.raises(UserError, match=r"no statistics of 'toy'.* those of libero_goal"):
        prepare(parse([*TOY, "run", "--arms", "native"]))


def test_a_policy_whose_name_may_move_is_evaluated_and_recorded_by_its_pinned_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told_of(monkeypatch, PolicyInfo(pinned="hf://owner/name@0123"))
    run = prepare(parse([*TOY, "run", "--arms", "native"]))
    assert run.config.policy.policy == "hf://owner/name@0123"


def test_an_expert_arm_needs_suites_that_an_expert_solves() -> None:
    with pytest.raises(UserError, match="no expert solves 'toy'; there are experts for libero_"):
        prepare(parse([*TOY, "run", "--arms", "expert"]))


def test_the_bundled_policy_of_the_suites_is_chosen() -> None:
    asked = {"spatial": ["libero_spatial"], "libero": ["libero_spatial", "libero_10"]}
    for name, suites in asked.items():
        run = prepare(parse(["--task-suite", *suites, "--assets", "lite"]))
        assert run.config.policy.policy == name
        assert run.policy == inspect_policy(name)
    with pytest.raises(UserError, match="no bundled policy was trained on all of libero_90"):
        prepare(parse(["--task-suite", "libero_90"]))


def test_bundled_policies_are_small_and_have_a_card() -> None:
    folders = [inspect(name).path for name in bundled()]
    assert folders and all((folder / "README.md").exists() for folder in folders)
    files = [file for folder in folders for file in folder.iterdir()]
    assert sum(file.stat().st_size for file in files) <= 30e6


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_dry_runs_check_of_the_output_leaves_nothing_behind(tmp_path: Path) -> None:
    new = tmp_path / "some" / "where"
    for flags in (TOY, [*TOY[:-2], "--output"]):
        check_output(prepare(parse([*flags, str(new)])))
    assert list(tmp_path.iterdir()) == []

    run = prepare(parse([*TOY, str(new)]))
    with open_books(run, print), pytest.raises(UserError, match="another process is writing"):
        check_output(run)
    before = content(tmp_path)
    check_output(run)
    assert content(tmp_path) == before


def test_a_dry_run_refuses_the_outputs_that_a_run_refuses(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    run = tmp_path / "run"
    open_books(prepare(parse([*TOY, str(run)])), print).close()
    before = content(tmp_path)
    without_resume = [*TOY[:-2], "--output"]
    for flags, told in (
        ([*without_resume, str(taken)], "is not empty"),
        ([*without_resume, str(run)], "is not empty"),
        ([*TOY, str(run), "--seed", "4"], "seed: 0 -> 4"),
        ([*TOY, str(taken / "notes.txt" / "run")], "not writable"),
        ([*TOY, "/proc/nowhere/run"], "not writable"),
        ([*TOY, str(tmp_path / ("long" * 99))], "too long"),
    ):
        with pytest.raises(UserError, match=told):
            check_output(prepare(parse(flags)))
    assert content(tmp_path) == before


@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME"])
@pytest.mark.parametrize("folder", ["a file", "/proc/nowhere"])
def test_a_cache_that_cannot_be_written_is_told(
    variable: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / folder))
    with pytest.raises(UserError, match=r"cannot use the cache .*; set XDG_CACHE_HOME"):
        prepare(parse(["--assets", "lite"]))


def test_without_any_home_the_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that runs as a number without a name."""

    def nobody(_: int) -> object:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(UserError, match=r"no place for the cache.*XDG_CACHE_HOME"):
        prepare(parse(["--assets", "lite"]))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_checkpoint_that_cannot_be_read_is_told(file: str, tmp_path: Path) -> None:
    """A file that even root cannot read."""
    for source in inspect("spatial").path.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    (tmp_path / file).unlink()
    (tmp_path / file).symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match=f"cannot use the checkpoint.*; mend that|{file}"):
        inspect(str(tmp_path))
    with pytest.raises(UserError, match=r"cannot read longlong.*too long"):
        inspect("long" * 99)


def test_assets_that_cannot_be_looked_at_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(assets, "check_cache", lambda: None)  # which may scan folders, too
    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(UserError, match=r"cannot use the assets: .*Permission denied"):
        resolve(str(tmp_path), ["libero_spatial"])


def test_arms_that_are_asked_for_are_never_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left out, they are what the policy can; named, they are refused where it cannot."""
    (tmp_path / "a_policy_without_codes.py").write_text("def make(device):\n    return print\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = ["--policy", "a_policy_without_codes:make", "--task-suite", "toy"]
    assert list(prepare(parse(own)).arms) == ["native"]
    with pytest.raises(UserError, match="arm 'autoregressive'"):
        prepare(parse([*own, "--arms", "autoregressive", "speculative"]))


def test_a_policy_that_answers_one_by_one_is_asked_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_slow_policy.py").write_text("def make(device):\n    return print\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    sizes = {
        policy: prepare(parse(["--policy", policy, "--task-suite", "toy"])).batch_size
        for policy in ("toy", "a_slow_policy:make")
    }
    assert sizes["toy"] > 1 and sizes["a_slow_policy:make"] == 1
