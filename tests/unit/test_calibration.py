"""Calibrations: figures against computations of their own, files that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rsd import calibration
from rsd.calibration import Bin, Calibration, Closeness, Observed
from rsd.commands import calibrate
from rsd.commands.calibrate import acting
from rsd.console import make_console
from rsd.errors import CannotWriteError, UserError
from rsd.types import Confidence, EpisodeKey

NAMES = ("entropy", "speed")
SHA = "a" * 64


def observed(chunks: int = 400, seed: int = 0) -> Observed:
    """Chunks of 20 placements that are close with a probability of their own."""
    rng = np.random.default_rng(seed)
    features = rng.normal([2.0, 50.0], [1.0, 20.0], (chunks, 2))
    close = rng.random(chunks) < 1 / (1 + np.exp(-(3 - 2 * features[:, 0])))
    return Observed(
        names=NAMES,
        features=features,
        apart_mm=np.where(close, 1.0, 30.0),
        apart_degrees=np.zeros(chunks),
        gripper=np.ones(chunks, bool),
        placement=np.arange(chunks) % 20,
    )


def test_close_is_within_both_bounds_and_of_one_gripper() -> None:
    seen = Observed(
        (),
        np.zeros((5, 0)),
        np.array([10.0, 10.1, 0, 0, 0]),
        np.array([5.0, 0, 5.1, 0, 0]),
        np.array([True, True, True, False, True]),
        np.arange(5),
    )
    assert seen.close(Closeness(10, 5)).tolist() == [True, False, False, False, True]


def test_features_are_taken_by_name_and_what_was_not_seen_is_refused() -> None:
    seen = observed()
    assert np.array_equal(seen.of(NAMES[::-1]), seen.features[:, ::-1])
    with pytest.raises(UserError, match="entropy of layer 9"):
        seen.of(["entropy of layer 9"])


def test_reliability_is_what_counting_chunk_by_chunk_gives() -> None:
    rng = np.random.default_rng(1)
    predicted = np.append(np.round(rng.random(200), 2), [0.0, 1.0])
    close = rng.random(202) < predicted
    found = calibration.reliability(predicted, close)

    bins = []
    for low in range(10):
        here = [
            (p, c)
            for p, c in zip(predicted.tolist(), close.tolist(), strict=True)
            if low / 10 <= p < (low + 1) / 10 or (low == 9 and p == 1)
        ]
        mean = [sum(each) / len(here) for each in zip(*here, strict=True)]
        bins.append(Bin(len(here), pytest.approx(mean[0]), pytest.approx(mean[1])))
    assert list(found.bins) == bins
    assert found.chunks == sum(each.chunks for each in found.bins) == 202
    off = sum(each.chunks * abs(each.predicted.expected - each.observed.expected) for each in bins)
    assert found.error == pytest.approx(off / 202)
    pairs = [
        1.0 if one > other else 0.5 if one == other else 0.0
        for one in predicted[close]
        for other in predicted[~close]
    ]
    assert found.area == pytest.approx(np.mean(pairs))
    assert found.brier == pytest.approx(
        np.mean([(p - c) ** 2 for p, c in zip(predicted, close, strict=True)])
    )


def test_a_fit_is_where_no_weight_could_change_for_the_better() -> None:
    seen = observed()
    close = seen.close(Closeness())
    confidence = calibration.fit(seen.features, close, NAMES)
    scale = seen.features.std(axis=0)

    def loss(weights: np.ndarray, bias: float) -> float:
        z = seen.features @ weights + bias
        penalty = calibration.RIDGE / 2 * ((weights * scale) ** 2).sum()
        return float(np.logaddexp(0, -np.where(close, z, -z)).sum() + penalty)

    weights, bias = np.array(confidence.weights), confidence.bias
    best = loss(weights, bias)
    for step in (-1e-3, 1e-3):
        assert loss(weights, bias + step) > best
        for index in range(2):
            moved = weights.copy()
            moved[index] += step / scale[index]
            assert loss(moved, bias) > best
    assert weights[0] < 0, "a chunk is close where its first feature is low"


def test_a_fit_is_the_one_that_newtons_method_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "RIDGE", 1.0)
    seen = observed()
    found = calibration.fit(seen.features, seen.close(Closeness()), NAMES)
    assert found.weights == pytest.approx((-2.0949870189302, 0.0042779943798446), rel=1e-8)
    assert found.bias == pytest.approx(2.9717023363884, rel=1e-8)


def test_what_nothing_fits_is_an_error() -> None:
    with pytest.raises(ValueError, match="no logistic function fits"):
        calibration.fit(np.full((4, 2), np.nan), np.array([True, False] * 2), NAMES)


def test_held_out_chunks_are_judged_by_fits_that_do_not_know_their_placement() -> None:
    """The negative control: what came is a matter of the placement alone, which the feature names;
    a fit that knew it would be right each time."""
    placement = np.repeat(np.arange(20), 10)
    rng = np.random.default_rng(2)
    close = (rng.random(20) < 0.5)[placement]
    feature = np.eye(20)[placement]
    names = tuple(map(str, range(20)))
    seen = Observed(names, feature, np.zeros(200), np.zeros(200), close, placement)
    known = calibration.probability(calibration.fit(feature, close, names), feature)
    assert calibration.area(known, close) == 1
    blind = calibration.held_out(seen, close, range(20))
    for fold in range(calibration.FOLDS):  # all that it has is the share of the others
        assert len(set(blind[placement % calibration.FOLDS == fold].round(9))) == 1


def test_rollouts_differ_in_who_acts_and_the_same_one_does_not() -> None:
    keys = [EpisodeKey("calibration", "libero_goal", 0, seed) for seed in range(500, 540)]
    names = [acting(key).name for key in keys]
    assert names == [acting(key).name for key in keys] and len(set(names)) > 30
    assert all(name.endswith("+refresh=0+gripper=0+stall=0mm") for name in names)


def made(sha256: str = SHA) -> Calibration:
    seen = observed()
    close = seen.close(Closeness())
    confidence = calibration.fit(seen.features, close, NAMES)
    predicted = calibration.probability(confidence, seen.features)
    found = calibration.reliability(predicted, close)
    return Calibration(sha256, Closeness(), confidence, found, {"rollouts": 3})


def test_what_is_written_beside_a_checkpoint_is_read_again(tmp_path: Path) -> None:
    (tmp_path / calibration.FILE).write_text(made().content())
    assert calibration.read(tmp_path, SHA, "mine") == made()


def test_a_calibration_that_does_not_fit_is_refused_with_the_command_that_makes_one(
    tmp_path: Path,
) -> None:
    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match) as told:
            calibration.read(tmp_path, SHA, "mine")
        assert "rsd calibrate --policy mine" in str(told.value)

    path = tmp_path / calibration.FILE
    refused("'mine' has no calibration")
    path.write_text(made("b" * 64).content())
    refused("calibration of another checkpoint .'bbbbbbbbbbbb', this is aaaaaaaaaaaa")
    good = json.loads(made().content())
    for content, match in (
        ("[]", "format 1"),
        ("{", "calibration.json"),
        (json.dumps(good | {"format": 2}), "format 1"),
        (json.dumps(good | {"closeness": {"mm": "ten", "degrees": 5.0}}), "Closeness.mm is 'ten'"),
        (json.dumps({k: v for k, v in good.items() if k != "confidence"}), "confidence"),
        (
            json.dumps(good | {"confidence": good["confidence"] | {"weights": [1.0]}}),
            "1 weights of 2 features",
        ),
        (
            json.dumps(good | {"confidence": good["confidence"] | {"features": ["mood", "speed"]}}),
            "unknown feature 'mood'",
        ),
    ):
        path.write_text(content)
        refused(match)


def test_where_all_other_placements_are_alike_so_is_a_held_out_one() -> None:
    """Their fit has no end: its bias grows for ever. All together, they are a fit that begins where
    it ends."""
    seen = calibration.together([observed(), observed()])
    second = seen.placement == 1
    for close in (second, ~second):
        found = calibration.held_out(seen, close, range(len(NAMES)))
        assert found == pytest.approx((~close).astype(float), abs=1e-6)
    halves = calibration.fit(seen.features, second, NAMES)
    assert calibration.probability(halves, seen.features) == pytest.approx(0.5)


def test_a_probability_is_the_logistic_function_of_the_weighed_features() -> None:
    confidence = Confidence(("a", "b"), (1.0, -1.0), 0.0)
    p = calibration.probability(confidence, np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 800.0]]))
    assert p[0] == 0.5 and p[1] == pytest.approx(1 / (1 + np.exp(-1))) and p[2] < 1e-200


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--policy", "toy"], "decodes .* only, so that there is no draft to trust"),
        (["--check", "stord"], "choose fresh or stored"),
        (["--check", "stored", "--rollouts", "51"], "a task has 50 stored trials"),
        (["--rollouts", "0"], "rollouts 0"),
        (["--mm", "-1"], "mm -1"),
        (["--first-seed", "0"], "seed 0 draws the fixtures"),
        (["--suite", "libero_gaol"], "did you mean 'libero_goal'"),
        (["--renderer", "none"], "a policy needs frames"),
        (["--tasks", "10"], "task 10 does not exist"),
        (["--tasks", "3", "3"], "task named twice: 3"),
        (["--suite", "libero_goal", "libero_goal"], "suite named twice: libero_goal"),
        (["--suite", "libero_goal", "--tasks", "0", "--rollouts", "1"], "of one task: give more"),
        (["--resume"], "name its --seen"),
        (["--seen", "s3://bucket/seen"], "this job writes to a folder"),
    ],
)
def test_what_cannot_be_calibrated_is_told_before_anything_starts(
    words: list[str], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        calibrate.main(words, make_console())


@pytest.mark.parametrize("flag", ["--json", "--seen"])
def test_what_has_no_place_is_told_before_anything_is_rolled_out(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "_roll_out", lambda *_: pytest.fail("rolled out"))
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "made"
    with pytest.raises(CannotWriteError, match=f"cannot write {place}"):
        calibrate.main(["--assets", "lite", flag, str(place)], make_console())


def test_a_checkpoint_that_cannot_take_its_calibration_is_told_before_anything_is_rolled_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "_roll_out", lambda *_: pytest.fail("rolled out"))
    (tmp_path / "file").touch()
    monkeypatch.setattr(calibrate, "_folder", lambda _: tmp_path / "file")
    with pytest.raises(CannotWriteError, match=r"cannot write .*calibration\.json"):
        calibrate.main([], make_console())
