"""A model server of vla-eval's with a chunk of six; prints its port. Its own code does everything
but the actions, which follow from what arrives."""

import sys

import anyio
import numpy as np
from vla_eval.model_servers.predict import PredictModelServer
from vla_eval.model_servers.serve import serve_async
from vla_eval.specs import GRIPPER_CLOSE_POS, IMAGE_RGB, POSITION_DELTA, ROTATION_AA

BATCH = int(sys.argv[1]) if len(sys.argv) > 1 else 1


class Server(PredictModelServer):
    def get_action_spec(self):
        return {"position": POSITION_DELTA, "rotation": ROTATION_AA, "gripper": GRIPPER_CLOSE_POS}

    def get_observation_spec(self):
        return {"agentview": IMAGE_RGB}

    def get_observation_params(self):
        return {"send_wrist_image": True, "send_state": True, "quat_no_antipodal": True}

    def predict(self, obs, ctx):
        return self.predict_batch([obs], [ctx])[0]

    def predict_batch(self, obs_batch, ctx_batch):
        return [{"actions": self.chunk(obs)} for obs in obs_batch]

    def chunk(self, obs):
        frames = [
            np.asarray(obs["images"][name], dtype=np.uint8) for name in ("agentview", "wrist")
        ]
        assert all(frame.shape == (256, 256, 3) for frame in frames), frames[0].shape
        seen = np.concatenate([[frame.mean() / 300 for frame in frames], obs["states"]])
        return np.stack([np.cos(seen[:7] + step) for step in range(6)]).astype(np.float32)


async def main():
    async with anyio.create_task_group() as group:
        server = Server(chunk_size=6, max_batch_size=BATCH)
        print(await group.start(serve_async, server, "127.0.0.1", 0), flush=True)


anyio.run(main)
