"""Who deals the blows: runs `rsd evaluate`, strikes it, starts it again, and takes notes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from rsd import books
from rsd.books.folder import Folder
from rsd.chaos import blows
from rsd.chaos.audit import Evidence
from rsd.chaos.blows import STORE, Blow, Ending, Event
from rsd.chaos.store import Store
from rsd.errors import UserError
from rsd.types import EpisodeKey

TICK_S = 0.2
ACTORS_FADE_S = 20.0  # in which workers and replicas of a run that ended are gone
FADE_S = 90.0  # the same for Ray's own: its agents look for a dead GCS for 60 s


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
        found = [(p, command) for p, command in commands if blows.kind_of(command) == victim]
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
        folder: Path,
        command: Sequence[str],
        planned: Sequence[EpisodeKey],
        events: Sequence[Event],
        patience_s: float,
        store: Store | None,
        ray: str,
        say: Callable[[str], None],
    ) -> None:
        self.blows: list[Blow] = []
        self.endings: list[Ending] = []
        self.rounds: list[Round] = []
        self.outages: list[tuple[float, float]] = []
        self.workers = 0
        self._patience_s = patience_s
        self._folder = folder
        self._command = command
        self._planned = planned
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
        if session.driver.returncode not in blows.COMPLETE:
            raise UserError(
                f"without any kill the run ends with exit code {session.driver.returncode}: "
                f"{blows.last_line(session.log)} (all of it: {self._folder / 'calm-000.log'})"
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
            self._tick(begin_another=False)
        while self._fading:
            self._tick(begin_another=False)

    def _carry_out(self, event: Event) -> None:
        rows = self._row_count
        ready_at: float | None = None
        while True:
            self._tick()
            victims = self._victims(event)
            recovered = not event.recovered or not self.blows or self._row_count > rows
            if not victims or not recovered or self._away:
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
            return [p for p, c in commands if c and blows.may_stand_still(event.victim, c)]
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

    def _tick(self, begin_another: bool = True) -> None:
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
        folder = Folder.at(round_.seen)
        before = self._row_count
        for name in folder.content(books.EPISODES):
            path = folder.path(f"{books.EPISODES}/{name}")
            if path not in self._rows:
                self._rows[path] = pq.read_metadata(path, filesystem=folder.files).num_rows
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
        if code not in blows.COMPLETE:
            said = f": {blows.last_line(ending.log)}" if code > 0 else ""
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
            actors = [p for p in members if blows.kind_of(_command(p)) in ("worker", "replica")]
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
        command = [*self._command, "--output", round_.output, "--resume"]
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
            planned=self._planned,
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


def files_of(output: str) -> dict[str, list[str]]:
    """Leaf names by folder: the output itself ("") and those of its parts."""
    folder = Folder.at(output)
    return {name: folder.names(name) for name in ("", books.EPISODES, books.CHUNKS)}
