"""A training run from its data to its checkpoint: every worker runs it, the leader writes.

The training state lies in the output folder while the run lasts, whole at any moment. A run
that is started again with `resume` goes on from it, to the same weights.
"""

from __future__ import annotations

import dataclasses
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch

from rsd.conditions import LATER, TRAINING_PACKAGES, of_training, require_same
from rsd.errors import UserError, writing
from rsd.locking import LOCK_FILE, hold
from rsd.outputs import sweep, write_file
from rsd.provenance import code, packages
from rsd.rfsq import RFSQ
from rsd.training import metrics
from rsd.training.config import TrainJob
from rsd.training.data import Examples, split
from rsd.training.distributed import ALONE, Workers, check_batch
from rsd.training.draft import DraftTraining
from rsd.training.learner import Learner, Recipe
from rsd.training.metrics import Progress, Report, TrainingLog
from rsd.training.objective import TrainingState, wants_bf16
from rsd.training.target import TargetTraining
from rsd.training.tokeniser import table_lines, train_tokeniser, truncation_table

STATE_FILE = "training.pt"
STATE_FORMAT = 3
TOKENISER_FILE = "tokeniser.json"
CONFIG_FILE = "config.json"  # of a finished checkpoint of any family

RECIPES = {"small-vla": "small_vla", "openvla-oft": "openvla_oft"}  # modules beside this one

Say = Callable[[str], None]


def recipe_of(job: TrainJob) -> Recipe:
    """How the family of the job's target is trained."""
    module: Any = import_module(f"rsd.training.{RECIPES[job.target]}")  # may need libraries
    recipe: Recipe = module
    return recipe


@contextmanager
def reserved(job: TrainJob) -> Iterator[None]:
    """Make the output folder, check it (`check_output`), and hold it against a second training."""
    with writing(job.output):
        if job.output.exists() and not job.output.is_dir():
            raise UserError(f"{job.output} is a file; give a folder as --output")
        new = not job.output.exists()
        job.output.mkdir(parents=True, exist_ok=True)
        lock = hold(job.output)
    with lock or nullcontext():
        try:
            with writing(job.output):
                check_output(job)
            yield
        finally:
            (job.output / LOCK_FILE).unlink(missing_ok=True)
            if new and not any(job.output.iterdir()):
                job.output.rmdir()


def check_output(job: TrainJob) -> None:
    """Raises UserError where the output folder holds what must not be overwritten, or lacks what
    the job builds on. Clears what a killed training left half-written."""
    output, state = job.output, job.output / STATE_FILE
    held = [path.name for path in output.iterdir() if not path.name.startswith(".")]
    recipe_of(job).check(job)
    if job.draft_only:
        if state.exists() and not job.resume:
            raise UserError(
                f"{output} holds an interrupted training; --resume goes on with it, without "
                f"{STATE_FILE} the draft is trained anew"
            )
    elif job.resume and _finished(job):
        raise UserError(f"{output} holds a finished checkpoint; give another --output")
    elif job.resume and held and not {STATE_FILE, TOKENISER_FILE, metrics.FILE} & {*held}:
        raise UserError(
            f"{output} holds no training to go on with, but {', '.join(sorted(held)[:3])}; give "
            "the --output of the interrupted training"
        )
    elif not job.resume and held:
        raise UserError(f"{output} is not empty; use --resume or another --output")
    with writing(output):
        sweep(output)


def train(
    job: TrainJob,
    command: str,
    report: Report,
    say: Say,
    device: str | torch.device = "cpu",
    workers: Workers = ALONE,
) -> None:
    """Run the phases that are still to do and write the checkpoint. Where the output folder holds a
    state (`check_output`), go on from it. `command` is for the checkpoint's description.

    Raises UserError for data or a state that cannot be trained on, and CannotWriteError, a
    UserError, where the folder has no room any more.
    """
    recipe, device = recipe_of(job), torch.device(device)
    bf16 = workers.from_leader(wants_bf16(job.train, device))  # one precision for all workers
    job = replace(recipe.decided(job), train=replace(job.train, bf16=bf16))
    check_batch(job.train.batch_size, workers.size)
    if workers.from_leader(workers.leads and _finished(job)):
        return  # the leader was done when another worker died
    torch.manual_seed(job.train.seed)
    learner, examples = recipe.learner(job, recipe.examples(job), device)
    identity = _identity(job, examples, recipe.identity(job, learner))
    origin = recipe.earlier(job, learner) | _origin(job, examples, command)
    if workers.sharded:  # each reads what it needs of it
        state = _read_state(job, identity)
    else:
        state = workers.from_leader(_read_state(job, identity) if workers.leads else None)
    if not state and not learner.knows_tokeniser:
        _fit_tokeniser(learner, job, examples)
    if workers.leads:
        say(f"{len(examples)} examples: {json.dumps(examples.origin)}")
        if state:
            say(f"going on from step {state.step} of the {state.phase}")
        elif not job.draft_only:
            say(_describe_tokeniser(job, learner.tokeniser, examples))
    phase = state.phase if state else "draft" if job.draft_only else "target"
    journal = Journal(job, identity, phase, state, report, workers)
    if phase == "target":
        target = TargetTraining(learner, examples, job.train, device, workers)
        if state:
            target.load(state)
        for _ in target.run(journal.report, job.report_every, 10 * job.report_every):
            journal.keep(target)
        learner.round_to_storage()
        state = None
    draft = DraftTraining(learner, examples, job.train, device, workers)
    if state:
        draft.load(state)
    elif not job.draft_only:
        journal.keep(draft, now=True)
    for _ in draft.run(journal.report, 5 * job.report_every):
        journal.keep(draft)
    journal.close()
    if workers.leads:
        origin |= {
            "seconds": round(journal.seconds),
            "threads": torch.get_num_threads(),
            "workers": workers.size,
            "device": device.type,
        }
        recipe.save(learner, job, examples, origin)
        (job.output / STATE_FILE).unlink(missing_ok=True)


class Journal:
    """What the leader writes while it trains: reports, and the state now and then."""

    def __init__(
        self,
        job: TrainJob,
        identity: dict[str, Any],
        phase: str,
        state: TrainingState | None,
        report: Report,
        workers: Workers,
    ) -> None:
        self._path = job.output / STATE_FILE
        self._identity = identity
        self._every_s, self._saved = job.save_every_s, time.monotonic()
        self._started = time.monotonic() - (state.seconds if state else 0.0)
        step = state.step if state else 0
        self._workers = workers
        self._log = TrainingLog(job.output, phase, step) if workers.leads else None
        self._report = report

    @property
    def seconds(self) -> float:
        """Of training until now, in all sessions; what was done behind a saved state is lost."""
        return time.monotonic() - self._started

    def report(self, progress: Progress) -> None:
        """To the files and to whoever watches."""
        if self._log:
            self._log.add(progress)
            self._report(progress)

    def keep(self, training: TargetTraining | DraftTraining, *, now: bool = False) -> None:
        """Save the state where it is time to; every worker calls it."""
        due = now or time.monotonic() - self._saved >= self._every_s
        if self._workers.sharded:
            due = self._workers.from_leader(due)
        if not due or not (self._log or self._workers.sharded):
            return
        state = replace(training.state(), seconds=self.seconds)
        content = {
            "format": STATE_FORMAT,
            "identity": self._identity,
            "state": self._workers.gathered(vars(state)),
        }
        if self._log:
            whole = io.BytesIO()
            torch.save(content, whole)
            write_file(self._path, whole.getvalue())
        self._saved = time.monotonic()

    def close(self) -> None:
        """Nothing is lost without it."""
        if self._log:
            self._log.close()


def _finished(job: TrainJob) -> bool:
    left = (job.output / STATE_FILE).exists()
    return not job.draft_only and not left and (job.output / CONFIG_FILE).exists()


def _fit_tokeniser(learner: Learner, job: TrainJob, examples: Examples) -> None:
    tokeniser = train_tokeniser(
        learner.tokeniser.config,
        examples.actions[split(examples.placement, job.train.held_out)[0]],
        steps=job.tokeniser_steps,
        batch_size=256,
        seed=job.train.seed,
    )
    learner.tokeniser.load_state_dict(tokeniser.state_dict())


def _describe_tokeniser(job: TrainJob, tokeniser: RFSQ, examples: Examples) -> str:
    """The truncation table, to a file and for people."""
    some = examples.actions[:: max(1, len(examples) // 4000)]
    table = truncation_table(tokeniser, some)
    content = [dataclasses.asdict(row) for row in table]
    write_file(job.output / TOKENISER_FILE, json.dumps(content, indent=2) + "\n")
    steps = tokeniser.config.steps
    head = f"what the first K layers reconstruct of chunks of {steps} steps:"
    return "\n".join([head, *table_lines(table)])


def _origin(job: TrainJob, examples: Examples, command: str) -> dict[str, Any]:
    """For config.json: data, code, training."""
    return {
        "data": examples.origin,
        "code": code(),
        "training": {**dataclasses.asdict(job.train), "tokeniser_steps": job.tokeniser_steps},
        "command": command,
    }


def _identity(job: TrainJob, examples: Examples, family: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for a state to go on."""
    settings = {
        "train": dataclasses.asdict(job.train),
        "data": examples.origin["sha256"],
        "draft_only": job.draft_only,
        "tokeniser_steps": job.tokeniser_steps,
        **family,
    }
    return of_training(settings, packages(TRAINING_PACKAGES))


def _read_state(job: TrainJob, identity: dict[str, Any]) -> TrainingState | None:
    """The state to go on from, if there is one."""
    path = job.output / STATE_FILE
    if not path.exists():
        return None
    try:
        content = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        made_with, state = content["identity"], content["state"]
        known = content["format"] == STATE_FORMAT
    except Exception as error:  # torch.load raises what its zip reader and unpickler raise
        raise UserError(
            f"{path} is damaged or of another version ({error!r}); delete it to start this "
            "training anew"
        ) from error
    if not known:
        raise UserError(
            f"{path} has format {content['format']}, this code reads {STATE_FORMAT}; go on with "
            "the code that wrote it, or delete it to start this training anew"
        )
    require_same(
        made_with,
        identity,
        f"{path} was trained with other settings; give the same settings and data, or another "
        "--output",
        later=LATER,
    )
    return TrainingState(**state)
