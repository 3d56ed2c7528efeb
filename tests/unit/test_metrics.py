"""Two runs on one cluster are told apart."""

from __future__ import annotations

from rsd.cluster.metrics import Metrics, QueueLength


def test_every_metric_carries_the_id_of_its_run() -> None:
    for run in ("run-a", "run-b"):
        made = [*vars(Metrics(run)).values(), *vars(QueueLength(run, "replica-0")).values()]
        assert len(made) == 4
        for metric in made:
            assert metric.info["default_tags"]["run_id"] == run
            assert "run_id" in metric.info["tag_keys"]
