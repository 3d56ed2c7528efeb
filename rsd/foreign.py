"""JSON and YAML that others wrote, read within bounds: a file may be damaged, huge, or made to
exhaust whoever reads it."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from rsd.errors import UserError, brief, printable, reading

MOST_BYTES = 10 * 2**20  # of a description
DEEPEST = 100  # levels of JSON; a fine-tuned checkpoint's description has one a generation
MOST_YAML_BYTES = 2**14
_DEEPEST_YAML = 2  # a mapping, and a list of values in it

Scalar = str | bool | None
Settings = dict[str, Scalar | list[Scalar]]


def expanded(path: str | Path) -> Path:
    """A path with `~` and `~user` replaced; raises UserError for a user that there is not."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: {error}; write the path from / on") from error


def read_bytes(path: Path, most: int, shown: str = "") -> bytes:
    """The content of a file. Raises UserError, naming it as `shown`, where it cannot be read or is
    larger than `most`."""
    with reading(shown or path), path.open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise UserError(
            f"{shown or path} is larger than {most} bytes, so it is not what it should be"
        )
    return content


def parse_json(content: bytes | str) -> Any:
    """JSON in UTF-8. Raises ValueError for what is none, names a key twice, is nested too deeply
    or holds half a character."""
    try:
        text = content if isinstance(content, str) else content.decode()
        value = json.loads(text, object_pairs_hook=_once)
        if _SURROGATE.search(text):  # one that has lost the other of its pair can be kept nowhere
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError(f"nested more than {DEEPEST} levels deep") from None
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    raise ValueError(f"nested more than {DEEPEST} levels deep")


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{brief(name)} is there twice")
        values[name] = value
    return values


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def read_settings(path: Path, shown: str) -> Settings:
    """The `setting: value` lines of a YAML file, where a value is a word, a number or a list of
    such. Names, numbers and dates are the words that they are written with.

    Raises UserError, naming the file as `shown`, for everything else that YAML can say: nested
    values, anchors and aliases, tags, settings that are there twice.
    """
    return _read_yaml(path, shown, _settings, _DEEPEST_YAML)


def read_sections(path: Path, shown: str) -> dict[str, Settings]:
    """The same of a file of sections: names with such lines below them."""
    return _read_yaml(path, shown, _sections, _DEEPEST_YAML + 1)


Made = TypeVar("Made")


def _read_yaml(
    path: Path,
    shown: str,
    make: Callable[[yaml.SafeLoader, yaml.Node], dict[str, Made]],
    deepest: int,
) -> dict[str, Made]:
    content = read_bytes(path, MOST_YAML_BYTES, shown)
    try:
        text = content.decode()
        _check_flat(text, deepest)
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            return {} if node is None else make(loader, node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise UserError(f"cannot read {shown}: {error}") from error
    except ValueError as error:
        raise UserError(f"{shown}: {error}") from error


def _check_flat(text: str, deepest: int) -> None:
    """Event by event, so that nothing is built of a document that nests or repeats itself."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError(f"line {line}: anchors and aliases are not read here; write the value")
        tag = getattr(event, "tag", None)
        if tag:
            raise ValueError(f"line {line}: tags such as {brief(tag)} are not read here")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > deepest:
                raise ValueError(f"line {line}: a setting is a value or a list of values, no more")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _sections(loader: yaml.SafeLoader, node: yaml.Node) -> dict[str, Settings]:
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("expected `section:` lines")
    sections: dict[str, Settings] = {}
    for key, value in node.value:
        name = str(key.value)
        if name in sections:
            line = key.start_mark.line + 1
            raise ValueError(f"line {line}: {brief(name)} is there twice; keep one of them")
        empty = value.tag == "tag:yaml.org,2002:null"
        sections[name] = {} if empty else _settings(loader, value)
    return sections


def _settings(loader: yaml.SafeLoader, node: yaml.Node) -> Settings:
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"line {node.start_mark.line + 1}: expected `setting: value` lines")
    settings: Settings = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or isinstance(value, yaml.MappingNode):
            raise ValueError(f"line {line}: expected `setting: value` or `setting: [value, value]`")
        name = key.value.replace("-", "_")
        if name in settings:
            raise ValueError(f"line {line}: {brief(name)} is there twice; keep one of them")
        if isinstance(value, yaml.SequenceNode):
            settings[name] = [_scalar(loader, item) for item in value.value]
        else:
            settings[name] = _scalar(loader, value)
    return settings


_RESOLVED = {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:null"}


def _scalar(loader: yaml.SafeLoader, node: yaml.Node) -> Scalar:
    if node.tag in _RESOLVED:
        return loader.construct_object(node)
    word = str(node.value)
    if printable(word) != word or "\n" in word:
        raise ValueError(f"{brief(word)} holds control characters; write it without")
    return word


def from_json(kind: type, content: Any) -> Any:
    """Rebuild a (nested) config dataclass from `dataclasses.asdict` after a trip through JSON.

    Raises ValueError for fields that are missing, that the class does not have, or whose values are
    of another type.
    """
    hints = typing.get_type_hints(kind)
    names = {entry.name for entry in dataclasses.fields(kind)}
    if not isinstance(content, dict):
        raise ValueError(f"{kind.__name__} is {brief(content)}, expected its fields")
    if set(content) != names:
        difference = ", ".join(map(brief, sorted(set(content) ^ names)))
        raise ValueError(f"{kind.__name__} has other fields than the file: {difference}")
    return kind(
        **{name: _typed(hints[name], f"{kind.__name__}.{name}", content[name]) for name in content}
    )


def _typed(hint: Any, name: str, value: Any) -> Any:
    """A value out of JSON as a field's type has it; raises ValueError for another."""
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), value)
    if typing.get_origin(hint) is tuple:  # of any length
        inner = typing.get_args(hint)[0]
        if not isinstance(value, list):
            raise ValueError(f"{name} is {brief(value)}, expected a list")
        return tuple(_typed(inner, name, each) for each in value)
    fits = {
        str: isinstance(value, str),
        bool: isinstance(value, bool),
        int: isinstance(value, int) and not isinstance(value, bool),
        float: isinstance(value, int | float) and not isinstance(value, bool) and finite(value),
    }
    if not fits[hint]:
        raise ValueError(f"{name} is {brief(value)}, expected {_TYPES[hint]}")
    return value


_TYPES = {str: "a word", bool: "true or false", int: "an integer", float: "a finite number"}


def finite(value: float) -> bool:
    """Neither infinite, nor NaN, nor an integer beyond the range of floats."""
    return abs(value) <= sys.float_info.max
