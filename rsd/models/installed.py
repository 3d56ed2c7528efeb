"""A policy that an installed package offers by a name of its own: entry points `rsd.policies`.

The package says in its pyproject.toml

    [project.entry-points."rsd.policies"]
    reach = "my_package.policies:Reach"

and `--policy reach` is the plug-in `my_package.policies:Reach`, whose package and version the run
records.
"""

from __future__ import annotations

import dataclasses
import json
from importlib.metadata import EntryPoint, entry_points

from rsd.errors import UserError
from rsd.models import plugin
from rsd.models.seam import Family, PolicyInfo
from rsd.types import Policy

GROUP = "rsd.policies"


def names() -> list[str]:
    return sorted(entry_points(group=GROUP).names)


def _place(offer: EntryPoint) -> str:
    """For people: the package, its version, and what it offers there."""
    package = f"{offer.dist.name} {offer.dist.version}" if offer.dist else "a package"
    return f"{offer.value} of {package}"


def _offer(name: str) -> EntryPoint:
    """Raises UserError where several packages offer a policy of that name."""
    offers = sorted(entry_points(group=GROUP, name=name), key=_place)
    if len(offers) > 1:
        raise UserError(
            f"policy {name!r} is offered by several packages: {', '.join(map(_place, offers))}; "
            "name the one that you mean as MODULE:FACTORY"
        )
    return offers[0]


def refuse_doubles(name: str) -> None:
    """Raises UserError where a package offers a policy by a name that RSD has itself."""
    for offer in entry_points(group=GROUP, name=name):
        raise UserError(
            f"policy {name!r} is one of RSD's own, and {_place(offer)} has the same name: type the "
            f"latter as {offer.value}, or remove the package to get RSD's"
        )


def _inspect(name: str) -> PolicyInfo:
    offer = _offer(name)
    info = plugin.inspect(offer.value)
    says = {"name": name, "factory": offer.value}
    if offer.dist is not None:
        says |= {"distribution": offer.dist.name, "version": offer.dist.version}
    return dataclasses.replace(info, says=json.dumps(says))


def _load(name: str, deterministic: bool, device: str) -> Policy:
    return plugin.load(_offer(name).value, deterministic, device)


FAMILY = Family(
    f"a name that an installed package offers (here {', '.join(names()) or 'none'}; "
    "docs/plugins.md)",
    _inspect,
    _load,
)
