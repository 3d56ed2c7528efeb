"""vla-eval's bridge to LeRobot around an ACT; prints `port N`.

python serve_lerobot_with_vla_eval.py CHECKPOINT
"""

import sys

import anyio
from vla_eval.model_servers.lerobot import LeRobotModelServer
from vla_eval.model_servers.serve import serve_async


async def main():
    async with anyio.create_task_group() as group:
        server = LeRobotModelServer("act", sys.argv[1], device="cpu")
        print("port", await group.start(serve_async, server, "127.0.0.1", 0), flush=True)


anyio.run(main)
