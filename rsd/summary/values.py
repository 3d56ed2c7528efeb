"""The summary of a run, or of published results: facts and what statistics make of them.

None is what nobody recorded, or what cannot be said of nothing. Times in seconds, rates as shares.
"""

from __future__ import annotations

from dataclasses import dataclass

from rsd.summary.statistics import (
    PairedComparison,
    Proportion,
    Quantiles,
    UnpairedComparison,
)

STAGES = ("queue", "vision", "draft", "target", "detokenise")  # of a chunk
SIMULATOR_PARTS = ("physics", "render", "reset")  # of an episode


@dataclass(frozen=True)
class LayerAcceptance:
    """Guesses of one layer over chunks of an arm."""

    layer: int
    drafted: int | None  # tokens judged against the draft's own guess, in first passes
    accepted: int | None
    rate: float | None
    redrafted: int | None  # judged against a guess after a rejection, in later passes
    reaccepted: int | None
    later_rate: float | None
    judged: int | None  # chunks whose layer the first pass judged
    whole: int | None  # of those, layers kept whole
    whole_rate: float | None
    majority: int | None  # of the drafted tokens, those that a constant guess gets right (Majority)
    majority_rate: float | None


@dataclass(frozen=True)
class ChunkCost:
    """Passes and latency of an arm's decodes; seconds of the request's batch."""

    chunks: int
    passes_mean: float | None
    passes_median: float | None
    passes: dict[int, int]  # number of passes -> chunks that took it; empty where unknown
    unjudged: float | None  # share of chunks in no pass: a draft's, executed as they were
    near_ties: float | None  # share of chunks whose near ties a canonical recompute settled
    total: Quantiles  # sum of the stages of one chunk
    stages: dict[str, Quantiles]  # by STAGES


@dataclass(frozen=True)
class EpisodeCost:
    """Mean wall seconds of an episode on its worker; errors left out."""

    episodes: int
    parts: dict[str, float | None]  # by SIMULATOR_PARTS
    total: float | None  # of the parts
    wait: float | None  # for the policy
    wall: float | None  # of all


@dataclass(frozen=True)
class Success:
    """Of the finished episodes (successes and timeouts); errors are counted apart."""

    success: Proportion
    unseen: Proportion  # of the trials that no policy's development looked at
    errors: int


@dataclass(frozen=True)
class TaskSummary(Success):
    """An arm on one task."""

    task_id: int


@dataclass(frozen=True)
class SuiteSummary(Success):
    """An arm in one suite."""

    suite: str
    acceptance: list[LayerAcceptance]
    cost: ChunkCost
    tasks: list[TaskSummary]


@dataclass(frozen=True)
class ArmSummary(Success):
    """One arm."""

    arm: str
    acceptance: list[LayerAcceptance]
    cost: ChunkCost
    simulator: EpisodeCost
    suites: list[SuiteSummary]


@dataclass(frozen=True)
class FinalStates:
    """Of two arms in one suite: the pairs that end in the same simulator state, bit for bit."""

    suite: str
    pairs: int
    identical: int


@dataclass(frozen=True)
class ArmPair:
    """Two arms on the worlds that both finished. Adjusted (Holm) over all pairs of the summary that
    share a world."""

    first: str
    second: str
    comparison: PairedComparison
    identical_final_states: int
    p_adjusted: float
    not_worse: float  # one-sided p: the second is worse by less than the summary's margin
    not_worse_adjusted: float
    final_states: list[FinalStates]  # by suite


@dataclass(frozen=True)
class Unpaired:
    """Arms of two runs on the tasks that both did, where nobody knows that two episodes had one
    world. `difference` is second minus first."""

    first_run: str
    first: str
    second_run: str
    second: str
    suite: str  # or `all`
    tasks: int
    even: bool  # both did as many episodes of one task as of another
    comparison: UnpairedComparison


@dataclass(frozen=True)
class Provenance:
    """What made the rows, as tables name it."""

    checkpoint_sha256: str | None
    code: tuple[str, ...]  # every version that made rows
    protocol: str
    assets: str
    renderer: str
    arithmetic: str
    frames: str  # what the policy saw
    processors: str
    source: str | None = None  # software, version and files of imported results; None: our own


@dataclass(frozen=True)
class Summary:
    """A run, finished or going on, or published results that share a table."""

    names: tuple[str, ...]  # the run's id, or the files
    episodes: int
    errors: int
    provenance: Provenance
    margin: float  # of success rate, for not_worse
    comparisons: str  # which arms are compared, in words
    arms: list[ArmSummary]
    pairs: list[ArmPair]
    shared_draws: list[tuple[str, ...]]  # arms that sample with the same random numbers
    output: str | None = None  # where the run is
    elapsed_s: float | None = None  # sum over sessions, from their start to their last episode
    episodes_per_hour: float | None = None
