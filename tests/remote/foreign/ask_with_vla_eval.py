"""vla-eval's own connection plays episodes against a server, one action a step.

python ask_with_vla_eval.py PORT OBSERVATIONS.npz ACTIONS.npz STEPS
"""

import json
import sys

import anyio
import numpy as np
from vla_eval.connection import Connection

port, asked, answered, steps = sys.argv[1:5]


async def main():
    observations = np.load(asked)
    actions = []
    async with Connection(f"ws://127.0.0.1:{port}", timeout=60) as connection:
        for agentview, wrist, state, prompt in zip(
            observations["agentview"],
            observations["wrist"],
            observations["state"],
            observations["prompt"],
            strict=True,
        ):
            await connection.start_episode({"task": {"name": str(prompt)}})
            payload = {
                "images": {"agentview": agentview, "wrist": wrist},
                "states": state,
                "task_description": str(prompt),
            }
            for _ in range(int(steps)):
                actions.append((await connection.act(payload))["actions"])
            await connection.end_episode({})
        print(json.dumps(connection.server_info))
    np.savez(answered, actions=np.stack(actions))


anyio.run(main)
