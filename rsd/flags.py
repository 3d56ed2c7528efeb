"""Command lines from classes: a flag a field (tyro), their kinds of value, their least values, and
files of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from rsd.errors import UserError, unknown
from rsd.foreign import Settings, read_settings
from rsd.outputs import local_folder

WITHOUT_GROUPS = (tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff)  # --x for a.x


def read(
    tree: Any, words: Sequence[str], prog: str, description: str, config: Sequence[Any] = ()
) -> Any:
    """The command line as a value of the class `tree`. Ends with SystemExit for `--help`, and for
    words that mean nothing, which tyro explains."""
    try:
        return tyro.cli(tree, prog=prog, description=description, args=words, config=config)
    except BrokenPipeError:  # `--help | head`
        raise SystemExit(0) from None


def _true_or_false(values: list[str]) -> bool:
    if values[0] not in ("true", "false"):
        raise ValueError(f"{values[0]!r} is neither true nor false")
    return values[0] == "true"


# A flag that wants its value spelt out: `bool` would read `maybe` as true or take no value at all.
ExplicitBool = Annotated[
    bool | None,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{true,false}",
        instance_from_str=_true_or_false,
        is_instance=lambda value: value is None or isinstance(value, bool),
        str_from_instance=lambda value: ["none" if value is None else str(value).lower()],
    ),
]

# Read as it was written: `Path` would make s3:/b of s3://b, and . of an empty word.
LocalFolder = Annotated[
    Path,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="DIR",
        instance_from_str=lambda words: local_folder(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    ),
]


@dataclass(frozen=True)
class Least:
    """The smallest value of a number in the configuration."""

    value: float
    why: str


def check_least(values: Mapping[str, Any], table: Mapping[str, Least]) -> None:
    """Raises UserError, by its flag, for a number that is not finite or too small; None passes."""
    for name, least in table.items():
        value = values[name]
        if value is not None and not math.isfinite(value):
            raise UserError(f"--{name.replace('_', '-')} {value}: a finite number is needed")
        if value is not None and value < least.value:
            raise UserError(
                f"--{name.replace('_', '-')} {value}: at least {least.value:g} ({least.why})"
            )


def with_config_files(words: Sequence[str], fields: Iterable[dataclasses.Field[Any]]) -> list[str]:
    """Replace every `--config FILE` by what the YAML file says of `fields`, put before all other
    words in the order of the files: the last one wins. Raises UserError for a file that cannot be
    read or says something else."""
    known = {field.name: field for field in fields}
    flags: list[str] = []
    rest: list[str] = []
    left = iter(words)
    for word in left:
        name, equals, path = word.partition("=")
        if name != "--config":
            rest.append(word)
            continue
        path = path if equals else next(left, "")
        if not path:
            raise UserError("--config needs the path of a YAML file")
        flags += flags_of(read_settings(Path(path), f"--config {path}"), path, known)
    return [*flags, *rest]


def flags_of(
    settings: Settings, path: Path | str, known: Mapping[str, dataclasses.Field[Any]]
) -> list[str]:
    """Settings out of a YAML file as flags: lists are several values, null is the default. Raises
    UserError for one that is not `known`."""
    flags: list[str] = []
    for setting, value in settings.items():
        if setting not in known:
            raise unknown(f"setting in {path}", setting, known)
        if value is None:
            continue
        flag = setting.replace("_", "-")
        if known[setting].type == "bool":
            if not isinstance(value, bool):
                raise UserError(f"{path}: {setting} is true or false, not {value!r}")
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words = [_word(each) for each in (value if isinstance(value, list) else [value])]
            for word in words:
                if word.startswith("--"):
                    raise UserError(f"{path}: {setting} holds {word!r}; a value is not a flag")
            flags += [f"--{flag}", *words]
    return flags


def _word(value: object) -> str:
    """YAML reads `true` as a boolean; as a flag's value it is a word again."""
    return str(value).lower() if isinstance(value, bool) else str(value)
