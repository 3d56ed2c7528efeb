"""How well a draft's confidence is calibrated: what is seen on rollouts, the fit, and the file
beside a checkpoint that holds it (`rsd calibrate`, docs/temporal.md). No torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsd.errors import UserError, brief, reading, unknown
from rsd.foreign import MOST_BYTES, from_json, parse_json, read_bytes
from rsd.types import Confidence

# What a confidence may go by, of a drafted chunk (rsd/decoding/confidence.py). Of some there are
# several, which are numbered.
FEATURES = {
    "smallest margin": "of the two best levels' logits, of any token",
    "mean margin": "of all tokens",
    "entropy": "mean of all tokens, nats",
    "coarse entropy": "of the coarsest layer's",
    "worst coarse entropy": "the largest of those",
    "entropy of the last latent": "of its tokens: the gripper's, without an encoder",
    "jump": "of the translation from the last action of the chunk before to the first",
    "speed": "mean translation of a step",
    "turn": "mean rotation of a step",
    "entropy of layer": "layer by layer",
    "entropy of latent": "latent by latent: without an encoder, number by number of the action",
    "jump of number": "from the last action of the chunk before to the first, number by number",
    "mean of number": "of the plan, number by number",
    "size of number": "mean distance from 0, number by number",
    "proprio": "that it was decided on",
}


def numbered(family: str, count: int) -> list[str]:
    """The names of so many features."""
    return [f"{family} {index}" for index in range(count)]


def places(names: Sequence[str], known: Sequence[str]) -> list[int]:
    """Where features stand among those that are `known`. Raises UserError for one that is not."""
    for name in names:
        if name not in known:
            raise unknown("feature", name, known)
    return [known.index(name) for name in names]


def family(name: str) -> str:
    """Of FEATURES, for the name of one."""
    words, _, index = name.rpartition(" ")
    return words if index.isdecimal() else name


FILE = "calibration.json"
FORMAT = 1
BINS = 10  # of predicted probability
FOLDS = 5  # placements are held out in turns
TOLERANCE = 1e-7  # of a fit's gradient, a chunk
RIDGE = 10.0  # of the fit, on weights of standardised features, by chunk


@dataclass(frozen=True)
class Closeness:
    """What counts as nearly the same chunk; the gripper's command is the same in every step."""

    mm: float = 10.0  # of any step's translation along any axis
    degrees: float = 5.0  # of its rotation about any


@dataclass(frozen=True)
class Observed:
    """Chunks of rollouts, in which draft and target were both asked."""

    names: tuple[str, ...]  # of F features
    features: np.ndarray  # float64 (n, F)
    apart_mm: np.ndarray  # float64 (n,): the largest of any step, along any axis
    apart_degrees: np.ndarray  # likewise
    gripper: np.ndarray  # bool (n,): the same in all steps
    placement: np.ndarray  # int64 (n,): which rollout

    def of(self, names: Sequence[str]) -> np.ndarray:
        """Some of the features. Raises UserError for what was not seen."""
        return self.features[:, places(names, self.names)]

    def close(self, closeness: Closeness) -> np.ndarray:
        """bool (n,): whether the target says nearly what the draft does."""
        near = (self.apart_mm <= closeness.mm) & (self.apart_degrees <= closeness.degrees)
        return near & self.gripper


def together(parts: Sequence[Observed]) -> Observed:
    """Of several rollouts, which are numbered by their order."""
    assert len({part.names for part in parts}) == 1, "of one policy"
    places = [np.full(len(part.apart_mm), index) for index, part in enumerate(parts)]
    seen = ("features", "apart_mm", "apart_degrees", "gripper")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in seen}
    return Observed(parts[0].names, **joined, placement=np.concatenate(places))


@dataclass(frozen=True)
class Bin:
    """Chunks of about one predicted probability."""

    chunks: int
    predicted: float  # mean
    observed: float  # share of them that were close


@dataclass(frozen=True)
class Reliability:
    """Predicted against observed, and how well the one orders the other."""

    chunks: int
    close: float  # share of all
    error: float  # mean distance of predicted and observed, bins weighing as their chunks
    brier: float  # mean squared distance of the probability from what came
    area: float  # probability that a close chunk has the higher one of two, 0.5 by chance
    bins: tuple[Bin, ...]


def reliability(predicted: np.ndarray, close: np.ndarray) -> Reliability:
    """Of probabilities (n,) and what came, bool (n,)."""
    index = np.minimum((predicted * BINS).astype(int), BINS - 1)
    bins = tuple(
        Bin(int(here.sum()), float(predicted[here].mean()), float(close[here].mean()))
        for here in (index == each for each in range(BINS))
        if here.any()
    )
    error = sum(each.chunks * abs(each.predicted - each.observed) for each in bins) / len(close)
    return Reliability(
        chunks=len(close),
        close=float(close.mean()),
        error=float(error),
        brier=float(np.mean((predicted - close) ** 2)),
        area=area(predicted, close),
        bins=bins,
    )


def area(score: np.ndarray, close: np.ndarray) -> float:
    """Under the curve of receiver's operating characteristic (Mann-Whitney), ties by halves; NaN
    where all are close, or none."""
    if close.all() or not close.any():
        return float("nan")
    from scipy.stats import mannwhitneyu  # takes a second, which reading a calibration need not

    above = mannwhitneyu(score[close], score[~close]).statistic
    return float(above / (close.sum() * (~close).sum()))


def fit(features: np.ndarray, close: np.ndarray, names: tuple[str, ...]) -> Confidence:
    """Logistic regression with a ridge on standardised features (n, F): where the gradient of its
    convex loss is nothing, or nearly: where all are close, or none, it is nothing only at an
    infinite bias. Raises ValueError where it is not found, such as of NaN."""
    from scipy.optimize import root  # takes a moment, as above
    from scipy.special import expit

    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    x = np.column_stack([(features - mean) / scale, np.ones(len(features))])
    ridge = RIDGE * np.append(np.ones(len(names)), 0)

    def gradient(weights: np.ndarray) -> np.ndarray:
        slope: np.ndarray = x.T @ (expit(x @ weights) - close) + ridge * weights
        return slope

    found = root(gradient, np.zeros(x.shape[1]))
    # not by `success`, which asks for digits that a weight of 0 does not have
    if not np.abs(gradient(found.x)).max() <= TOLERANCE * len(x):
        raise ValueError(f"no logistic function fits these features: {found.message}")
    own = found.x[:-1] / scale
    return Confidence(names, tuple(own.tolist()), float(found.x[-1] - own @ mean))


def probability(confidence: Confidence, features: np.ndarray) -> np.ndarray:
    """float64 (n,), of features (n, F)."""
    from scipy.special import expit

    found: np.ndarray = expit(features @ np.array(confidence.weights) + confidence.bias)
    return found


def held_out(seen: Observed, close: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """Probabilities (n,) of every chunk by a fit to the placements of other folds, with these
    features only."""
    found = np.zeros(len(close))
    some = seen.features[:, list(columns)]
    names = tuple(map(str, columns))
    for fold in range(FOLDS):
        here = seen.placement % FOLDS == fold
        found[here] = probability(fit(some[~here], close[~here], names), some[here])
    return found


@dataclass(frozen=True)
class _Stored:
    """What is read of a file, with its types."""

    checkpoint_sha256: str
    closeness: Closeness
    confidence: Confidence
    reliability: Reliability  # of held-out placements


@dataclass(frozen=True)
class Calibration(_Stored):
    """A confidence, what it is a confidence of, and how good it is."""

    origin: dict[str, Any]  # code, rollouts, candidates that were compared

    def content(self) -> str:
        """As it is stored."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n"


def read(folder: Path, checkpoint_sha256: str, spec: str) -> Calibration:
    """Of the checkpoint in a folder. Raises UserError where it has none, or another's."""
    path, make = folder / FILE, f"make one with `rsd calibrate --policy {spec}`"
    with reading(path):
        if not path.is_file():
            raise UserError(
                f"policy {spec!r} has no calibration, so that nobody knows when its draft may be "
                f"trusted: {make}, or use temporal-random=N"
            )
    try:
        content = parse_json(read_bytes(path, MOST_BYTES))
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise ValueError(f"expected a calibration of format {FORMAT}")
        origin = content.pop("origin", {})
        found = from_json(_Stored, content)
        if len(found.confidence.features) != len(found.confidence.weights):
            raise ValueError(
                f"{len(found.confidence.weights)} weights of {len(found.confidence.features)} "
                "features"
            )
        for name in found.confidence.features:
            if family(name) not in FEATURES:
                raise unknown("feature", name, FEATURES)
    except ValueError as error:
        raise UserError(f"{path}: {error}; {make}") from error
    if found.checkpoint_sha256 != checkpoint_sha256:
        raise UserError(
            f"{path} is the calibration of another checkpoint "
            f"({brief(found.checkpoint_sha256[:12])}, this is {checkpoint_sha256[:12]}): {make}"
        )
    return Calibration(**vars(found), origin=origin)
