"""Checkpoints of LeRobot's `PreTrainedPolicy`: lerobot://FOLDER. No torch until one is loaded."""

from __future__ import annotations

from rsd.models.lerobot import folder
from rsd.models.seam import Family, PolicyInfo
from rsd.types import ImageSpec, Policy

SCHEME = "lerobot"


def _inspect(spec: str) -> PolicyInfo:
    found = folder.read(spec)
    folder.check_installed()
    return PolicyInfo(
        sha256=folder.identity(found),
        chunk_steps=found.chunk_steps,
        images=ImageSpec(*found.image),
        batches=False,  # what one samples would depend on who is asked beside it
        clips=True,
        protocol="lerobot",
    )


def _load(spec: str, deterministic: bool, device: str) -> Policy:
    folder.check_installed()
    from rsd.models.lerobot.policy import load

    return load(folder.read(spec), device)


FAMILY = Family(
    f"{SCHEME}://FOLDER, a checkpoint of LeRobot's with its processors (docs/plugins.md)",
    _inspect,
    _load,
)
