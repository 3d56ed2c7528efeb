"""An object store that can go away."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

from rsd.errors import UserError

START_S = 60.0
TRY_S = 0.2
ACCEPT_S = 0.05
BUCKET = "chaos"


class Proxy:
    """A TCP proxy on 127.0.0.1 that can refuse connections for a while; runs on a thread."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self._target = target
        self._server: asyncio.Server | None = None
        self._away = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.open()

    def open(self) -> None:
        self._do(self._open())

    def refuse(self) -> None:
        """Break what is connected, refuse what comes, until it is opened again."""
        self._do(self._refuse())

    def _do(self, what: object) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result()  # type: ignore[arg-type]

    async def _open(self) -> None:
        self._away = False
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self.port)

    async def _refuse(self) -> None:
        assert self._server is not None
        self._away = True
        await asyncio.sleep(ACCEPT_S)  # asyncio forgets one that it was accepting when it closes
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if self._away:  # came in the last moment
            writer.transport.abort()
            return
        inside, outside = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers.add(outside)
        await asyncio.gather(self._pump(reader, outside), self._pump(inside, writer))
        self._writers -= {writer, outside}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(2**16):
                writer.write(data.replace(*MOTO_NAME))
                await writer.drain()
        writer.close()


# moto 5 names the answer to a complete upload otherwise than S3 does, and Arrow looks at the name.
MOTO_NAME = (b"CompleteMultipartUploadResponse", b"CompleteMultipartUploadResult  ")


class Store:
    """An S3 server of our own behind a proxy. It takes any key: one that opens nothing, from the
    environment of this process and of those that it starts, since no address may hold one."""

    def __init__(self, command: str, log: Path) -> None:
        os.environ.update(AWS_ACCESS_KEY_ID=BUCKET, AWS_SECRET_ACCESS_KEY=BUCKET)
        os.environ.pop("AWS_SESSION_TOKEN", None)
        words = shlex.split(command)
        if not words or shutil.which(words[0]) is None:
            raise UserError(
                f"--store-command {command!r}: there is no program of that name; "
                "`pip install 'moto[server]'` brings moto_server, any other S3 server will do"
            )
        self.port = free_port()
        with log.open("wb") as file:
            self.server = subprocess.Popen(
                [word.replace("{port}", str(self.port)) for word in words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._make_bucket(command)
        self.proxy = Proxy(self.port)

    def _make_bucket(self, command: str) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{BUCKET}", method="PUT")
        deadline = time.monotonic() + START_S
        while True:
            try:
                with urllib.request.urlopen(request, timeout=5):
                    return
            except OSError as error:
                if time.monotonic() > deadline or self.server.poll() is not None:
                    self.close()
                    raise UserError(
                        f"--store-command {command!r} does not answer on port {self.port}: {error}"
                    ) from None
                time.sleep(TRY_S)

    def address(self, run: str, port: int) -> str:
        """A run's output: by the proxy's port as the run knows it, by the server's for us."""
        where = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
        return f"s3://{BUCKET}/{run}?{where}"

    def unfinished_uploads(self) -> list[str]:
        """Keys of uploads that were begun and neither completed nor given up."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{BUCKET}?uploads") as answer:
            tree = ElementTree.parse(answer)
        uploads = [element for element in tree.iter() if element.tag.endswith("Upload")]
        return [str(part.text) for upload in uploads for part in upload if part.tag.endswith("Key")]

    def close(self) -> None:
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
