"""SmallVLA: the bundled family of policies, a few million parameters, trained from scratch."""

from __future__ import annotations

from rsd.models.seam import Family, PolicyInfo
from rsd.models.small_vla import options
from rsd.models.small_vla.checkpoint import ARCHITECTURE, bundled, for_suites, inspect
from rsd.types import Mode, Policy

__all__ = ["ARCHITECTURE", "FAMILY", "bundled", "for_suites"]

_MODES: tuple[Mode, ...] = ("speculative", "autoregressive", "parallel", "draft", "temporal")


def _inspect(spec: str) -> PolicyInfo:
    place, runtime = options.taken_apart(spec)
    found = inspect(place)
    return PolicyInfo(
        found.sha256,
        (*_MODES, "regression") if found.model.regression else _MODES,
        found.chunk_steps,
        found.layers,
        found.images,
        found.suites,
        lossy_rules=found.model.tokeniser.hidden == 0,
        folder=found.path,
        says=options.described(runtime),
        other_modes="`rsd train` gives one a regression head by default",
    )


def _load(spec: str, deterministic: bool, device: str) -> Policy:
    from rsd.models.small_vla.weights import load

    return load(spec, deterministic=deterministic, device=device)


FAMILY = Family(
    f"the name of a bundled policy ({', '.join(bundled())}) or the folder of a checkpoint; either "
    "may end in ?runtime=onnx, which decodes the same codes faster on a CPU",
    _inspect,
    _load,
)
