"""A server in openpi's manner (its `serving/websocket_policy_server.py`), on `openpi-client`'s
codec; prints its port. Actions follow from what arrives, so that a wrong byte shows."""

import asyncio
import traceback

import numpy as np
import websockets.asyncio.server as server
from openpi_client import msgpack_numpy
from websockets.exceptions import ConnectionClosed


def infer(observation: dict) -> dict:
    frames = [observation["observation/image"], observation["observation/wrist_image"]]
    assert all(frame.shape == (224, 224, 3) and frame.dtype == np.uint8 for frame in frames)
    if "fail" in observation["prompt"]:
        raise RuntimeError("the model is out of memory")
    if "short" in observation["prompt"]:
        return {"actions": np.zeros((3, 6))}
    seen = np.concatenate(
        [[frame.mean() / 300 for frame in frames], observation["observation/state"]]
    )
    return {"actions": np.stack([np.cos(seen[:7] + step) for step in range(10)])}


async def handle(connection: server.ServerConnection) -> None:
    packer = msgpack_numpy.Packer()
    await connection.send(packer.pack({"model": "pi0_libero"}))
    while True:
        try:
            observation = msgpack_numpy.unpackb(await connection.recv())
            action = infer(observation)
            action["server_timing"] = {"infer_ms": np.float64(1.5)}
            await connection.send(packer.pack(action))
        except ConnectionClosed:
            break
        except Exception:
            await connection.send(traceback.format_exc())
            await connection.close(code=1011, reason="Internal server error.")
            raise


async def main() -> None:
    async with server.serve(handle, "127.0.0.1", 0, compression=None, max_size=None) as serving:
        print(serving.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
