"""/act as OpenVLA-OFT's deploy.py has it, on json-numpy's own codec; prints its port. With `twice`
the answer is encoded twice, as deploy.py does for clients that ask so."""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

import json_numpy
import numpy as np

TWICE = sys.argv[1:] == ["twice"]


class Act(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(405, b"{}")

    def do_POST(self):
        asked = json_numpy.loads(self.rfile.read(int(self.headers["Content-Length"])).decode())
        frames = [asked[name] for name in ("full_image", "wrist_image")]
        assert all(each.dtype == np.uint8 and each.shape == (256, 256, 3) for each in frames)
        assert isinstance(asked["instruction"], str)
        seen = np.concatenate([[each.mean() / 300 for each in frames], asked["state"]])
        chunk = np.stack([np.cos(seen[:7] + step) for step in range(8)])
        told = json_numpy.dumps(chunk)
        self.answer(200, (json.dumps(told) if TWICE else told).encode())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Act)
print(server.server_port, flush=True)
server.serve_forever()
