"""vla-eval's own recorder and exporter write the results of an evaluation, without a simulator.

python record_with_vla_eval.py FOLDER: two suites of two tasks and three episodes each, as its
orchestrator leads them through the queue of two shards. One episode ends in an error; another one
does and is tried again, with success; one of the second suite is left unfinished by a shard that
was killed, and two tasks of that suite have another status each.
"""

import json
import sys
from pathlib import Path

from vla_eval import __version__
from vla_eval.config import EvalConfig
from vla_eval.recording import EpisodeRecorder, RecordingStore, db_path_for_eval
from vla_eval.results.export import export_eval

EVAL, EPISODES = "ab12", 3
TASKS = {
    "libero_spatial": [
        "pick up the black bowl between the plate and the ramekin and place it on the plate",
        "pick up the black bowl next to the ramekin and place it on the plate",
    ],
    "libero_goal": ["open the middle drawer of the cabinet", "put the bowl on the stove"],
}


def record(folder: Path, suite: str, unfinished: int) -> None:
    config = EvalConfig(
        benchmark="vla_eval.benchmarks.libero.benchmark:LIBEROBenchmark",
        subname=suite,
        episodes_per_task=EPISODES,
        params={"suite": suite, "seed": 7},
    )
    name = config.resolved_name()
    eval_id = f"{EVAL}-{name}"
    store = RecordingStore(db_path_for_eval(folder, EVAL))
    store.set_run_metadata(EVAL, {})
    store.upsert_eval_metadata(
        eval_id,
        name,
        {
            "benchmark": name,
            "mode": config.mode,
            "config": config.to_dict(),
            "metric_keys": {"success": "mean"},
            "harness_version": __version__,
            "server_info": {"model_server": "OFT"},
        },
    )
    items = [(task, episode) for task in range(2) for episode in range(EPISODES)]
    for shard in range(2):
        store.set_shard_complete(eval_id, shard, 2, complete=False)
    store.seed_queue(eval_id, [task for task, _ in items])
    for shard in (0, 1):
        while (item := store.claim(eval_id, shard, None, 2)) is not None:
            task, episode = items[item]
            if item >= len(items) - unfinished:
                break
            if (task, episode) == (0, 1):
                close(store, folder, eval_id, name, suite, task, episode, "error", 1)
            status = "error" if (task, episode) == (1, 0) else "fail" if episode == 2 else "success"
            close(store, folder, eval_id, name, suite, task, episode, status, 2)
            store.finish(eval_id, item)
    store.close()


def close(store, folder, eval_id, name, suite, task, episode, status, attempt) -> None:
    instruction = TASKS[suite][task]
    recorder = EpisodeRecorder(
        store=store,
        sid="session",
        eid=f"{suite}-{task}-{episode}-{attempt}",
        eval_id=eval_id,
        output_dir=folder / "episodes",
        filename_stem="{benchmark_safe_name}/task{task_idx:04d}_ep{episode_id:04d}_{status}",
        context={
            "name": instruction,
            "suite": suite,
            "task_id": task,
            "episode_idx": episode,
            "task_idx": task,
        },
        filename_context={"benchmark_safe_name": name, "episode_id": episode},
    )
    steps = 0 if status == "error" else 80 + episode
    for step in range(steps):
        recorder.record_step(reward=0.0, done=step == steps - 1, success=status == "success")
    failed = status == "error"
    recorder.close(
        status=status,
        metrics={"success": status == "success"},
        task_name=instruction,
        episode_id=episode,
        steps=steps,
        elapsed_sec=0.0 if failed else 4.5,
        failure_reason="timeout" if failed else None,
        failure_detail="timeout=30.0s: the server went away" if failed else None,
    )


folder = Path(sys.argv[1])
for number, suite in enumerate(TASKS):
    record(folder, suite, unfinished=number)
print(json.dumps(export_eval(folder, EVAL), default=str))
