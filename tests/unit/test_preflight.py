from __future__ import annotations

from pathlib import Path

import pytest

from rsd.config import parse
from rsd.errors import UserError
from rsd.models import inspect_policy
from rsd.models.checkpoint import bundled, inspect
from rsd.outputs import lasting
from rsd.preflight import open_books, output_of, prepare

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
    with pytest.raises(UserError, match="policy 'toy' was trained without a regression head"):
        prepare(parse([*TOY, "run", "--arms", "regression"]))


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
