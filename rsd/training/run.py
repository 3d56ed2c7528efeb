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
from typing import Any

import torch

from rsd.errors import UserError, writing
from rsd.locking import LOCK_FILE, hold
from rsd.models.small_vla import checkpoint, weights
from rsd.models.small_vla.architecture import SmallVLAConfig
from rsd.models.small_vla.model import SmallVLA
from rsd.outputs import unfinished, write_atomically
from rsd.provenance import flat, provenance
from rsd.training import metrics
from rsd.training.config import TrainJob
from rsd.training.data import Examples, load_examples, split
from rsd.training.distributed import ALONE, Workers, check_batch
from rsd.training.draft import DraftTraining
from rsd.training.metrics import Progress, Report, TrainingLog
from rsd.training.objective import TrainingState, wants_bf16
from rsd.training.target import TargetTraining
from rsd.training.tokeniser import table_lines, train_tokeniser, truncation_table

STATE_FILE = "training.pt"
STATE_FORMAT = 3
TOKENISER_FILE = "tokeniser.json"

Say = Callable[[str], None]


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
    if job.draft_only and job.start_from:
        raise UserError(
            "--start-from starts a target, --draft-only keeps the one in --output: give one of them"
        )
    if job.start_from:
        checkpoint.inspect(job.start_from)
    if job.draft_only:
        checkpoint.inspect(str(output))
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
        for left in unfinished(output):
            left.unlink()


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
    job = _decided(job, device, workers)
    check_batch(job.train.batch_size, workers.size)
    if workers.from_leader(workers.leads and _finished(job)):
        return  # the leader was done when another worker died
    torch.manual_seed(job.train.seed)
    examples = load_examples(job.data, job.model.word_buckets, job.model.tokeniser.steps)
    origin = _origin(job, examples, command)
    state = workers.from_leader(_read_state(job, examples) if workers.leads else None)
    model = _model(job, examples, fresh=state is None)
    if workers.leads:
        say(f"{len(examples)} examples: {json.dumps(examples.origin)}")
        if state:
            say(f"going on from step {state.step} of the {state.phase}")
        elif not job.draft_only:
            say(_describe_tokeniser(job, model, examples))
    phase = state.phase if state else "draft" if job.draft_only else "target"
    books = Books(job, examples, phase, state, report, workers)
    if phase == "target":
        target = TargetTraining(
            model, examples, job.train, device, workers, known_proprio=job.start_from is not None
        )
        if state:
            target.load(state)
        for _ in target.run(books.report, job.report_every, 10 * job.report_every):
            books.keep(target)
        weights.round_to_storage(model)
        state = None
    draft = DraftTraining(model, examples, job.train, device, workers)
    if state:
        draft.load(state)
    elif not job.draft_only:
        books.keep(draft, now=True)
    for _ in draft.run(books.report, 5 * job.report_every):
        books.keep(draft)
    books.close()
    if workers.leads:
        origin |= {
            "seconds": round(books.seconds),
            "threads": torch.get_num_threads(),
            "workers": workers.size,
            "device": torch.device(device).type,
        }
        weights.save(model.cpu(), job.output, examples.spec, origin)
        (job.output / STATE_FILE).unlink(missing_ok=True)


class Books:
    """What the leader writes while it trains: reports, and the state now and then."""

    def __init__(
        self,
        job: TrainJob,
        examples: Examples,
        phase: str,
        state: TrainingState | None,
        report: Report,
        workers: Workers,
    ) -> None:
        self._path = job.output / STATE_FILE
        self._identity = _identity(job, examples)
        self._every_s, self._saved = job.save_every_s, time.monotonic()
        self._started = time.monotonic() - (state.seconds if state else 0.0)
        step = state.step if state else 0
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
        """Save the state where it is time to."""
        if self._log and (now or time.monotonic() - self._saved >= self._every_s):
            state = dataclasses.replace(training.state(), seconds=self.seconds)
            content = {
                "format": STATE_FORMAT,
                "identity": self._identity,
                "state": dataclasses.asdict(state),
            }
            whole = io.BytesIO()
            torch.save(content, whole)
            with writing(self._path):
                write_atomically(self._path, whole.getvalue())
            self._saved = time.monotonic()

    def close(self) -> None:
        """Nothing is lost without it."""
        if self._log:
            self._log.close()


def _decided(job: TrainJob, device: str | torch.device, workers: Workers) -> TrainJob:
    """With what it leaves open: one precision for all workers, and the sizes of the checkpoint that
    it builds on, if it builds on one.

    Raises UserError for sizes that this checkpoint does not have.
    """
    bf16 = workers.from_leader(wants_bf16(job.train, torch.device(device)))
    job = dataclasses.replace(job, train=dataclasses.replace(job.train, bf16=bf16))
    base = str(job.output) if job.draft_only else job.start_from
    if base is None:
        return job
    model = checkpoint.inspect(base).model
    if job.start_from and not model.regression:  # a target can be given the head that it lacks
        model = dataclasses.replace(model, regression=job.model.regression)
    if job.model not in (SmallVLAConfig(), model):
        raise UserError(f"{base} has sizes of its own; leave out --model.*, or start anew")
    return dataclasses.replace(job, model=model)


def _finished(job: TrainJob) -> bool:
    left = (job.output / STATE_FILE).exists()
    return not job.draft_only and not left and (job.output / checkpoint.CONFIG_FILE).exists()


def _model(job: TrainJob, examples: Examples, *, fresh: bool) -> SmallVLA:
    """The model that training starts from, or of the right shape for a saved state."""
    if job.draft_only:
        return _start(str(job.output), examples, job.train.held_out)
    model = SmallVLA(job.model, examples.spec.height)
    if job.start_from:
        start = _start(job.start_from, examples, job.train.held_out)
        model.load_state_dict(model.state_dict() | start.state_dict())
    elif fresh:
        tokeniser = train_tokeniser(
            job.model.tokeniser,
            examples.actions[split(examples.placement, job.train.held_out)[0]],
            steps=job.tokeniser_steps,
            batch_size=256,
            seed=job.train.seed,
        )
        model.tokeniser.load_state_dict(tokeniser.state_dict())
    model.tokeniser.requires_grad_(False)
    return model


FAR = 10.0  # of the checkpoint's standard deviations: another unit or convention, no other task


def _start(name: str, examples: Examples, held_out: float) -> SmallVLA:
    """The model to go on from. Raises UserError for frames drawn otherwise than the checkpoint's,
    for proprioception that its statistics of normalisation cannot be of, and for a validation on
    what it has seen."""
    model, info = weights.load_model(name)
    least = min(_held_out(info.origin), default=held_out)
    if held_out > least:
        raise UserError(
            f"--train.held-out {held_out:g}: {name} has been trained with {least:g}, so that some "
            f"of what would be held out is known to it; give {least:g} or less"
        )
    if info.images != examples.spec:
        raise UserError(
            f"{name} reads frames drawn as {info.images}, the demonstrations hold "
            f"{examples.spec}; train it on its own kind of frames"
        )
    mean, scale = model.proprio_mean, model.proprio_scale
    seen, spread = examples.proprio.mean(dim=0), examples.proprio.std(dim=0)
    for dim in range(len(mean)):
        if abs(seen[dim] - mean[dim]) > FAR * scale[dim] or spread[dim] > FAR * scale[dim]:
            raise UserError(
                f"proprio dimension {dim} is {seen[dim]:.3g} +- {spread[dim]:.3g} in the "
                f"demonstrations, {name} was trained on {mean[dim]:.3g} +- {scale[dim]:.3g}: "
                "other units or conventions, or another model's statistics; train without "
                "--start-from, or on its own kind of data"
            )
    return model


def _held_out(origin: dict[str, Any]) -> Iterator[float]:
    """Of a checkpoint's trainings, and of those of what it started from."""
    share = origin.get("training", {}).get("held_out")
    if share is not None:
        yield share
    for earlier in ("target", "started_from"):
        if earlier in origin:
            yield from _held_out(origin[earlier])


def _describe_tokeniser(job: TrainJob, model: SmallVLA, examples: Examples) -> str:
    """The truncation table, to a file and for people."""
    some = examples.actions[:: max(1, len(examples) // 4000)]
    table = truncation_table(model.tokeniser, some)
    content = [dataclasses.asdict(row) for row in table]
    path = job.output / TOKENISER_FILE
    with writing(path):
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
    return "what the first K layers reconstruct:\n" + "\n".join(table_lines(table))


def _origin(job: TrainJob, examples: Examples, command: str) -> dict[str, Any]:
    """For config.json: data, code, training."""
    earlier = {"target": checkpoint.inspect(str(job.output)).origin} if job.draft_only else {}
    if job.start_from:
        start = checkpoint.inspect(job.start_from)
        earlier["started_from"] = {"sha256": start.sha256, **start.origin}
    return {
        **earlier,
        "data": examples.origin,
        "code": provenance()["code"],
        "training": {**dataclasses.asdict(job.train), "tokeniser_steps": job.tokeniser_steps},
        "command": command,
    }


def _identity(job: TrainJob, examples: Examples) -> dict[str, Any]:
    """What must be the same for a state to go on."""
    settings = {
        "train": dataclasses.asdict(job.train),
        "model": dataclasses.asdict(job.model),
        "conventions": checkpoint.CONVENTIONS,
    }
    leaves = {  # a state holds lists
        name: list(value) if isinstance(value, tuple) else value
        for name, value in flat(settings).items()
    }
    started = checkpoint.inspect(job.start_from).sha256 if job.start_from else None
    return {
        **leaves,
        "data": examples.origin["sha256"],
        "draft_only": job.draft_only,
        "start_from": started,
        "tokeniser_steps": job.tokeniser_steps,
    }


def _read_state(job: TrainJob, examples: Examples) -> TrainingState | None:
    """The state to go on from, if there is one."""
    path = job.output / STATE_FILE
    if not path.exists():
        return None
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
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
    wanted = _identity(job, examples)
    for name in sorted({*wanted, *made_with}):
        if made_with.get(name) != wanted.get(name):
            raise UserError(
                f"{path} was trained with {name} {made_with.get(name)!r}, this command says "
                f"{wanted.get(name)!r}; give the same settings and data, or another --output"
            )
    return TrainingState(**state)
