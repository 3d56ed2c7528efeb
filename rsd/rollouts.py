"""What was seen along the rollouts of a calibration, in a folder: `rsd calibrate --seen`. No torch,
no ray."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rsd.calibration import FEATURES, Observed
from rsd.conditions import of_rows, require_same
from rsd.errors import UserError, reading, writing
from rsd.locking import claim, let_go_on_failure
from rsd.outputs import sweep, write_file
from rsd.types import EpisodeKey

_APART = ("apart_mm", "apart_degrees", "gripper")
_FACTS = b"rsd_rollout"


class Rollouts:
    """A folder with a Parquet file a rollout, a row a chunk; one writer at a time. A kill at any
    moment loses the rollouts that were running and nothing else."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], resume: bool) -> None:
        """`facts`: how rollouts are made now, as JSON has it, for `conditions.of_rows`; beside
        that, their `placements`.

        Raises UserError where the folder is in use, or holds something and `resume` is not asked
        for; CannotWriteError.
        """
        self.folder = folder
        self._facts = {"features": list(FEATURES), **facts}
        self._lock = claim(folder, resume, "--seen")
        with let_go_on_failure(self._lock), writing(folder, "--seen"):
            sweep(folder)

    def add(self, key: EpisodeKey, seen: Observed) -> None:
        """Keep a rollout; it is safe when this returns. Raises CannotWriteError."""
        columns = {name: seen.features[:, index] for index, name in enumerate(seen.names)}
        columns |= {name: getattr(seen, name) for name in _APART}
        table = pa.table(columns).replace_schema_metadata({_FACTS: json.dumps(self._facts)})
        content = io.BytesIO()
        pq.write_table(table, content)
        write_file(self._file(key), content.getvalue(), "--seen")

    def get(self, key: EpisodeKey) -> Observed | None:
        """What there is of a rollout. Raises UserError where its file is damaged, or was made in
        another way."""
        path = self._file(key)
        with reading(path):
            if not path.exists():
                return None
            try:
                table = pq.read_table(path)
                facts = json.loads((table.schema.metadata or {})[_FACTS])
                names = tuple(name for name in table.column_names if name not in _APART)
                features = np.column_stack([table[name].to_numpy() for name in names])
                apart = {name: table[name].to_numpy() for name in _APART}
            except (pa.ArrowException, KeyError, ValueError) as error:
                raise UserError(
                    f"{path} holds no rollout of this code's `rsd calibrate` ({error}); delete it, "
                    "or name another --seen"
                ) from error
        require_same(
            _deciding(facts),
            _deciding(self._facts),
            f"{path} was seen in another way; name another --seen",
        )
        return Observed(names, features, **apart, placement=np.zeros(len(table), np.int64))

    def _file(self, key: EpisodeKey) -> Path:
        return self.folder / f"{key.suite}-{key.task_id}-{key.trial:02d}.parquet"

    def close(self) -> None:
        """Let another process write."""
        if self._lock is not None:
            self._lock.close()


def _deciding(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: facts.get(name) for name in ("placements", "features")} | of_rows(facts)
