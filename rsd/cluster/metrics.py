"""Prometheus metrics of a run, through Ray's own exporter."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from rsd.types import DecodeTrace, EpisodeResult

RUN_ID = "run_id"
LATENCY_BOUNDARIES_S = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]


class Metrics:
    """What the driver counts; replicas report `rsd_queue_length` themselves. All carry the run's
    id: one cluster may hold several runs."""

    def __init__(self, run_id: str) -> None:
        self._episodes = Counter(
            "rsd_episodes", "Recorded episodes", (RUN_ID, "arm", "suite", "outcome")
        )
        self._remaining = Gauge(
            "rsd_episodes_remaining", "Episodes still to be recorded", (RUN_ID,)
        )
        self._latency = Histogram(
            "rsd_chunk_latency_seconds",
            "From a request's arrival at a replica to its actions",
            LATENCY_BOUNDARIES_S,
            (RUN_ID, "arm"),
        )
        for metric in (self._episodes, self._remaining, self._latency):
            metric.set_default_tags({RUN_ID: run_id})

    def record(self, result: EpisodeResult, remaining: int) -> None:
        """Count one recorded episode."""
        key = result.key
        tags = {"arm": key.arm, "suite": key.suite, "outcome": result.outcome}
        self._episodes.inc(1, tags)
        self._remaining.set(remaining)
        for chunk in result.chunks:
            if chunk.trace.is_decode:
                self._latency.observe(latency_s(chunk.trace), {"arm": key.arm})


class QueueLength:
    """What a replica reports."""

    def __init__(self, run_id: str, replica: str) -> None:
        self._gauge = Gauge(
            "rsd_queue_length", "Requests that wait in a replica", (RUN_ID, "replica")
        )
        self._gauge.set_default_tags({RUN_ID: run_id, "replica": replica})

    def __call__(self, length: int) -> None:
        self._gauge.set(length)


def latency_s(trace: DecodeTrace) -> float:
    """Queue and device time of one request."""
    return trace.queue_s + trace.decode_s
