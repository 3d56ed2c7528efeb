"""Cut some worlds out of a real run, all arms and chunks of them:

    python tests/data/cut.py results/goal tests/data/libero_goal --tasks 3 5 8 --trials 0 1 2 3 4 5

What a run of these worlds alone would have written, but for the times of its sessions: rows are
copied as they are, and run.json but for the tasks, trials and the number of episodes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsd.books import CHUNKS, EPISODES, committed, read_run


def chosen(table: pa.Table, tasks: list[int], trials: list[int]) -> pa.Table:
    of_tasks = pc.is_in(table["task_id"], pa.array(tasks))
    return table.filter(pc.and_(of_tasks, pc.is_in(table["trial"], pa.array(trials))))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("output", type=Path)
    parser.add_argument("--tasks", type=int, nargs="+", required=True)
    parser.add_argument("--trials", type=int, nargs="+", required=True)
    asked = parser.parse_args()
    run, parts = read_run(asked.run), committed(asked.run)
    rows = {EPISODES: parts.episodes(), CHUNKS: parts.all_chunks()}
    for below, table in rows.items():
        path = asked.output / below / "part-00000.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = chosen(table, asked.tasks, asked.trials)
        pq.write_table(kept, path, compression="zstd", compression_level=19)
        run["planned_episodes"] = len(kept) if below == EPISODES else run["planned_episodes"]
    run["config"] |= {"tasks": asked.tasks, "trials": asked.trials}
    (asked.output / "run.json").write_text(json.dumps(run, indent=2) + "\n")


if __name__ == "__main__":
    main()
