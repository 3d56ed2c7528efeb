"""Studies: one base, and factors that each change one thing of it."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from rsd.ablation import curves, page, study_parquet, table
from rsd.books import committed, holds_a_run
from rsd.commands import DONE, INTERRUPTED, ablate
from rsd.config import ClusterConfig, OutputConfig
from rsd.console import make_console
from rsd.envs.toy import ToyEnvironment
from rsd.episode import run_episode
from rsd.errors import UserError
from rsd.models.toy import ToyPolicy
from rsd.preflight import RunPlan, open_books, output_of
from rsd.presentation.ablations import picture
from rsd.presentation.figures import FORMATS
from rsd.protocols import get_protocol
from rsd.study import Cell, _cell_name, cells_of, read_study
from rsd.summary.compute import summarise
from rsd.types import Outcome

BASE = "policy: toy; task_suite: [toy]; tasks: [0, 1]; num_trials: 2; arms: speculative"
FACTORS = {
    "layers": "[1, 2]",
    "rule": "[relaxed=1, action_tolerance=1mm]",
    "draft_layers": "[1]",
    "policy": "[toy-nan]",
    "replan": "[2, 4]",
    "delay": "[2, 5]",
    "arms": "[autoregressive, parallel@2]",
}


def written(folder: Path, factors: dict[str, str], base: str = BASE) -> Path:
    """A study's file."""
    lines = ["base:", *(f"  {line}" for line in base.split("; "))]
    lines += ["factors:", *(f"  {name}: {levels}" for name, levels in factors.items())]
    path = folder / "study.yaml"
    path.write_text("\n".join(lines))
    return path


def cells(folder: Path, factors: dict[str, str], base: str = BASE) -> list[Cell]:
    study = read_study(written(folder, factors, base))
    return cells_of(study, OutputConfig(str(folder / "study")), ClusterConfig())


def simulate(run: RunPlan, outcome: Callable[[str, int, int], Outcome] | None = None) -> None:
    """A cell without Ray; with the outcomes of (arm, task, trial) where they are given."""
    config = run.config.output
    resumed = dataclasses.replace(config, resume=True)
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, output=resumed))
    policy = ToyPolicy(run.config.policy.policy)
    with open_books(run, lambda line: None) as books:
        for key in run.keys:
            if key in books.recorded():
                continue
            env = ToyEnvironment(key.suite, key.task_id, None, "none", ToyPolicy.images)
            done = run_episode(
                env,
                key,
                run.arms[key.arm],
                lambda request: policy.act([request])[0],
                40,
                run.protocol.replan_steps,
            )
            if outcome is not None:
                told = outcome(key.arm, key.task_id, key.trial)
                done = dataclasses.replace(done, outcome=told)
            books.add(done, attempts=1, worker="w", node="n")


# -- what is asked for ---------------------------------------------------------------------------


def test_levels_that_only_name_another_arm_share_the_run_of_the_base(tmp_path: Path) -> None:
    made = {cell.name: [point.arm for point in cell.points] for cell in cells(tmp_path, FACTORS)}
    assert made == {
        "base": [
            "speculative",
            "speculative@1",
            "speculative@2",
            "speculative-relaxed=1",
            "speculative-action_tolerance=1mm",
            "speculative+delay=2",
            "speculative+delay=5",
            "autoregressive",
            "parallel@2",
        ],
        "draft_layers-1": ["speculative"],
        "policy-toy-nan": ["speculative"],
        "replan-2": ["speculative"],
        "replan-4": ["speculative"],
    }


def test_a_level_changes_one_thing_and_keeps_the_rest_of_the_base(tmp_path: Path) -> None:
    base = "policy: toy; task_suite: toy; arms: speculative-relaxed=2@2+delay=3+hold; seed: 4"
    factors = {"layers": "[1]", "rule": "[exact]", "delay": "[1]", "replan": "[2]"}
    (own, replan) = cells(tmp_path, factors, base)
    assert [point.arm for point in own.points[1:]] == [
        "speculative-relaxed=2@1+delay=3+hold",
        "speculative@2+delay=3+hold",
        "speculative-relaxed=2@2+delay=1+hold",
    ]
    assert replan.run.protocol.name == "oft+replan=2" and list(replan.run.arms) == [
        own.points[0].arm
    ]
    assert {key.seed for cell in (own, replan) for key in cell.run.keys} == {4}


def test_a_flag_of_the_base_reaches_its_arm(tmp_path: Path) -> None:
    base = "policy: toy; task_suite: toy; arms: speculative; rule: relaxed=1; layers: 2"
    (own,) = cells(tmp_path, {"rule": "[exact]"}, base)
    assert [point.arm for point in own.points] == ["speculative-relaxed=1@2", "speculative@2"]
    assert own.run.arms["speculative@2"].decoding.rule == "exact"


def test_every_cell_acts_in_the_same_worlds(tmp_path: Path) -> None:
    worlds = {
        frozenset((key.suite, key.task_id, key.trial) for key in cell.run.keys)
        for cell in cells(tmp_path, FACTORS)
    }
    assert len(worlds) == 1


def test_levels_are_known_by_what_they_are(tmp_path: Path) -> None:
    by_name = {cell.name: cell for cell in cells(tmp_path, FACTORS)}
    base = by_name["base"].values(by_name["base"].points[0])
    assert base == {
        "arms": "speculative",
        "layers": 3,
        "draft_layers": 2,
        "rule": "exact",
        "policy": "toy",
        "replan": 8,
        "protocol": "oft",
        "delay": 0,
    }
    (replanned,) = by_name["replan-4"].points
    assert by_name["replan-4"].values(replanned) == {**base, "replan": 4}


@pytest.mark.parametrize(
    ("factors", "told"),
    [
        ({"layer": "[1]"}, "unknown factor in .*'layer'; did you mean 'layers'"),
        ({}, "there are no factors; name one of arms, layers"),
        ({"layers": "[]"}, "factor layers has no level"),
        ({"layers": ""}, "factor layers has no level"),
        ({"layers": "[1, null]"}, "a level of layers is a word or a number"),
        ({"layers": "[4]"}, r"cell base: arm 'speculative@4' asks for 4 layers.* has 1 to 3"),
        ({"layers": "[0]"}, "factor layers, level 0: '0' is no whole number from 1 on"),
        ({"layers": "[1, 1]"}, "layers 1 and layers 1 are the same cell"),
        ({"layers": "[1, 3]"}, "factor layers, level 3: that is the base itself"),
        ({"layers": "[2]", "arms": "[speculative@2]"}, "layers 2 and arms speculative@2 are the"),
        ({"delay": "[0]"}, "factor delay, level 0: that is the base itself"),
        ({"delay": "[21]"}, "factor delay, level 21: .* from 0 to 20"),
        ({"delay": "[measured]"}, "'measured' is no number of control steps"),
        ({"rule": "[relaxd=1]"}, "factor rule, level relaxd=1: unknown .* did you mean 'relaxed'"),
        ({"rule": "[exact]"}, "that is the base itself"),
        ({"draft_layers": "[3]"}, "of 3 layers a draft has all but the finest; choose 1 to 2"),
        ({"draft_layers": "[2]"}, "factor draft_layers, level 2: that is the base itself"),
        ({"replan": "[9]"}, "policy 'toy' decides 8 steps at a time; choose 1 to 8"),
        ({"replan": "[8]"}, "factor replan, level 8: that is the base itself"),
        ({"policy": "[tay]"}, "cell policy-tay: "),
        ({"policy": "[toy]"}, "factor policy, level toy: that is the base itself"),
        ({"protocol": "[opnpi]"}, "unknown protocol 'opnpi'; did you mean 'openpi'"),
        ({"arms": "[paralel]"}, "unknown arm 'paralel'; did you mean 'parallel'"),
        ({"arms": "[regression]"}, "arm 'regression': policy 'toy' decodes speculative"),
    ],
)
def test_factors_that_mean_nothing_are_told(
    factors: dict[str, str], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        cells(tmp_path, factors)


@pytest.mark.parametrize(
    ("base", "factor", "told"),
    [
        ("policy: toy", "layers", "a study has one base cell; name its arm"),
        ("policy: toy; latency: 3", "layers", "'latency'"),
        ("polcy: toy", "layers", "unknown setting in .*'polcy'; did you mean 'policy'"),
        ("workers: 3", "layers", "unknown setting in .*'workers'"),
        ("arms: autoregressive", "draft_layers", "arm 'autoregressive' drafts nothing"),
        ("arms: native", "layers", "a policy without codes decodes no layers"),
        ("arms: parallel", "rule", "arm 'parallel' knows no rule 'relaxed=1'"),
        ("arms: speculative+delay=measured", "layers", "no second run is as late"),
    ],
)
def test_a_base_that_is_none_is_told(base: str, factor: str, told: str, tmp_path: Path) -> None:
    level = "[relaxed=1]" if factor == "rule" else "[1]"
    with pytest.raises(UserError, match=told):
        cells(tmp_path, {factor: level}, base)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("factor:\n  layers: [1]", "unknown section in .*'factor'; did you mean 'factors'"),
        ("base: toy", "expected `setting: value` lines"),
        ("base:\n  arms: {a: {b: c}}", "a setting is a value or a list of values"),
        ("base:\n  arms: a\nbase:\n  arms: b", "'base' is there twice"),
    ],
)
def test_a_file_that_is_no_study_is_told(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=told):
        read_study(path)


def test_cells_of_folders_with_one_name_have_folders_of_their_own(tmp_path: Path) -> None:
    assert _cell_name("policy", "/a/b c/", {}) == "policy-a-b-c"
    assert _cell_name("policy", "a-b-c", {"policy-a-b-c": 1}) == "policy-a-b-c-2"
    assert len(_cell_name("policy", "/x" * 200, {})) < 80


# -- horizons ------------------------------------------------------------------------------------


def test_a_protocol_may_have_another_horizon_and_its_name_says_so() -> None:
    changed = get_protocol("openpi+replan=3")
    expected = dataclasses.replace(get_protocol("openpi"), name="openpi+replan=3", replan_steps=3)
    assert changed == expected


@pytest.mark.parametrize("steps", ["0", "-1", "x", "", "²"])
def test_a_horizon_that_is_none_is_told(steps: str) -> None:
    with pytest.raises(UserError, match=r"behind \+replan= comes a number of control steps"):
        get_protocol(f"oft+replan={steps}")


# -- what it says --------------------------------------------------------------------------------


SOLVED = {"speculative": 8, "speculative@1": 4, "speculative@2": 6}
TRIALS = "policy: toy; task_suite: toy; tasks: 0; num_trials: 10; arms: speculative"


@pytest.fixture()
def study(tmp_path: Path) -> list[Cell]:
    """10 worlds: the base solves 8, one layer 4, two 6; with a horizon of 2 one is an error and
    the base's arm solves 7 of the others."""
    made = cells(tmp_path, {"layers": "[2, 1]", "replan": "[2]"}, TRIALS)
    base, replan = made
    simulate(base.run, lambda arm, task, trial: "success" if trial < SOLVED[arm] else "timeout")

    def horizon(arm: str, task: int, trial: int) -> Outcome:
        return "error" if trial == 0 else "success" if trial < 8 else "timeout"

    simulate(replan.run, horizon)
    return made


def test_a_curve_is_in_order_and_its_differences_are_from_the_base(study: list[Cell]) -> None:
    layers, replan = curves(study)
    assert [(level.value, level.is_base) for level in layers.levels] == [
        (1, False),
        (2, False),
        (3, True),
    ]
    rates = [level.arm.success for level in layers.levels]
    assert [(rate.successes, rate.finished) for rate in rates] == [(4, 10), (6, 10), (8, 10)]
    differences = [
        None if level.against is None else level.against.comparison.difference
        for level in layers.levels
    ]
    assert differences == [pytest.approx(-0.4), pytest.approx(-0.2), None]
    lowest = layers.levels[0].against
    assert lowest is not None
    one = lowest.comparison
    assert (one.only_first, one.only_second, one.p_value) == (4, 0, pytest.approx(0.125))
    assert lowest.p_adjusted == pytest.approx(3 * 0.125)  # Holm, over three levels
    two, whole = replan.levels
    assert (two.value, whole.value, two.arm.errors) == (2, 8, 1)
    assert two.against is not None  # of another run, in the same worlds
    assert (two.against.comparison.pairs, two.against.comparison.difference) == (9, 0.0)


def test_passes_of_a_curve_are_those_of_its_cell(study: list[Cell]) -> None:
    layers, _ = curves(study)
    by_arm = {arm.arm: arm.cost for arm in summarise(output_of(study[0].run)).arms}
    assert [level.arm.cost for level in layers.levels] == [
        by_arm[name] for name in ("speculative@1", "speculative@2", "speculative")
    ]
    assert layers.levels[0].arm.cost.passes_mean == 1.0  # one layer is one pass


def test_worlds_of_another_protocol_are_never_paired(tmp_path: Path) -> None:
    made = cells(tmp_path, {"protocol": "[openpi, oft+replan=4]"}, TRIALS)
    for cell in made:
        simulate(cell.run)
    (curve,) = curves(made)
    paired = {level.cell: level.against is not None for level in curve.levels}
    assert paired == {"base": False, "protocol-openpi": False, "protocol-oft-replan=4": True}


def test_the_parquet_has_every_episode_once_with_its_levels(study: list[Cell]) -> None:
    rows = pq.read_table(io.BytesIO(study_parquet(study))).to_pandas()
    assert len(rows) == sum(len(cell.run.keys) for cell in study) == 40
    assert not rows.duplicated(["cell", "arm", "task_id", "trial"]).any()
    solved = rows[rows["outcome"] == "success"].groupby(["factor_layers", "factor_replan"]).size()
    assert solved.to_dict() == {(1, 8): 4, (2, 8): 6, (3, 2): 7, (3, 8): 8}
    base = rows[rows["factor"].isna()]
    assert len(base) == 10 and set(base["cell"]) == {"base"}
    chunks = committed(output_of(study[0].run)).all_chunks(["arm", "passes"]).to_pandas()
    mine = chunks[chunks["arm"] == "speculative"]["passes"].sum()
    assert base["passes"].sum() == mine
    assert base["factor_rule"].unique().tolist() == ["exact"]
    assert pd.api.types.is_integer_dtype(rows["factor_delay"])


def test_the_table_says_what_the_curve_says(study: list[Cell]) -> None:
    layers, replan = curves(study)
    head, rule, *rows = table(layers)
    assert head.count("|") == rule.count("|") == rows[0].count("|")
    assert rows[0].startswith("| 1 | 40.0 (16.8 to 68.7) | -40.0 (")
    assert rows[2].startswith("| **3** | 80.0 (49.0 to 94.3) | base |")
    text = page([layers, replan], FORMATS)
    assert "![layers](layers.png)" in text and "## replan" in text


def test_every_factor_has_its_picture(study: list[Cell]) -> None:
    for curve in curves(study):
        assert picture(curve, "png").startswith(b"\x89PNG")
        assert picture(curve, "svg").startswith(b"<?xml")
        assert picture(curve, "svg") == picture(curve, "svg")


# -- the command ---------------------------------------------------------------------------------


def ablated(folder: Path, study: Path, *words: str) -> int:
    return ablate.main([str(study), "--output", str(folder), *words], make_console())


@pytest.fixture()
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are simulated in this process."""

    def carry_out(run: RunPlan, console: object, again: str) -> int:
        simulate(run)
        return DONE

    monkeypatch.setattr(ablate, "carry_out", carry_out)


def test_a_dry_run_lists_cells_and_episodes_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablated(tmp_path / "study", written(tmp_path, FACTORS), "--dry-run") == DONE
    told = capsys.readouterr().out
    assert "base: 36 episodes, the base, layers 1, layers 2" in told
    assert "5 cells, 13 arms, 52 episodes" in told
    assert "replan-2: about 0:00:" in told and "time: about 0:0" in told
    assert not (tmp_path / "study").exists()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, {"layers": "[1]"})
    for words in ([], ["--resume"]):
        with pytest.raises(UserError, match="not empty and holds no study"):
            ablated(tmp_path, file, *words)


def test_an_interrupted_study_is_resumed_to_one_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_ray: None
) -> None:
    file, folder = written(tmp_path, {"replan": "[2]", "layers": "[1]"}), tmp_path / "study"
    simulated = ablate.carry_out
    codes = iter([DONE, INTERRUPTED])

    def interrupted(run: RunPlan, console: object, again: str) -> int:
        code = next(codes)
        if code == DONE:
            simulated(run, console, again)  # type: ignore[arg-type]
        assert again.endswith(f"--output {folder} --resume")
        return code

    monkeypatch.setattr(ablate, "carry_out", interrupted)
    assert ablated(folder, file) == INTERRUPTED
    assert holds_a_run(str(folder / "cells" / "base"))
    assert not (folder / "study.parquet").exists()
    with pytest.raises(UserError, match="holds a study; use --resume"):
        ablated(folder, file)
    monkeypatch.setattr(ablate, "carry_out", simulated)
    assert ablated(folder, file, "--resume") == DONE
    rows = pq.read_table(folder / "study.parquet").to_pandas()
    assert len(rows) == 12 and not rows.duplicated(["cell", "arm", "task_id", "trial"]).any()
    assert {path.name for path in folder.iterdir()} >= {
        *(f"{factor}.{format}" for factor in ("layers", "replan") for format in FORMATS),
        "study.md",
        "study.json",
    }
    before = (folder / "study.parquet").read_bytes()
    assert ablated(folder, file, "--resume") == DONE  # nothing left: drawn again
    assert (folder / "study.parquet").read_bytes() == before


def test_a_study_that_changed_says_what_changed(tmp_path: Path, without_ray: None) -> None:
    folder = tmp_path / "study"
    assert ablated(folder, written(tmp_path, {"layers": "[1]"})) == DONE
    changed = written(tmp_path, {"layers": "[1, 2]"})
    with pytest.raises(
        UserError, match=r"another study.*\n  factors.layers: .* -> \[\"1\", \"2\"\]"
    ):
        ablated(folder, changed, "--resume")
    longer = written(tmp_path, {"layers": "[1]"})
    longer.write_text(longer.read_text().replace("num_trials: 2", "num_trials: 3"))
    with pytest.raises(UserError, match=r"base.num_trials: 2 -> 3"):
        ablated(folder, longer, "--resume")
    assert json.loads((folder / "study.json").read_text())["base"]["num_trials"] == 2


def test_a_cell_is_a_run_that_the_report_reads(tmp_path: Path, without_ray: None) -> None:
    folder = tmp_path / "study"
    ablated(folder, written(tmp_path, {"layers": "[1]"}))
    summary = summarise(*(str(path) for path in (folder / "cells").iterdir()))
    assert [arm.arm for arm in summary.arms] == ["speculative", "speculative@1"]


def test_a_study_wants_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name a folder for the study"):
        ablate.main([str(written(tmp_path, {"layers": "[1]"}))], make_console())
