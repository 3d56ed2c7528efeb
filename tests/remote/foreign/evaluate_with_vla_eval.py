"""`vla-eval run` with its own LIBERO benchmark against a server, on lite assets or a folder's; run
by RSD's interpreter, which finds vla-eval in the environment of its own.

python evaluate_with_vla_eval.py SITE_PACKAGES PORT OUTPUT SUITE TASKS TRIALS ASSETS [MAX_STEPS]
"""

import json
import os
import sys
from pathlib import Path

site_packages, port, output, suite, tasks, trials, tree, *most = sys.argv[1:]
sys.path.append(site_packages)  # what both have is ours

from rsd.envs import assets  # noqa: E402
from rsd.envs.rendering import process_variables, resolve  # noqa: E402

os.environ.update(process_variables(resolve("auto")))  # before mujoco is imported
assets.activate(assets.resolve(tree, [suite]))

from vla_eval.cli.main import main  # noqa: E402

config = {
    "server": {"url": f"ws://127.0.0.1:{port}"},
    "output_dir": output,
    "benchmarks": [
        {
            "benchmark": "vla_eval.benchmarks.libero.benchmark:LIBEROBenchmark",
            "episodes_per_task": int(trials),
            "max_tasks": int(tasks),
            "params": {"suite": suite, **({"max_steps": int(most[0])} if most else {})},
        }
    ],
}
Path(output).mkdir(parents=True, exist_ok=True)
written = Path(output) / "config.yaml"
written.write_text(json.dumps(config))  # YAML, too
sys.argv = ["vla-eval", "run", "--no-docker", "--config", str(written)]
main()
