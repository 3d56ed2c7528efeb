"""Demonstrations: LIBERO's HDF5 files, written and read, and collecting them. No torch, no ray."""

from rsd.demos.collecting import (
    FIRST_SEED,
    Failure,
    collect_demonstration,
)
from rsd.demos.demonstration import Demonstration, check_demonstration
from rsd.demos.files import part_files, task_file
from rsd.demos.layout import OSC_POSE
from rsd.demos.quota import Quota
from rsd.demos.reading import check_files, named_demonstrations, read_demonstrations
from rsd.demos.settings import CollectionSettings, NoiseSettings, NoviceSettings
from rsd.demos.steering import takes_other_rim
from rsd.demos.store import Store
from rsd.demos.writing import merge, stored_seeds, write_demonstration

__all__ = [
    "FIRST_SEED",
    "OSC_POSE",
    "CollectionSettings",
    "Demonstration",
    "Failure",
    "NoiseSettings",
    "NoviceSettings",
    "Quota",
    "Store",
    "check_demonstration",
    "check_files",
    "collect_demonstration",
    "merge",
    "named_demonstrations",
    "part_files",
    "read_demonstrations",
    "stored_seeds",
    "takes_other_rim",
    "task_file",
    "write_demonstration",
]
