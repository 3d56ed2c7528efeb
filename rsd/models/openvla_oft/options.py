"""What a spec asks for behind its folder or id: `FOLDER?bits=8`, `hf://owner/name?bits=4&graphs=1`.
No torch."""

from __future__ import annotations

import dataclasses
import importlib.util
from dataclasses import dataclass
from typing import NamedTuple

from rsd.errors import UserError, brief
from rsd.models.options import options_of

CHOICES = {"bits": (16, 8, 4), "graphs": (0, 1)}


@dataclass(frozen=True)
class Options:
    """How a checkpoint is computed with."""

    bits: int = 16  # of a weight in the language model's layers; 16: as the device computes
    graphs: int = 0  # 1: passes of fixed shapes are replayed as CUDA graphs

    @property
    def suffix(self) -> str:
        """That a spec with them ends in."""
        asked = {n: v for n, v in dataclasses.asdict(self).items() if v != getattr(DEFAULT, n)}
        return "?" * bool(asked) + "&".join(f"{name}={value}" for name, value in asked.items())


DEFAULT = Options()


class Asked(NamedTuple):
    """A spec taken apart."""

    place: str  # folder, or id of the hub
    options: Options


def taken_apart(spec: str) -> Asked:
    """Raises UserError for options that there are not, and for those that lack a package."""
    place, given = options_of(spec, CHOICES)
    options = Options(**{name: int(value) for name, value in given.items()})
    if options.bits < 16 and importlib.util.find_spec("torchao") is None:
        raise UserError(
            f"policy {brief(spec)}: weights of {options.bits} bits need torchao: pip install "
            "torchao, in a version for this torch"
        )
    return Asked(place, options)
