"""A run from data to checkpoint: what is interrupted goes on, what does not belong is refused."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from rsd.errors import CannotWriteError, UserError
from rsd.models.small_vla import checkpoint, weights
from rsd.models.small_vla.architecture import DraftConfig, SmallVLAConfig
from rsd.models.small_vla.model import SmallVLA
from rsd.rfsq import RFSQ
from rsd.rfsq_config import RFSQConfig
from rsd.training.config import TrainConfig, TrainJob
from rsd.training.data import load_examples, split
from rsd.training.metrics import (
    CURVES,
    FILE,
    Progress,
    TrainingLog,
    Validation,
    curves,
    read_reports,
)
from rsd.training.objective import wants_bf16
from rsd.training.run import STATE_FILE, check_output, reserved, train
from rsd.training.small_vla import SmallVLAReader
from rsd.training.tokeniser import train_tokeniser
from rsd.types import ImageSpec
from tests.decoding.small_policy import CONFIG, IMAGES, small_checkpoint, small_model
from tests.full_disk import full_disk
from tests.made_up_demonstrations import made_up_demonstration, made_up_folder

SETTINGS = TrainConfig(
    steps=6, draft_steps=20, draft_views=1, batch_size=4, warmup=1, held_out=0.2, average=0.5
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return made_up_folder(folder, [made_up_demonstration(seed, steps=8) for seed in (1, 2, 3)])


def _job(data: Path, output: Path, **changes: object) -> TrainJob:
    job = TrainJob((data,), output, save_every_s=0, report_every=2, train=SETTINGS, model=CONFIG)
    return dataclasses.replace(job, **changes)  # type: ignore[arg-type]


class Killed(Exception):  # noqa: N818
    """Stands for a worker's death."""


def _train(job: TrainJob, die_at: tuple[str, int] | None = None) -> list[str]:
    """Lines said; dies before the report of a phase's step is written."""
    lines: list[str] = []

    def report(progress: Progress) -> None:
        if (progress.phase, progress.step) == die_at:
            raise Killed

    with reserved(job):
        train(job, "python jobs/train.py", report, lines.append)
    return lines


def test_a_run_killed_in_either_phase_goes_on_to_the_same_checkpoint(
    data: Path, tmp_path: Path
) -> None:
    _train(_job(data, tmp_path / "whole"))
    job = _job(data, tmp_path / "killed")
    for die_at in (("target", 4), ("teach", 0), ("draft", 20)):
        with pytest.raises(Killed):
            _train(dataclasses.replace(job, resume=bool(job.output.exists())), die_at)
        assert not (job.output / checkpoint.WEIGHTS_FILE).exists()
        (job.output / f".{STATE_FILE}.killed.tmp").write_bytes(b"half of a state")
    state = torch.load(job.output / STATE_FILE)["state"]
    assert (state["phase"], state["step"]) == ("draft", 10) and state["seconds"] > 0
    lines = _train(dataclasses.replace(job, resume=True))
    assert "going on from step 10 of the draft" in lines
    whole, killed = (
        weights.load_model(str(tmp_path / name))[0].state_dict() for name in ("whole", "killed")
    )
    for name, tensor in whole.items():
        assert torch.equal(tensor, killed[name]), name
    train(job, "", lambda _: None, lines.append)  # a group restarted when all was written
    assert (job.output / FILE).stat().st_mtime <= (job.output / "config.json").stat().st_mtime
    origin = checkpoint.inspect(str(job.output)).origin
    assert origin["training"]["bf16"] == wants_bf16(SETTINGS, torch.device("cpu"))  # and told
    assert origin["seconds"] >= round(state["seconds"])
    left = {path.name for path in job.output.iterdir()}
    assert left == {"config.json", "model.safetensors", "tokeniser.json", FILE, CURVES}
    rows = pq.read_table(job.output / FILE).to_pylist()
    steps = [("target", 2), ("target", 4), ("target", 6), ("draft", 10), ("draft", 20)]
    assert [(row["phase"], row["step"]) for row in rows] == steps
    for row, layers in zip(rows[2:], (4, 3, 3), strict=True):
        assert len(row["accuracy"]) == len(row["majority"]) == layers
        assert all(0 <= share <= 1 for share in row["majority"])


def test_what_a_state_holds_is_what_training_goes_on_from(data: Path, tmp_path: Path) -> None:
    """The negative control of the test above."""
    _train(_job(data, tmp_path / "whole"))
    job = _job(data, tmp_path / "spoilt")
    with pytest.raises(Killed):
        _train(job, ("target", 4))
    content = torch.load(job.output / STATE_FILE)
    assert (content["state"]["phase"], content["state"]["step"]) == ("target", 2)
    content["state"]["optimiser"]["state"][0]["exp_avg"].zero_()
    torch.save(content, job.output / STATE_FILE)
    _train(dataclasses.replace(job, resume=True))
    whole, spoilt = (
        load_file(tmp_path / name / "model.safetensors") for name in ("whole", "spoilt")
    )
    assert any(not torch.equal(whole[name], spoilt[name]) for name in whole)


def test_a_state_of_other_settings_or_data_is_refused(data: Path, tmp_path: Path) -> None:
    job = _job(data, tmp_path / "out", resume=True)
    with pytest.raises(Killed):
        _train(job, ("teach", 0))
    longer = dataclasses.replace(SETTINGS, steps=9)
    with pytest.raises(UserError, match=r"trained with other.*\n  train.steps: 6 -> 9$"):
        _train(dataclasses.replace(job, train=longer))
    other = made_up_folder(tmp_path / "other", [made_up_demonstration(s, 8) for s in (5, 6)])
    with pytest.raises(UserError, match=r"trained with other.*\n  data: \"\w+\" -> \"\w+\"$"):
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


def test_a_draft_trained_again_leaves_the_policy_its_suites(data: Path, tmp_path: Path) -> None:
    """The suites are those of the target, which decides what the policy can do."""
    known = {"data": {"suites": ["libero_goal", "libero_10"]}}
    weights.save(small_model(), tmp_path, IMAGES, known)
    job = _job(data, tmp_path, draft_only=True)
    for _ in range(2):
        _train(job)
        info = checkpoint.inspect(str(tmp_path))
        assert info.suites == ("libero_goal", "libero_10")
        assert info.origin["data"]["suites"] == ["libero_spatial"]
    with pytest.raises(Killed):
        _train(job, ("draft", 20))
    with pytest.raises(UserError, match="interrupted training; --resume goes on with it"):
        _train(job)
    lines = _train(dataclasses.replace(job, resume=True))
    assert "going on from step 10 of the draft" in lines


def test_reports_of_older_code_are_read() -> None:
    rows = read_reports(Path(checkpoint.__file__).parents[2] / "checkpoints" / "libero")
    assert rows[-1]["phase"] == "draft" and rows[-1]["survival"] is None
    assert "draft_accuracy/layer_4" in curves(rows[-1])
    assert not any("survival" in name for name in curves(rows[-1]))


def test_a_draft_of_other_sizes_takes_the_place_of_the_one_before(
    data: Path, tmp_path: Path
) -> None:
    """And nothing else of the checkpoint changes."""
    small_checkpoint(tmp_path)
    before = load_file(tmp_path / checkpoint.WEIGHTS_FILE)
    wider = dataclasses.replace(CONFIG, draft=DraftConfig(24, 5))
    job = _job(data, tmp_path, draft_only=True, model=wider)
    with pytest.raises(Killed):
        _train(job, ("draft", 20))
    _train(dataclasses.replace(job, resume=True))
    info, after = checkpoint.inspect(str(tmp_path)), load_file(tmp_path / checkpoint.WEIGHTS_FILE)
    assert info.model == wider
    for name, tensor in after.items():
        if not name.startswith("draft"):
            assert torch.equal(tensor, before[name]), name
    assert after["draft.norm.weight"].shape == (24,)
    _train(_job(data, tmp_path, draft_only=True, model=SmallVLAConfig()))  # sizes left out
    assert checkpoint.inspect(str(tmp_path)).model == wider
    deeper = dataclasses.replace(wider, keypoints=CONFIG.keypoints + 1)
    with pytest.raises(UserError, match=r"leave out --model.\*, but for --model.draft.\*, or"):
        _train(_job(data, tmp_path, draft_only=True, model=deeper))


def test_a_training_that_diverges_leaves_no_checkpoint(data: Path, tmp_path: Path) -> None:
    hot = dataclasses.replace(SETTINGS, learning_rate=1e30, warmup=0)
    with pytest.raises(UserError, match="it has diverged; start anew with another --output"):
        _train(_job(data, tmp_path / "out", train=hot))
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left <= {"tokeniser.json", CURVES, FILE, STATE_FILE}
    if STATE_FILE in left:
        kept = torch.load(tmp_path / "out" / STATE_FILE)["state"]["average"]
        assert all(bool(tensor.isfinite().all()) for tensor in kept.values())


def test_statistics_of_other_units_are_refused(data: Path, tmp_path: Path) -> None:
    model = small_model()
    model.proprio_mean[2], model.proprio_scale[2] = 1000.0, 50.0  # mm, as it were
    weights.save(model, tmp_path / "start", IMAGES, {})
    job = _job(data, tmp_path / "out", start_from=str(tmp_path / "start"))
    with pytest.raises(UserError, match=r"proprio dimension 2 is .* was trained on 1e\+03 \+- 50"):
        _train(job)
    again = _job(data, tmp_path / "start", draft_only=True)
    with pytest.raises(UserError, match="other units or conventions"):
        _train(again)


def test_what_a_start_was_trained_on_is_not_held_out(data: Path, tmp_path: Path) -> None:
    """Nor what that one had started from."""
    first = _job(data, tmp_path / "first")
    _train(first)
    less = dataclasses.replace(SETTINGS, held_out=0.1)
    second = _job(data, tmp_path / "second", start_from=str(first.output), train=less)
    _train(second)
    third = _job(data, tmp_path / "third", start_from=str(second.output))
    with pytest.raises(
        UserError, match=r"--train.held-out 0.2: .*second has been trained with 0.1"
    ):
        _train(third)
    with pytest.raises(UserError, match=r"give 0.1 or less"):
        _train(_job(data, second.output, draft_only=True))


def test_an_encoder_is_not_fitted_to_what_is_held_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def spy(config: RFSQConfig, actions: Tensor, **settings: Any) -> RFSQ:
        seen.append(actions)
        return train_tokeniser(config, actions, **settings)

    monkeypatch.setattr("rsd.training.run.train_tokeniser", spy)
    _train(_job(data, tmp_path / "out"))
    examples = load_examples([data], 8, SmallVLAReader(CONFIG.word_buckets))
    train_rows, held_out = split(examples.placement, SETTINGS.held_out)
    assert torch.equal(seen[0], examples.actions[train_rows]) and len(held_out)


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
        check_output(dataclasses.replace(job, draft_only=True))


@pytest.mark.parametrize("asked", [SmallVLAConfig(), CONFIG])
def test_chunks_of_another_length_start_from_a_checkpoint_but_for_their_codes(
    data: Path, tmp_path: Path, asked: SmallVLAConfig
) -> None:
    start = small_checkpoint(tmp_path / "start")
    still = dataclasses.replace(SETTINGS, learning_rate=1e-12)
    longer = dataclasses.replace(asked.tokeniser, steps=12)
    job = _job(data, tmp_path / "out", start_from=str(start), train=still)
    _train(dataclasses.replace(job, model=dataclasses.replace(asked, tokeniser=longer)))
    wanted = dataclasses.replace(CONFIG.tokeniser, steps=12)
    assert checkpoint.inspect(str(job.output)).model.tokeniser == wanted
    before, after = (load_file(path / "model.safetensors") for path in (start, job.output))
    of_codes = ("parallel_heads", "regression_head", "target.heads", "target.code_embedding")
    for name in before:
        if name.startswith(of_codes):
            assert not torch.equal(before[name], after[name]), name
        elif not name.startswith(("draft", "tokeniser")):
            torch.testing.assert_close(after[name], before[name], msg=name)
    again = _job(data, tmp_path / "again", start_from=str(job.output))  # its own, when none is said
    _train(dataclasses.replace(again, model=SmallVLAConfig()))
    assert checkpoint.inspect(str(again.output)).model.tokeniser.steps == 12


def test_a_length_of_chunks_that_a_start_cannot_have_is_refused(data: Path, tmp_path: Path) -> None:
    halves = dataclasses.replace(CONFIG.target, positions=2)
    config = dataclasses.replace(CONFIG, target=halves)
    start = tmp_path / "start"
    weights.save(SmallVLA(config, IMAGES.height), start, IMAGES, {"data": "none"})
    odd = dataclasses.replace(SmallVLAConfig().tokeniser, steps=15)
    job = _job(data, tmp_path / "out", start_from=str(start))
    job = dataclasses.replace(job, model=dataclasses.replace(SmallVLAConfig(), tokeniser=odd))
    with pytest.raises(UserError, match=r"tokeniser.steps: .*2 positions do not divide the 15"):
        _train(job)


def test_a_target_gets_the_regression_head_that_its_start_lacks(data: Path, tmp_path: Path) -> None:
    headless = dataclasses.replace(CONFIG, regression=False)
    start = tmp_path / "start"
    weights.save(SmallVLA(headless, IMAGES.height), start, IMAGES, {"data": "none"})
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


def _refused(job: TrainJob, message: str) -> None:
    with pytest.raises(UserError, match=message), reserved(job):
        raise AssertionError("not refused")


def test_an_output_in_use_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "download.part").write_text("mine")
    before = sorted(tmp_path.iterdir())
    _refused(_job(data, tmp_path), "not empty; use --resume")
    _refused(_job(data, tmp_path, resume=True), "no training to go on with, but download.part")
    _refused(_job(data, tmp_path / "nowhere", draft_only=True), "no checkpoint at")
    _refused(_job(data, tmp_path / "notes.txt"), "is a file")
    _refused(_job(data, tmp_path / "notes.txt" / "out"), r"cannot write .*out: .* another --output")
    assert sorted(tmp_path.iterdir()) == before
    finished = small_checkpoint(tmp_path / "policy")
    _refused(_job(data, finished, resume=True), "finished checkpoint")


def test_a_run_killed_while_its_checkpoint_was_written_can_be_resumed(
    data: Path, tmp_path: Path
) -> None:
    job = _job(data, tmp_path / "out")
    with pytest.raises(Killed):
        _train(job, ("draft", 20))
    small_checkpoint(tmp_path / "other")
    weights = tmp_path / "other" / checkpoint.WEIGHTS_FILE
    weights.replace(job.output / checkpoint.WEIGHTS_FILE)  # renamed before its description is
    _train(dataclasses.replace(job, resume=True))
    checkpoint.inspect(str(job.output))


def test_two_trainings_do_not_write_one_output(data: Path, tmp_path: Path) -> None:
    job = _job(data, tmp_path / "out")
    with reserved(job):
        _refused(dataclasses.replace(job, resume=True), "another process is writing to")
    with reserved(job):
        pass


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


@pytest.mark.parametrize(("room", "file"), [(0, "tokeniser.json"), (7000, "training.pt")])
def test_a_full_disk_is_told_by_the_file_and_the_same_job_goes_on_when_there_is_room(
    room: int, file: str, data: Path, tmp_path: Path
) -> None:
    job = _job(data, tmp_path / "policy")
    told = rf"cannot write .*{file}: .*make room there"
    with reserved(job), full_disk(room), pytest.raises(CannotWriteError, match=told):
        train(job, "", lambda _: None, lambda _: None)
    assert not [path.name for path in job.output.rglob("*.tmp")]
    _train(dataclasses.replace(job, resume=True))
    assert (job.output / checkpoint.WEIGHTS_FILE).exists()


def test_a_checkpoint_that_has_no_room_leaves_the_one_that_is_there(
    data: Path, tmp_path: Path
) -> None:
    model = small_model()
    weights.save(model, tmp_path, IMAGES, {})
    before = checkpoint.inspect(str(tmp_path)).sha256
    with full_disk(1000), pytest.raises(CannotWriteError, match="make room"):
        weights.save(model, tmp_path, IMAGES, {"another": "one"})
    assert checkpoint.inspect(str(tmp_path)).sha256 == before
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", checkpoint.WEIGHTS_FILE}
