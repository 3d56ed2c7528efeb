"""A run from data to checkpoint: what is interrupted goes on, what does not belong is refused."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rsd.architecture import SmallVLAConfig
from rsd.errors import UserError
from rsd.models import checkpoint, policy
from rsd.models.small_vla import SmallVLA
from rsd.training.config import TrainConfig, TrainJob
from rsd.training.metrics import CURVES, FILE, Progress, TrainingLog, Validation
from rsd.training.objective import wants_bf16
from rsd.training.run import STATE_FILE, check_output, train
from rsd.types import ImageSpec
from tests.decoding.small_policy import CONFIG, IMAGES, small_checkpoint
from tests.made_up_demonstrations import made_up_demonstration, made_up_folder

SETTINGS = TrainConfig(
    steps=3, draft_steps=4, draft_views=1, batch_size=4, warmup=1, held_out=0.2, average=0.5
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return made_up_folder(folder, [made_up_demonstration(seed, steps=8) for seed in (1, 2, 3)])


def _job(data: Path, output: Path, **changes: object) -> TrainJob:
    job = TrainJob((data,), output, save_every_s=0, train=SETTINGS, model=CONFIG)
    return dataclasses.replace(job, **changes)  # type: ignore[arg-type]


class Killed(Exception):  # noqa: N818
    """Stands for a worker's death."""


def _train(job: TrainJob, die_in: str = "") -> list[str]:
    """Lines said; dies at the first report of phase `die_in`."""
    lines: list[str] = []

    def report(progress: Progress) -> None:
        if progress.phase == die_in:
            raise Killed

    check_output(job)
    train(job, "python jobs/train.py", report, lines.append)
    return lines


def test_a_run_killed_in_either_phase_goes_on_to_the_same_checkpoint(
    data: Path, tmp_path: Path
) -> None:
    _train(_job(data, tmp_path / "whole"))
    job = _job(data, tmp_path / "killed")
    with pytest.raises(Killed):
        _train(job, die_in="teach")
    assert not (job.output / checkpoint.WEIGHTS_FILE).exists()
    (job.output / "training.part").write_bytes(b"half of a state")
    with pytest.raises(Killed):
        _train(dataclasses.replace(job, resume=True), die_in="draft")
    lines = _train(dataclasses.replace(job, resume=True))
    assert "going on from step 0 of the draft" in lines
    whole, killed = (
        policy.load(str(tmp_path / name), deterministic=False, device="cpu").model.state_dict()
        for name in ("whole", "killed")
    )
    for name, tensor in whole.items():
        assert torch.equal(tensor, killed[name]), name
    train(job, "", lambda _: None, lines.append)  # a group restarted when all was written
    assert (job.output / FILE).stat().st_mtime <= (job.output / "config.json").stat().st_mtime
    training = checkpoint.inspect(str(job.output)).origin["training"]
    assert training["bf16"] == wants_bf16(SETTINGS, torch.device("cpu"))  # decided, and told
    left = {path.name for path in job.output.iterdir()}
    assert left == {"config.json", "model.safetensors", "tokeniser.json", FILE, CURVES}
    rows = pq.read_table(job.output / FILE).to_pylist()
    assert [(row["phase"], row["step"]) for row in rows] == [("target", 3), ("draft", 4)]
    for row, layers in zip(rows, (4, 3), strict=True):
        assert len(row["accuracy"]) == len(row["majority"]) == layers
        assert all(0 <= share <= 1 for share in row["majority"])


def test_a_state_of_other_settings_or_data_is_refused(data: Path, tmp_path: Path) -> None:
    job = _job(data, tmp_path / "out", resume=True)
    with pytest.raises(Killed):
        _train(job, die_in="teach")
    longer = dataclasses.replace(SETTINGS, steps=9)
    with pytest.raises(UserError, match=r"train.steps 3, this command says 9"):
        _train(dataclasses.replace(job, train=longer))
    other = made_up_folder(tmp_path / "other", [made_up_demonstration(s, 8) for s in (5, 6)])
    with pytest.raises(UserError, match=r"trained with data '\w+', this command says '\w+'"):
        _train(dataclasses.replace(job, data=(other,)))
    state = job.output / STATE_FILE
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"training.pt is damaged.*delete it"):
        _train(job)


def test_a_draft_is_not_trained_on_other_frames_than_its_target(data: Path, tmp_path: Path) -> None:
    output = small_checkpoint(tmp_path / "policy")
    other = ImageSpec(IMAGES.height, IMAGES.width, 4, True)
    drawn = [made_up_demonstration(seed, 8, images=other) for seed in (1, 2)]
    job = _job(made_up_folder(tmp_path / "data", drawn), output, draft_only=True)
    with pytest.raises(UserError, match="reads frames drawn as"):
        _train(job)
    before = checkpoint.inspect(str(output)).sha256
    _train(dataclasses.replace(job, data=(data,)))
    assert checkpoint.inspect(str(output)).sha256 != before
    assert checkpoint.inspect(str(output)).origin["target"] == {"data": "none"}


def test_a_target_starts_from_a_checkpoint_with_its_sizes_and_statistics(
    data: Path, tmp_path: Path
) -> None:
    """With a learning rate of next to nothing it stays what it was, its draft apart."""
    start = small_checkpoint(tmp_path / "start")
    still = dataclasses.replace(SETTINGS, learning_rate=1e-12)
    job = _job(data, tmp_path / "out", start_from=str(start), train=still)
    _train(dataclasses.replace(job, model=SmallVLAConfig()))  # as if none were asked for
    before, after = (load_file(path / "model.safetensors") for path in (start, job.output))
    assert before.keys() == after.keys()
    for name in before.keys() - {name for name in before if name.startswith("draft")}:
        torch.testing.assert_close(after[name], before[name], msg=name)
    started = checkpoint.inspect(str(job.output)).origin["started_from"]
    assert started == {"sha256": checkpoint.inspect(str(start)).sha256, "data": "none"}
    other = dataclasses.replace(CONFIG, word_buckets=99)
    with pytest.raises(UserError, match="has sizes of its own"):
        _train(dataclasses.replace(job, model=other, output=tmp_path / "other"))
    with pytest.raises(UserError, match="give one of them"):
        _train(dataclasses.replace(job, draft_only=True))


def test_a_target_gets_the_regression_head_that_its_start_lacks(data: Path, tmp_path: Path) -> None:
    headless = dataclasses.replace(CONFIG, regression=False)
    start = tmp_path / "start"
    policy.save(SmallVLA(headless, IMAGES.height), start, IMAGES, {"data": "none"})
    job = _job(data, tmp_path / "out", start_from=str(start))
    _train(dataclasses.replace(job, model=SmallVLAConfig()))
    assert checkpoint.inspect(str(job.output)).model == CONFIG
    other = _job(data, tmp_path / "other", start_from=str(start), model=headless)
    _train(other)
    assert checkpoint.inspect(str(other.output)).model == headless


def test_demonstrations_drawn_in_different_ways_are_not_mixed(tmp_path: Path) -> None:
    other = ImageSpec(IMAGES.height, IMAGES.width, 4, True)
    drawn = [made_up_demonstration(1, 8), made_up_demonstration(2, 8, images=other)]
    with pytest.raises(UserError, match=r"mixed image settings .* train on one"):
        _train(_job(made_up_folder(tmp_path / "data", drawn), tmp_path / "out"))


def test_an_output_in_use_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty; use --resume"):
        check_output(_job(data, tmp_path))
    finished = small_checkpoint(tmp_path / "policy")
    with pytest.raises(UserError, match="finished checkpoint"):
        check_output(_job(data, finished, resume=True))
    with pytest.raises(UserError, match="no checkpoint at"):
        check_output(_job(data, tmp_path / "nowhere", draft_only=True))
    with pytest.raises(UserError, match="is a file"):
        check_output(_job(data, tmp_path / "notes.txt"))


def test_reports_behind_a_resumed_state_are_dropped_and_curves_go_on(tmp_path: Path) -> None:
    seen = Validation(1.0, (0.5, 0.75), (0.9, 0.8), 2.0)
    log = TrainingLog(tmp_path, "target", 0)
    for step in (10, 20, 30):
        log.add(Progress("target", step, 40, 1.5, 1e-3, 100.0, seen if step == 30 else None))
    assert pq.read_table(tmp_path / FILE).num_rows == 3  # while it runs
    log.close()
    time.sleep(1.1)  # TensorBoard reads files in the order of their names, which hold seconds
    log = TrainingLog(tmp_path, "target", 20)
    log.add(Progress("target", 40, 40, 1.0, validation=seen))
    log.add(Progress("draft", 5, 5, 0.5, validation=seen))
    log.close()
    table = pq.read_table(tmp_path / FILE)
    assert table["step"].to_pylist() == [10, 20, 40, 5]
    assert table["accuracy"].to_pylist() == [[], [], [0.5, 0.75], [0.5, 0.75]]
    assert all(field.metadata[b"unit"] for field in table.schema)
    curves = EventAccumulator(str(tmp_path / CURVES))
    curves.Reload()
    assert [event.step for event in curves.Scalars("target/loss")] == [10, 20, 40]
    assert [event.step for event in curves.Scalars("draft/loss")] == [45]
    assert curves.Scalars("target_majority/layer_1")[-1].value == pytest.approx(0.8)
    (tmp_path / FILE).write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UserError, match=r"training.parquet cannot be read"):
        TrainingLog(tmp_path, "target", 20)
