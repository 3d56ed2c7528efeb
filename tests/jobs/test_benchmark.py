"""`rsd benchmark`: tables of tokeniser settings, chunks between two plans; what is not measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rsd.commands import call
from tests.made_up_demonstrations import made_up_demonstration, made_up_folder


def test_tokeniser_settings_are_compared_on_the_same_chunks(tmp_path: Path) -> None:
    from rsd.training.tokeniser import VARIANTS

    data = made_up_folder(tmp_path / "data", [made_up_demonstration(1)])
    figures = tmp_path / "tokeniser.json"
    settings = ["--data", str(data), "--tokeniser-steps", "10", "--json", str(figures)]
    assert call("benchmark", ["tokeniser", *settings]) == 0
    content = json.loads(figures.read_text())
    rows = {one["name"]: one["rows"] for one in content["tokenisers"]}
    assert list(rows) == list(VARIANTS) and content["chunks"] == 10
    for name, config in VARIANTS.items():
        assert [row["layers"] for row in rows[name]] == list(range(1, config.layers + 1))
        errors = [row["position_mm"] for row in rows[name]]
        if config.hidden == 0 and config.scaled:
            assert errors == sorted(errors, reverse=True), name
    dead = rows["chosen, naive"][1:]  # every layer but the first says the same, always
    assert {(row["used_levels"], row["off_majority"]) for row in dead} == {(1.0, 0.0)}


def test_what_is_no_model_of_codes_has_no_modes_to_compare(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("benchmark", ["decoding", "--policy", "toy"]) == 2
    assert "--policy toy: it is no model of codes" in capsys.readouterr().err


def test_arms_that_the_policy_cannot_decode_are_not_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arm, told in (
        (
            "regression",
            "'spatial' decodes speculative, autoregressive, parallel, draft, temporal only",
        ),
        ("speculative-relaxd=1", "did you mean 'relaxed'"),
        ("draft@6", "arm 'draft@6' asks for 6 layers; policy 'spatial' has 1 to 5 in this mode"),
    ):
        assert call("benchmark", ["decoding", "--arms", "autoregressive", arm]) == 2
        assert told in " ".join(capsys.readouterr().err.split())
    assert call("benchmark", ["decoding", "--draft-layers", "6"]) == 2
    assert "a draft has all but the finest; choose 1 to 5" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_policy_that_was_taught_one_rim_takes_it_and_mixes_nothing(tmp_path: Path) -> None:
    kept = {name: tmp_path / f"ambiguity.{name}" for name in ("json", "parquet", "svg")}
    arms = ["autoregressive", "speculative-sampling=0.5", "regression", "temporal-confident=0.9"]
    asked = ["--policy", "libero", "--tasks", "2", "--trials", "1", "--assets", "lite"]
    files = ["--json", kept["json"], "--rows", kept["parquet"], "--picture", kept["svg"]]
    assert call("benchmark", ["ambiguity", *asked, "--arms", *arms, *map(str, files)]) == 0
    content = json.loads(kept["json"].read_text())
    assert content["worlds"] == 1 and [each["arm"] for each in content["arms"]] == arms
    for each in content["arms"]:
        assert (each["mixed"]["successes"], each["mixed"]["finished"]) == (0, 1)
        assert each["other"]["successes"] == 0
    assert all(path.stat().st_size > 0 for path in kept.values())


def test_where_nothing_is_ambiguous_nothing_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    for asked, told in (
        (["--suite", "libero_object"], "solved by one rim only"),
        (["--suite", "libero_90"], "unknown suite with an expert 'libero_90'"),
        (["--trials", "51"], "--trials 51: a task has 50"),
        (["--picture", "chunks.jpg"], "--picture chunks.jpg: name a .svg or a .png"),
        (["--arms", "bins"], "arm 'bins': policy 'libero' decodes"),
    ):
        assert call("benchmark", ["ambiguity", "--policy", "libero", *asked]) == 2
        assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("what", ["ambiguity", "decoding"])
def test_an_arm_that_trusts_a_draft_needs_the_calibration_of_the_policy(
    what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = ["--policy", "spatial", "--arms", "temporal-confident=0.9"]
    assert call("benchmark", [what, *arms]) == 2
    assert "policy 'spatial' has no calibration" in " ".join(capsys.readouterr().err.split())


def test_a_gpu_to_predict_for_has_a_data_sheet(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("benchmark", ["decoding", "--predict", "H10"]) == 2
    assert "unknown device with a data sheet 'H10'; did you mean 'H100'" in " ".join(
        capsys.readouterr().err.split()
    )
