"""What passes cost in a run, by the design's cost model, and what speculation saved of it.

A decode costs T = fixed + (passes - 1) x pass: towers, draft and the pass over the context once,
then as much for every further pass of the target; the arm `draft`, in no pass, less than that.
Times of batches of one size only: of those the run has most of.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from rsd.books import KEY, Committed
from rsd.delay import STAGES
from rsd.summary.statistics import RatioSums, ratio_interval
from rsd.summary.tallies import decodes as decodes_of

_COLUMNS = (*KEY, "passes", "layers", "batch_size", *STAGES)


@dataclass(frozen=True)
class Decodes:
    """Decodes of a run, of one batch size."""

    rows: pd.DataFrame  # KEY, passes, layers, STAGES and their sum `decode_s`
    batch_size: int
    left_out: int  # decodes in batches of other sizes


def decodes(parts: Committed) -> Decodes:
    """Of a run; none where nobody decoded, or nobody knows in how many passes."""
    table = decodes_of(parts.all_chunks(_COLUMNS))
    table = table.filter(pc.is_valid(table["passes"]))
    sizes = table["batch_size"].value_counts().to_pylist()
    most = max(sizes, key=lambda size: (size["counts"], -size["values"]), default={"values": 0})
    kept = table.filter(pc.equal(table["batch_size"], most["values"]))
    for name in ("arm", "suite"):
        at = kept.schema.get_field_index(name)
        kept = kept.set_column(at, name, kept[name].dictionary_encode().unify_dictionaries())
    rows = kept.to_pandas()
    rows["decode_s"] = rows[list(STAGES)].sum(axis="columns")
    return Decodes(rows, most["values"], table.num_rows - kept.num_rows)


def by_passes(found: Decodes) -> pd.DataFrame:
    """A row an arm and number of passes: decodes, medians of STAGES and of their sum, s."""
    groups = found.rows.groupby(["arm", "passes"], observed=True)
    medians = groups[[*STAGES, "decode_s"]].median()
    return medians.assign(decodes=groups.size()).reset_index()


@dataclass(frozen=True)
class CostModel:
    """Of one arm: `fixed_s` with its first pass, `pass_s` a further one."""

    fixed_s: float
    pass_s: float
    off: float  # largest error at the number of passes it was fitted to, as a share of the time

    def decode_s(self, passes: float) -> float:
        """Of a decode with that many passes, or of as many in the mean."""
        return self.fixed_s + (passes - 1) * self.pass_s

    def passes_worth(self, decode_s: float) -> float:
        """With how many passes in the mean a decode takes that long."""
        return 1 + (decode_s - self.fixed_s) / self.pass_s


def fitted(medians: pd.DataFrame, arm: str) -> CostModel | None:
    """By least squares on the medians of `by_passes`, each with the weight of its decodes; None for
    an arm that always takes the same number of passes. Of `temporal` its slow rounds."""
    rows = medians[(medians["arm"] == arm) & (medians["passes"] > 0)]
    if len(rows) < 2:
        return None
    passes, times = rows["passes"].to_numpy() - 1, rows["decode_s"].to_numpy()
    pass_s, fixed_s = np.polyfit(passes, times, 1, w=np.sqrt(rows["decodes"].to_numpy()))
    off = np.abs(fixed_s + passes * pass_s - times) / times
    return CostModel(float(fixed_s), float(pass_s), float(off.max()))


@dataclass(frozen=True)
class SpeedUp:
    """How many times as long a decode of the first arm takes as one of the second."""

    first: str
    second: str
    worlds: int  # that both did
    ratio: float  # of the mean times of a decode, worlds weighing alike
    low: float
    high: float
    first_s: float  # mean
    second_s: float
    first_median_s: float  # of all decodes: whatever held a few up says nothing here
    second_median_s: float


def speed_up(found: Decodes, first: str, second: str) -> SpeedUp:
    """Paired by world; the interval takes worlds as independent, and decodes in them not. NaN where
    the two share no world."""
    rows = found.rows[found.rows["arm"].isin([first, second])]
    means = rows.groupby(KEY, observed=True)["decode_s"].mean().unstack("arm")
    both = means.reindex(columns=[first, second]).dropna()
    sums = RatioSums.of(both[first].to_numpy(), both[second].to_numpy())
    low, high = ratio_interval(sums)
    medians = rows.groupby("arm", observed=True)["decode_s"].median().reindex([first, second])
    return SpeedUp(
        first,
        second,
        worlds=len(both),
        ratio=float(sums.ratio),
        low=float(low),
        high=float(high),
        first_s=float(both[first].mean()),
        second_s=float(both[second].mean()),
        first_median_s=float(medians[first]),
        second_median_s=float(medians[second]),
    )
