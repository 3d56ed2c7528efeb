"""What a spec asks for behind the place that it names: `PLACE?name=value&name=value`. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rsd.errors import UserError, brief


def options_of(spec: str, choices: Mapping[str, Sequence[object]]) -> tuple[str, dict[str, str]]:
    """The place, and the options that are given. Raises UserError for one that there is not."""
    place, _, said = spec.partition("?")
    given: dict[str, str] = {}
    for each in filter(None, said.split("&")):
        name, _, value = each.partition("=")
        if value not in map(str, choices.get(name, ())):
            known = "; ".join(f"{n}={'|'.join(map(str, of))}" for n, of in choices.items())
            raise UserError(f"policy {brief(spec)}: no option {each!r}; there are {known}")
        given[name] = value
    return place, given
