"""Policies by what their spec says. Importing this package imports no torch; loading a policy may.

A new family of policies is one module that holds a `Family`, and one entry below: in `NAMES` where
single names stand for it, in `ARCHITECTURES` where a folder's config.json names it, in `SCHEMES`
where an address does.
"""

from __future__ import annotations

import re

from rsd.errors import UserError, unknown
from rsd.foreign import MOST_BYTES, expanded, parse_json, read_bytes
from rsd.models import plugin, remote, small_vla, toy
from rsd.models.seam import Family, PolicyInfo
from rsd.types import Policy

__all__ = ["PolicyInfo", "family_of", "forms", "inspect_policy", "load_policy"]

NAMES: dict[str, Family] = dict.fromkeys(toy.VARIANTS, toy.FAMILY)
ARCHITECTURES: dict[str, Family] = {small_vla.ARCHITECTURE: small_vla.FAMILY}
SCHEMES: dict[str, Family] = remote.FAMILIES

_PLUGIN = r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*"
_SCHEME = r"([a-z][a-z0-9+.-]*)://"


def family_of(spec: str) -> Family:
    """Who loads a policy. Raises UserError for a scheme that nobody knows."""
    if spec in NAMES:
        return NAMES[spec]
    if scheme := re.match(_SCHEME, spec):
        if scheme[1] not in SCHEMES:
            raise unknown("policy scheme", scheme[1], SCHEMES)
        return SCHEMES[scheme[1]]
    if re.fullmatch(_PLUGIN, spec):
        return plugin.FAMILY
    return ARCHITECTURES.get(_architecture(spec), small_vla.FAMILY)


def _architecture(spec: str) -> str:
    """What the config.json of a folder names; empty where there is none that names one."""
    path = expanded(spec) / "config.json"
    try:
        content = parse_json(read_bytes(path, MOST_BYTES))
        return str(content["architecture"])
    except (UserError, ValueError, KeyError, TypeError, OSError):
        return ""  # the family that most folders are of says what is wrong with this one


def forms() -> str:
    """How specs look, a line a family."""
    families = [*NAMES.values(), *ARCHITECTURES.values(), plugin.FAMILY, *SCHEMES.values()]
    return "\n".join(dict.fromkeys(family.forms for family in families))


def inspect_policy(spec: str) -> PolicyInfo:
    """Check a policy without loading it.

    Raises UserError for a checkpoint that is missing, truncated or of another architecture, a
    plug-in that cannot be imported, a scheme that nobody knows.
    """
    return family_of(spec).inspect(spec)


def load_policy(spec: str, *, deterministic: bool, device: str) -> Policy:
    """Load a policy onto `device` (`cpu`, `cuda`)."""
    return family_of(spec).load(spec, deterministic, device)
