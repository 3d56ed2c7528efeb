"""Kill a run again and again, resume it until it is complete, and audit its books.

  python jobs/chaos.py --kills 50                                 # toy episodes, about 10 minutes
  python jobs/chaos.py --kills 20 --report chaos.json -- --policy libero --assets lite \\
      --task-suite libero_spatial --tasks 0 1 --num-trials 5
  python jobs/chaos.py --victims worker replica --seed 3          # only those, other moments
  python jobs/chaos.py --victims store driver                     # rows in an object store

What follows `--` are flags of jobs/evaluate.py. First it is run in peace. Then the same run is
struck: workers, replicas, raylet, GCS and driver are killed (SIGKILL) or stopped (SIGSTOP, for a
moment or for good), the driver's process group gets SIGTERM or SIGINT; with `store` among the
victims an S3 server (--store-command) is started, and it goes away and comes back. Whatever ends
is started again with --resume. A run that is complete is audited, and another one begins, until
all kills are spent. What is struck when follows from --seed alone.

Audited: planned = rows = unique keys; chunk rows = what episodes say; every failed attempt has a
kill that explains it; rows, final states and actions are those of the run in peace; drivers end
with the exit code that --help of jobs/evaluate.py explains and name --resume; no process and no
temporary file is left.

Everything is run on a Ray of its own on this machine, whatever RAY_ADDRESS says; only processes
that were started here are struck. Use short limits: the defaults here are those of LIMITS, and
flags after `--` win.

Exit codes: 0 every promise held; 1 one was broken; 2 the request cannot be run; 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path

# A working folder that `ray job submit` has uploaded is not installed, and wins over what is.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rsd import commands

if __name__ == "__main__":
    commands.leave_on_interrupt()

import asyncio
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import textwrap
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from xml.etree import ElementTree

import pandas as pd
import psutil
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import tyro
from rich.console import Console

from rsd import books, chaos, provenance
from rsd.chaos import STORE, VICTIMS, Blow, Check, Ending, Event, Evidence
from rsd.cluster.worker import KILL_GRACE_S
from rsd.config import parse
from rsd.console import PLAIN, complain, make_console
from rsd.errors import UserError, writing
from rsd.leaving import terminable
from rsd.outputs import prove_writable, write_atomically
from rsd.preflight import RunPlan, prepare
from rsd.tables import Grid, print_grid

EVALUATE = Path(__file__).resolve().parent / "evaluate.py"
TOY: tuple[str, ...] = ("--task-suite", "toy_slow", "--policy", "toy", "--num-trials", "20")
TOY += ("--workers", "2", "--worker-memory-gb", "0.2")
LIMITS = ("--time-limit-s", "60", "--decode-limit-s", "10")
DONE, BROKEN, BAD_REQUEST, INTERRUPTED = 0, 1, 2, commands.INTERRUPTED

TICK_S = 0.2
RECOVERY_S = 90.0  # beside the time limit: Ray's start, and how long it takes to miss a node
ACTORS_FADE_S = 20.0  # in which workers and replicas of a run that ended are gone
FADE_S = 90.0  # the same for Ray's own: its agents look for a dead GCS for 60 s
STORE_START_S = 60.0
ACCEPT_S = 0.05
BUCKET = "chaos"
SHORT = 70  # characters of what a run did, in the table
SHOWN = 5  # broken cases of a promise; the report has them all


@dataclass(frozen=True)
class ChaosConfig:
    """A campaign, as a user asks for it."""

    output: Path = Path("results/chaos")
    """Folder of the runs and of what they printed; must not exist or be empty"""

    seed: int = 0
    """Decides what is struck, when, and for how long"""

    kills: int = 20
    """Blows; each kind falls once before one falls twice"""

    victims: tuple[str, ...] = tuple(victim for victim in VICTIMS if victim != STORE)
    """worker, replica, raylet, gcs, driver, group (the driver's, as by timeout, Ctrl-C), store"""

    store_command: str = "moto_server -H 127.0.0.1 -p {port}"
    """With the victim `store`: starts an S3 server that takes any credentials, on {port}"""

    patience_s: float | None = None
    """Seconds without a new row after which a run counts as stuck; None: its --time-limit-s and
    100 more"""

    report: Path | None = None
    """Write the campaign to this file as JSON: every blow, every ending, the audit"""


# --- one process of jobs/evaluate.py and what it starts ----------------------------------------


class Session:
    """A driver in a session (setsid) of its own, by which its processes are known for ever."""

    def __init__(self, run: str, number: int, command: Sequence[str], log: Path, ray: str) -> None:
        self.run, self.number = run, number
        self._log = log
        environment = {**os.environ, "RAY_TMPDIR": ray}
        environment.pop("RAY_ADDRESS", None)
        self.started = time.time()
        with log.open("wb") as file:
            self.driver = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def find(self, victim: str) -> list[psutil.Process]:
        """Its living processes of one kind, oldest first; busy workers where there are any."""
        driver = psutil.Process(self.driver.pid)
        if victim in ("driver", "group"):
            return [driver]
        family = sorted(driver.children(recursive=True), key=lambda p: (_created(p), p.pid))
        commands = [(process, _command(process)) for process in family]
        found = [(p, command) for p, command in commands if chaos.kind_of(command) == victim]
        busy = [p for p, command in found if command[0].endswith(".episode")]
        return busy or [p for p, _ in found]

    def members(self) -> list[psutil.Process]:
        """Whatever of it lives, the driver's orphans included."""
        return [
            process
            for process in psutil.process_iter()
            if _session_of(process) == self.driver.pid and _lives(process)
        ]

    def kill(self) -> None:
        """End all of it."""
        for process in self.members():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.driver.wait()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def _created(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        return process.create_time()
    return 0.0


def _session_of(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except OSError:
        return None


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _title(process: psutil.Process) -> str:
    command = _command(process) or ["(gone)"]
    return command[0] if "::" in command[0] else " ".join(Path(word).name for word in command[:2])


# --- an object store that can go away ----------------------------------------------------------


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
        deadline = time.monotonic() + STORE_START_S
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
                time.sleep(TICK_S)

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


# --- the campaign ------------------------------------------------------------------------------


@dataclass
class Round:
    """A run from its first session to its last row."""

    name: str
    output: str  # as the run is told
    seen: str  # as we read it, past the proxy
    sessions: int = 0
    left: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Due:
    """Something that ends by itself: a stop or an outage."""

    at: float  # s, Unix time
    end: Callable[[], None]


@dataclass(frozen=True)
class Fading:
    """A session whose driver has ended, until the last of its processes has."""

    since: float  # s, Unix time
    session: Session
    round: Round


class Campaign:
    """Strikes, restarts, takes notes. One thread; looks around every TICK_S."""

    def __init__(
        self,
        config: ChaosConfig,
        plan: RunPlan,
        flags: Sequence[str],
        events: Sequence[Event],
        store: Store | None,
        ray: str,
        say: Callable[[str], None],
    ) -> None:
        limit_s = plan.config.cluster.time_limit_s + KILL_GRACE_S + RECOVERY_S
        self.blows: list[Blow] = []
        self.endings: list[Ending] = []
        self.rounds: list[Round] = []
        self.outages: list[tuple[float, float]] = []
        self.workers = 0
        self._patience_s = config.patience_s or limit_s
        self._folder = config.output
        self._plan = plan
        self._flags = flags
        self._events = events
        self._store = store
        self._ray = ray
        self._say = say
        self._session: Session | None = None
        self._fading: list[Fading] = []
        self._due: list[Due] = []
        self._stopped: list[psutil.Process] = []
        self._rows: dict[str, int] = {}  # by part, of all rounds
        self._went_on_at = time.time()

    # -- the undisturbed run ---------------------------------------------------------------------

    def calm(self) -> Round:
        """The same run in peace; raises UserError where that fails already."""
        self._begin_round("calm")
        session = self._start()
        session.driver.wait()
        if session.driver.returncode not in chaos.COMPLETE:
            raise UserError(
                f"without any kill the run ends with exit code {session.driver.returncode}: "
                f"{chaos.last_line(session.log)} (all of it: {self._folder / 'calm-000.log'})"
            )
        self._fade(session)
        self._session = None
        return self.rounds.pop()

    # -- the campaign ----------------------------------------------------------------------------

    def run(self) -> None:
        """Carry all events out, and end with a complete run."""
        self._begin_round("run-000")
        self._start()
        for event in self._events:
            self._carry_out(event)
        while self._session is not None:
            self._look(begin_another=False)
        while self._fading:
            self._look(begin_another=False)

    def _carry_out(self, event: Event) -> None:
        rows = self._row_count
        ready_at: float | None = None
        while True:
            self._look()
            victims = self._victims(event)
            settled = not event.settled or not self.blows or self._row_count > rows
            if not victims or not settled or self._away:
                continue
            ready_at = ready_at or time.time()
            if time.time() - ready_at < event.pause_s:
                continue
            victim = victims[int(event.pick * len(victims))]
            with suppress(psutil.NoSuchProcess):
                self._strike(event, victim)
                return

    def _victims(self, event: Event) -> list[psutil.Process]:
        assert self._session is not None
        if event.victim == STORE:
            assert self._store is not None
            return [psutil.Process(self._store.server.pid)]
        found: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            found = self._session.find(event.victim)
        if event.signal == "SIGSTOP" and event.lasts_s is None:
            commands = [(process, _command(process)) for process in found]
            return [p for p, c in commands if c and chaos.may_stand_still(event.victim, c)]
        return found

    def _strike(self, event: Event, victim: psutil.Process) -> None:
        assert self._session is not None
        title, at = _title(victim), time.time()
        if event.signal == "refuses":
            assert self._store is not None
            self._store.proxy.refuse()
        elif event.victim == "group":
            os.killpg(victim.pid, signal.Signals[event.signal])
        else:
            victim.send_signal(signal.Signals[event.signal])
        if event.signal == "SIGSTOP" and event.victim != STORE:
            self._stopped.append(victim)
        if event.lasts_s is not None:
            self._due.append(Due(at + event.lasts_s, self._end_of(event, victim)))
        if event.victim == STORE:
            self.outages.append((at, at + (event.lasts_s or 0)))
        blow = Blow(event, at, self._session.run, self._session.number, victim.pid, title)
        self.blows.append(blow)
        lasts = f" for {event.lasts_s:.1f} s" if event.lasts_s else ""
        self._say(
            f"{event.number:3d}/{len(self._events)} {blow.run} session {blow.session}: "
            f"{event.signal}{lasts} {event.victim} {victim.pid} ({title})"
        )

    def _end_of(self, event: Event, victim: psutil.Process) -> Callable[[], None]:
        if event.signal == "refuses":
            assert self._store is not None
            return self._store.proxy.open
        return lambda: _resume(victim)

    # -- looking around --------------------------------------------------------------------------

    @property
    def _away(self) -> bool:
        """Whether the store is away now."""
        return bool(self.outages) and time.time() < self.outages[-1][1] + 2 * TICK_S

    @property
    def _row_count(self) -> int:
        return sum(self._rows.values())

    def _look(self, begin_another: bool = True) -> None:
        """Wait a tick; end what is due; count rows; reap, restart."""
        time.sleep(TICK_S)
        now = time.time()
        for due in [due for due in self._due if due.at <= now]:
            self._due.remove(due)
            due.end()
        self._watch_fading()
        if self._session is None:
            return
        if not self._away:
            self._count_rows()
        self.workers = max(self.workers, len(self._worker_processes()))
        if self._session.driver.poll() is not None:
            self._ended(stuck=False, begin_another=begin_another)
        elif now - max([self._went_on_at, *(end for _, end in self.outages)]) > self._patience_s:
            self._say(f"stuck: no row for {self._patience_s:g} s; killed")
            self._session.kill()
            self._ended(stuck=True, begin_another=begin_another)

    def _worker_processes(self) -> list[psutil.Process]:
        assert self._session is not None
        with suppress(psutil.NoSuchProcess):
            return self._session.find("worker")
        return []

    def _count_rows(self) -> None:
        round_ = self.rounds[-1]
        files, root = filesystem(round_.seen)
        before = self._row_count
        for name in names_in(files, f"{root}/{books.EPISODES}"):
            path = f"{root}/{books.EPISODES}/{name}"
            if name.startswith(".") or path in self._rows:
                continue
            self._rows[path] = pq.read_metadata(path, filesystem=files).num_rows
        if self._row_count > before:
            self._went_on_at = time.time()

    def _ended(self, stuck: bool, begin_another: bool) -> None:
        session, self._session = self._session, None
        assert session is not None
        code = session.driver.returncode
        ending = Ending(
            session.run, session.number, session.started, time.time(), code, stuck, session.log
        )
        self.endings.append(ending)
        self._fade(session)
        if code not in chaos.COMPLETE:
            said = f": {chaos.last_line(ending.log)}" if code > 0 else ""
            self._say(f"    exit code {code}{said}")
            self._start_when_the_store_is_back()
        elif begin_another:
            self._say(f"    {session.run} is complete after {session.number + 1} sessions")
            self._begin_round(f"run-{len(self.rounds):03d}")
            self._start_when_the_store_is_back()

    def _start_when_the_store_is_back(self) -> None:
        while self._away:
            time.sleep(TICK_S)
            for due in [due for due in self._due if due.at <= time.time()]:
                self._due.remove(due)
                due.end()
        self._start()

    def _fade(self, session: Session) -> None:
        """What was stopped may go now; what is there in a while has been left behind."""
        for process in self._stopped:
            _resume(process)
        self._stopped.clear()
        self._fading.append(Fading(time.time(), session, self.rounds[-1]))

    def _watch_fading(self) -> None:
        for fading in list(self._fading):
            after_s = time.time() - fading.since
            members = fading.session.members()
            actors = [p for p in members if chaos.kind_of(_command(p)) in ("worker", "replica")]
            late = members if after_s > FADE_S else actors if after_s > ACTORS_FADE_S else []
            for process in late:
                who = f"session {fading.session.number}: {_title(process)} ({process.pid})"
                fading.round.left.append(f"{who}, {after_s:.0f} s after its driver")
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            if not members:
                self._fading.remove(fading)

    # -- starting --------------------------------------------------------------------------------

    def _begin_round(self, name: str) -> None:
        if self._store is None:
            output = seen = str(self._folder / name)
        else:
            output = self._store.address(name, self._store.proxy.port)
            seen = self._store.address(name, self._store.port)
        self.rounds.append(Round(name, output, seen))

    def _start(self) -> Session:
        round_ = self.rounds[-1]
        command = [sys.executable, str(EVALUATE), *self._flags]
        command += ["--output", round_.output, "--resume"]
        log = self._folder / f"{round_.name}-{round_.sessions:03d}.log"
        self._session = Session(round_.name, round_.sessions, command, log, self._ray)
        round_.sessions += 1
        self._went_on_at = time.time()
        return self._session

    def close(self) -> None:
        """Leave no process behind."""
        for process in self._stopped:
            _resume(process)
        living = [self._session] if self._session is not None else []
        for session in [*living, *(fading.session for fading in self._fading)]:
            session.kill()

    # -- evidence --------------------------------------------------------------------------------

    def evidence(self, round_: Round, calm: Round) -> Evidence:
        """What a complete round left."""
        sessions = books.read_run(round_.seen)["sessions"]
        uploads = self._store.unfinished_uploads() if self._store else []
        return Evidence(
            planned=self._plan.keys,
            episodes=books.read_episodes(round_.seen).to_pandas(),
            chunks=books.read_chunks(round_.seen).to_pandas(),
            calm_episodes=books.read_episodes(calm.seen).to_pandas(),
            calm_chunks=books.read_chunks(calm.seen).to_pandas(),
            session_starts=[
                datetime.fromisoformat(session["started_at"]).timestamp() for session in sessions
            ],
            blows=[blow for blow in self.blows if blow.run == round_.name],
            endings=[ending for ending in self.endings if ending.run == round_.name],
            workers=self.workers,
            files=files_of(round_.seen),
            uploads=[key for key in uploads if key.startswith(f"{round_.name}/")],
            left=round_.left,
        )


def _resume(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.resume()


def filesystem(output: str) -> tuple[pafs.FileSystem, str]:
    if "://" in output:
        return pafs.FileSystem.from_uri(output)
    return pafs.LocalFileSystem(), output


def names_in(files: pafs.FileSystem, folder: str) -> list[str]:
    selector = pafs.FileSelector(folder, allow_not_found=True)
    return sorted(info.base_name for info in files.get_file_info(selector))


def files_of(output: str) -> dict[str, list[str]]:
    """Leaf names by folder: the output itself ("") and those of its parts."""
    files, root = filesystem(output)
    folders = {"": root, **{f: f"{root}/{f}" for f in (books.EPISODES, books.CHUNKS)}}
    return {name: names_in(files, path) for name, path in folders.items()}


# --- the report --------------------------------------------------------------------------------


def summed(audits: Sequence[tuple[str, Check]]) -> dict[str, list[str]]:
    """Broken cases by promise, over all rounds."""
    return {
        promise: [
            f"{run}: {case}" for run, c in audits if c.promise == promise for case in c.broken
        ]
        for promise in dict.fromkeys(check.promise for _, check in audits)
    }


def print_report(
    entries: Sequence[dict[str, object]], broken: dict[str, list[str]], console: Console
) -> None:
    """A row a blow, then a row a promise."""
    columns = ("#", "run", "blow", "what the run did", "next row", "gap")
    table = Grid("Campaign", columns, names=4)
    for entry in entries:
        lasts = f" {entry['lasts_s']:.1f} s" if entry["lasts_s"] else ""
        table.add(
            str(entry["number"]),
            f"{entry['run']}.{entry['session']}",
            f"{entry['signal']}{lasts} {entry['victim']}",
            textwrap.shorten(str(entry["then"]), SHORT, placeholder=" ..."),
            _seconds(entry["rows_after_s"]),
            _seconds(entry["longest_gap_s"]),
        )
    print_grid(console, table)
    promises = Grid("Audit", ("promise", "broken"), names=2)
    for promise, cases in broken.items():
        shown = [*cases[:SHOWN], *([f"and {len(cases) - SHOWN} more"] if cases[SHOWN:] else [])]
        promises.add(promise, "\n".join(shown) or "never")
    print_grid(console, promises)


def _seconds(value: object) -> str:
    return "none" if value is None else f"{value:.1f} s"


def carry_out(config: ChaosConfig, flags: Sequence[str], console: Console) -> int:
    """Peace, campaign, audit, report; returns the exit code."""
    plan = checked(config, flags)
    events = chaos.plan_events(config.seed, config.kills, config.victims)
    config.output.mkdir(parents=True, exist_ok=True)
    if config.report is not None:
        prove_writable(config.report, "--report")
    started = time.time()

    def say(line: str) -> None:
        console.print(f"{time.time() - started:6.1f} s {line}", **PLAIN)

    with ExitStack() as stack:
        ray = stack.enter_context(ray_folder())
        store = None
        if STORE in config.victims:
            store = Store(config.store_command, config.output / "store.log")
            stack.callback(store.close)
        campaign = Campaign(config, plan, flags, events, store, ray, say)
        stack.callback(campaign.close)
        say(f"{len(plan.keys)} episodes in peace")
        calm = campaign.calm()
        calm_s = time.time() - started
        say(f"done in {calm_s:.0f} s; {len(events)} kills follow")
        campaign.run()
        proofs = {round_.name: campaign.evidence(round_, calm) for round_ in campaign.rounds}
    audits = [(name, check) for name, proof in proofs.items() for check in chaos.audit(proof)]
    finished = {
        name: proof.episodes["finished_at"].map(pd.Timestamp.timestamp).to_list()
        for name, proof in proofs.items()
    }
    entries = chaos.account(campaign.blows, campaign.endings, finished)
    broken = summed(audits)
    print_report(entries, broken, console)
    held = not any(broken.values())
    verdict = "every promise held" if held else "promises were broken"
    console.print(
        f"{len(entries)} blows, {len(proofs)} complete runs of {len(plan.keys)} episodes, "
        f"{len(campaign.endings)} sessions: {verdict}",
        **PLAIN,
    )
    if config.report is not None:
        record = {
            "held": held,
            "seed": config.seed,
            "kills": config.kills,
            "victims": config.victims,
            "flags": list(flags),
            "episodes": len(plan.keys),
            "calm_s": round(calm_s, 1),
            "campaign_s": round(time.time() - started - calm_s, 1),
            "started_at": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
            **provenance.provenance(),
            "events": [{**e, "at": round(float(str(e["at"])) - started, 3)} for e in entries],
            "sessions": [
                {
                    "run": ending.run,
                    "session": ending.session,
                    "seconds": round(ending.ended - ending.started, 1),
                    "exit_code": ending.exit_code,
                    "stuck": ending.stuck,
                    "last_line": chaos.last_line(ending.log),
                }
                for ending in campaign.endings
            ],
            "audit": [{"run": run, **asdict(check)} for run, check in audits],
        }
        with writing(config.report, "--report"):
            write_atomically(config.report, (json.dumps(record, indent=1) + "\n").encode())
    return DONE if held else BROKEN


def checked(config: ChaosConfig, flags: Sequence[str]) -> RunPlan:
    """The plan of the run; raises UserError for whatever cannot be run."""
    if config.kills < 1:
        raise UserError(f"--kills {config.kills}: at least 1")
    if config.patience_s is not None and not config.patience_s > 0:
        raise UserError(f"--patience-s {config.patience_s}: more than 0 seconds")
    if not config.victims:
        raise UserError(f"--victims needs one or more of {', '.join(VICTIMS)}")
    if config.output.exists() and (not config.output.is_dir() or any(config.output.iterdir())):
        raise UserError(f"--output {config.output} is not an empty folder; choose another one")
    asked = parse(flags)
    if asked.output.output is not None or asked.output.resume or asked.output.dry_run:
        raise UserError(
            "after `--`: leave --output, --resume and --dry-run out; the campaign gives them"
        )
    return prepare(asked)


@contextmanager
def ray_folder() -> Iterator[str]:
    """For Ray's temporary files. Below /tmp: its sockets' paths may have 107 characters."""
    folder = tempfile.mkdtemp(prefix="rsd-chaos-", dir="/tmp")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: Sequence[str]) -> int:
    """Parse and carry out; returns the exit code."""
    at = list(arguments).index("--") if "--" in arguments else len(arguments)
    config = tyro.cli(
        ChaosConfig, prog="jobs/chaos.py", description=__doc__, args=list(arguments[:at])
    )
    flags = [*LIMITS, *(arguments[at + 1 :] or TOY)]
    try:
        with terminable():  # nothing that was started or stopped is left so
            return carry_out(config, flags, make_console())
    except (UserError, OSError) as error:
        complain(f"error: {error}")
        return BAD_REQUEST
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    commands.run(main)
