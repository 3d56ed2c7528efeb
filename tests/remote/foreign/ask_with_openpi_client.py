"""`openpi-client` asks a server: what its LIBERO example does, without the simulator.

python ask_with_openpi_client.py PORT OBSERVATIONS.npz ACTIONS.npz [API_KEY]
"""

import json
import sys

import numpy as np
from openpi_client import image_tools
from openpi_client.websocket_client_policy import WebsocketClientPolicy

port, asked, answered = sys.argv[1:4]
policy = WebsocketClientPolicy("127.0.0.1", int(port), *sys.argv[4:])
observations = np.load(asked)
size = int(observations["size"])
actions = []
for agentview, wrist, state, prompt in zip(
    observations["agentview"],
    observations["wrist"],
    observations["state"],
    observations["prompt"],
    strict=True,
):
    element = {
        "observation/image": image_tools.resize_with_pad(agentview, size, size),
        "observation/wrist_image": image_tools.resize_with_pad(wrist, size, size),
        "observation/state": state,
        "prompt": str(prompt),
    }
    actions.append(policy.infer(element)["actions"])
np.savez(answered, actions=np.stack(actions))
print(json.dumps(policy.get_server_metadata()))
