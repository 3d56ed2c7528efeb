"""A collection's workers are checked before their first placement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.collect import CollectConfig, _shared, prepare
from rsd.cluster.collect import CollectionPlan, CollectionRun
from rsd.cluster.crew import RunStoppedError
from rsd.collection import Store
from rsd.envs.assets import ResolvedAssets

pytestmark = [pytest.mark.usefixtures("ray_here"), pytest.mark.timeout(240)]


def without_assets(plan: CollectionPlan) -> CollectionPlan:
    absent = ResolvedAssets("official", Path("/nowhere/assets"), "", "")
    return replace(plan, worker=replace(plan.worker, assets=absent))


def with_other_code(plan: CollectionPlan) -> CollectionPlan:
    return replace(plan, code={**plan.code, "source_sha256": "0" * 64})


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        (without_assets, "cannot run episodes: .*/nowhere/assets"),
        (with_other_code, "runs other code than the driver"),
    ],
)
def test_a_node_that_cannot_collect_stops_the_collection_before_a_placement(
    spoilt: Callable[[CollectionPlan], CollectionPlan], told: str, tmp_path: Path
) -> None:
    config = CollectConfig(tmp_path, tasks=(0,), demos=1, assets="lite", workers=1)
    plan = prepare(config)
    store = Store(tmp_path, _shared(config, plan), False)
    run = CollectionRun(spoilt(plan), store, print)
    with pytest.raises(RunStoppedError, match=told):
        run.run(lambda: False, lambda standings: None)
    assert not run.costs
    store.close()
