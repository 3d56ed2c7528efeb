"""Policies by what their spec says. Importing this package imports no torch; loading a policy may.

A new family of policies is one module that holds a `Family`, and one entry below: in `NAMES` where
single names stand for it, in `ARCHITECTURES` where a folder's config.json names it, in `SCHEMES`
where an address does.
"""

from __future__ import annotations

import re

from rsd.errors import UserError, unknown
from rsd.foreign import MOST_BYTES, expanded, parse_json, read_bytes
from rsd.models import installed, lerobot, plugin, remote, small_vla, toy
from rsd.models.openvla_oft import family as openvla_oft
from rsd.models.seam import Family, PolicyInfo
from rsd.models.small_vla import bundled, for_suites
from rsd.types import Policy

__all__ = [
    "PolicyInfo",
    "bundled",
    "family_of",
    "for_suites",
    "forms",
    "inspect_policy",
    "load_policy",
]

NAMES: dict[str, Family] = {
    **dict.fromkeys(bundled(), small_vla.FAMILY),
    **dict.fromkeys(toy.VARIANTS, toy.FAMILY),
}
ARCHITECTURES: dict[str, Family] = {
    small_vla.ARCHITECTURE: small_vla.FAMILY,
    openvla_oft.ARCHITECTURE: openvla_oft.FAMILY,
    openvla_oft.MODEL_TYPE: openvla_oft.FAMILY,
}
SCHEMES: dict[str, Family] = {
    openvla_oft.SCHEME: openvla_oft.FAMILY,
    lerobot.SCHEME: lerobot.FAMILY,
    **remote.FAMILIES,
}

_PLUGIN = r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*"
_WORD = r"[\w-]+"
_SCHEME = r"([a-z][a-z0-9+.-]*)://"


def family_of(spec: str) -> Family:
    """Who loads a policy. Raises UserError for a scheme or name that nobody knows, and for a name
    of ours that an installed package offers, too."""
    if spec in NAMES:
        installed.refuse_doubles(spec)
        return NAMES[spec]
    if spec in installed.names():
        return installed.FAMILY
    if scheme := re.match(_SCHEME, spec):
        if scheme[1] not in SCHEMES:
            known = {name: family.forms for name, family in SCHEMES.items()}
            raise unknown("policy scheme", scheme[1], known)
        return SCHEMES[scheme[1]]
    if re.fullmatch(_PLUGIN, spec):
        return plugin.FAMILY
    if re.fullmatch(_WORD, spec) and not expanded(spec).exists():
        raise unknown("policy or folder", spec, [*NAMES, *installed.names()])
    return ARCHITECTURES.get(_architecture(spec), small_vla.FAMILY)


def _architecture(spec: str) -> str:
    """What the config.json of a folder names; empty where there is none that names one."""
    path = expanded(spec.partition("?")[0]) / "config.json"
    try:
        if not path.is_file() and (path.parent / "lora_adapter").is_dir():
            return openvla_oft.MODEL_TYPE  # an adapter's base has the description
        content = parse_json(read_bytes(path, MOST_BYTES))
        return str(content.get("architecture", content.get("model_type")))
    except (UserError, ValueError, AttributeError, OSError):
        return ""  # the family that most folders are of says what is wrong with this one


def forms() -> str:
    """What specs there are, family by family."""
    own = (installed.FAMILY, plugin.FAMILY)
    families = [*ARCHITECTURES.values(), *own, *SCHEMES.values(), *NAMES.values()]
    return "; ".join(dict.fromkeys(family.forms for family in families))


def inspect_policy(spec: str) -> PolicyInfo:
    """Check a policy without loading it.

    Raises UserError for a checkpoint that is missing, truncated or of another architecture, a
    plug-in that cannot be imported, a scheme or name that nobody knows.
    """
    return family_of(spec).inspect(spec)


def load_policy(spec: str, *, deterministic: bool, device: str) -> Policy:
    """Load a policy onto `device` (`cpu`, `cuda`)."""
    return family_of(spec).load(spec, deterministic, device)
