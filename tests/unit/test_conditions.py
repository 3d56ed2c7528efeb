"""What makes two recordings the same experiment, and how a disagreement is told."""

from __future__ import annotations

from typing import Any

import pytest
from made_up_runs import RUN

from rsd import conditions
from rsd.conditions import differences, of_collection, of_rows, of_run, of_training, require_same
from rsd.errors import UserError
from rsd.provenance import PACKAGES


def with_packages(**versions: str) -> dict[str, Any]:
    return {**RUN, "packages": {**RUN["packages"], **versions}}


@pytest.mark.parametrize("package", ["hf-libero", "mujoco", "numpy", "robosuite", "torch"])
def test_a_package_that_makes_rows_decides(package: str) -> None:
    changed = with_packages(**{package: "0.0.1"})
    for of in (of_rows, of_run):
        (found,) = differences(of(RUN), of(changed))
        assert (found.name, found.after) == (f"packages.{package}", "0.0.1")


@pytest.mark.parametrize("package", ["transformers", "pandas", "ray", "pyarrow"])
def test_a_package_that_makes_none_does_not(package: str) -> None:
    assert of_run(RUN) == of_run(with_packages(**{package: "0.0.1"}))


def test_builds_of_one_version_decide_alike() -> None:
    assert of_rows(with_packages(torch="2.13.0+cpu")) == of_rows(
        with_packages(torch="2.13.0+cu130")
    )


def test_whatever_decides_is_recorded() -> None:
    assert {*conditions.ROW_PACKAGES, *conditions.TRAINING_PACKAGES} <= {*PACKAGES}


def test_a_table_needs_less_agreement_than_a_resume() -> None:
    """Runs of other worlds stand in one table; a run has its worlds once."""
    changed = {**RUN, "config": {**RUN["config"], "suites": {"libero_spatial": [0]}}}
    assert of_rows(RUN) == of_rows(changed)
    assert [each.name for each in differences(of_run(RUN), of_run(changed))] == [
        "config.suites.libero_spatial"
    ]


def test_a_simulator_decides_collections_and_torch_does_not() -> None:
    before = of_collection({"packages": {"mujoco": "3.2.3", "torch": "2.12"}})
    after = of_collection({"packages": {"mujoco": "3.3.0", "torch": "2.13"}})
    assert [each.name for each in differences(before, after)] == ["packages.mujoco"]


def test_what_computes_decides_trainings_and_a_simulator_does_not() -> None:
    before = of_training({"steps": 6}, {"torch": "2.12", "mujoco": "3.2.3"})
    after = of_training({"steps": 6}, {"torch": "2.13", "mujoco": "3.3.0"})
    assert [each.name for each in differences(before, after)] == ["packages.torch"]


def test_every_difference_is_told_at_once() -> None:
    before = {"config": {"seed": 0, "trials": [1, 2]}, "renderer": None}
    after = {"config": {"seed": 1, "trials": (1, 2)}, "renderer": "egl"}
    with pytest.raises(UserError) as told:
        require_same(before, after, "runs/a was recorded otherwise")
    assert str(told.value) == (
        'runs/a was recorded otherwise:\n  seed: 0 -> 1\n  renderer: (absent) -> "egl"'
    )


def test_what_was_not_recorded_agrees_with_nothing_but_itself() -> None:
    assert not differences({"arithmetic": None}, {})
    assert differences({}, {"arithmetic": "x86-64-v3"})
    assert not differences({}, {"arithmetic": "x86-64-v3"}, later=["arithmetic"])
