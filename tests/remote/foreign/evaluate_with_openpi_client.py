"""LIBERO episodes on lite assets whose loop asks nobody but `openpi-client`; run by RSD's
interpreter, which finds openpi-client in the environment of its own. Says how each ended.

python evaluate_with_openpi_client.py SITE_PACKAGES PORT SUITE TRIAL TASK [TASK ...]
"""

import json
import sys

site_packages, port, suite, trial, *tasks = sys.argv[1:]
sys.path.append(site_packages)  # what both have is ours

from rsd.arms import read_arm  # noqa: E402
from rsd.cluster.worker import EnvWorker, WorkerSettings  # noqa: E402
from rsd.envs import assets  # noqa: E402
from rsd.envs.rendering import resolve  # noqa: E402
from rsd.types import Chunk, ChunkRequest, DecodeTrace, EpisodeKey, ImageSpec  # noqa: E402

# After rsd, which says how numpy is to compute.
from openpi_client.websocket_client_policy import WebsocketClientPolicy  # noqa: E402  # isort: skip

client = WebsocketClientPolicy("127.0.0.1", int(port))


def ask(request: ChunkRequest) -> Chunk:
    seen = request.observation
    element = {
        "observation/image": seen.agentview,
        "observation/wrist_image": seen.wrist,
        "observation/state": seen.proprio,
        "prompt": seen.instruction,
    }
    return Chunk(client.infer(element)["actions"], None, DecodeTrace((), (), passes=1, layers=0))


images = ImageSpec(**client.get_server_metadata()["images"])
settings = WorkerSettings(assets.resolve("lite", [suite]), resolve("auto"), images, 600)
worker = EnvWorker(settings)
arm = read_arm(client.get_server_metadata()["arm"])
for task in tasks:
    key = EpisodeKey(arm.name, suite, int(task), int(trial))
    result = worker.run(key, arm, ask)
    told = {name: getattr(result, name) for name in ("outcome", "steps", "error")}
    print(json.dumps({"task": int(task), **told, "final_state": result.final_state_sha256}))
