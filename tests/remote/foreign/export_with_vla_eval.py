"""vla-eval's own recorder and exporter are given the episodes of aggregates that somebody else
made; prints what they make of those, by file name.

python export_with_vla_eval.py BODIES.json, in a folder of its own
"""

import json
import sys
from pathlib import Path

from vla_eval.recording import RecordingStore
from vla_eval.results.export import export_db, print_export_summary

OWN = ("sid", "eid", "episode_id", "metrics", "steps", "elapsed_sec")
REASONS = ("failure_reason", "failure_detail")
METADATA = ("benchmark", "mode", "config", "metric_keys", "server_info")

bodies = json.loads(Path(sys.argv[1]).read_text())
store = RecordingStore("given.sqlite")
with store.transaction():
    for body in bodies.values():
        metadata = {name: body[name] for name in METADATA}
        store.upsert_eval_metadata(body["eval_id"], body["benchmark"], metadata)
        for task in body["tasks"]:
            for episode in task["episodes"]:
                context = {k: v for k, v in episode.items() if k not in (*OWN, *REASONS)}
                store.upsert_episode_result(
                    **{name: episode[name] for name in OWN},
                    **{name: episode.get(name) for name in REASONS},
                    eval_id=body["eval_id"],
                    task_name=task["task"],
                    status="not read",
                    context=context,
                    jsonl_path="",
                )
store.close()
made = export_db(Path("given.sqlite"), Path())
print_export_summary(list(bodies.values()))
print(json.dumps({f"{body['benchmark']}_aggregate.json": body for body in made}))
