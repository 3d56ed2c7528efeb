"""`rsd benchmark remote`: every way to the policy, and what travels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rsd.commands import call

pytest.importorskip("websockets", reason="pip install -r requirements-remote.txt")


def test_every_way_to_a_policy_is_measured(tmp_path: Path) -> None:
    figures = tmp_path / "remote.json"
    words = ["remote", "--chunks", "10", "--callers", "1", "2", "--json", str(figures)]
    assert call("benchmark", words) == 0
    rows = json.loads(figures.read_text())["remote"]
    assert [(row["way"], row["callers"]) for row in rows] == [
        (way, callers) for way in ("in-process", "openpi", "vla-eval") for callers in (1, 2)
    ]
    frames = 2 * 256 * 256 * 3
    for row in rows:
        assert 0 < row["median_ms"] <= row["p95_ms"]
        travels = row["way"] != "in-process"
        assert (frames < row["sent_bytes"] < frames + 5000) == travels
        assert (8 * 7 * 4 < row["received_bytes"] < 2000) == travels
