"""The made-up run that reading is measured on is a run as the books write it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
from made_up_runs import key, result, write

from rsd import books
from rsd.summary import benchmark
from rsd.summary.compute import summarise


def test_a_made_up_run_is_read_as_a_real_one(tmp_path: Path) -> None:
    benchmark.make_run(tmp_path / "made-up", 300, 64)
    output = str(tmp_path / "made-up")
    real = tmp_path / "real"
    write(real, [result(key(0))])
    for folder in (books.EPISODES, books.CHUNKS):
        (part,) = (real / folder).iterdir()
        made_up = sorted((tmp_path / "made-up" / folder).iterdir())
        assert len(made_up) == 5
        for own in made_up:
            assert pq.read_schema(own).equals(pq.read_schema(part), check_metadata=True)
    summary = summarise(output)
    assert (summary.episodes, [arm.cost.chunks for arm in summary.arms]) == (300, [3000, 3000])
    first = summary.arms[1].acceptance[0]
    assert first.rate and first.majority_rate and first.whole_rate
    assert first.whole_rate < first.majority_rate < first.rate
    assert summary.pairs[0].comparison.pairs == 150


def test_an_operation_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    benchmark.make_run(tmp_path, 20, 10)
    cost = benchmark.measure("resume", benchmark.resume, str(tmp_path))
    assert cost.cpu_s > 0 and 10e6 < cost.peak_rss_bytes < 1e9
    assert set(benchmark.OPERATIONS) == {"summary", "resume"}
