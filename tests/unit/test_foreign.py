"""What others wrote: YAML and JSON that are made to exhaust, and text that is made to hide."""

from __future__ import annotations

import io
import os
import re
import threading
import time
from pathlib import Path

import pytest
from rich.table import Table

from rsd.config import parse
from rsd.console import PLAIN, SafeConsole
from rsd.errors import LONGEST, UserError, printable, unknown
from rsd.foreign import parse_json, read_bytes, read_settings

NAMES = ["task_suite", "tasks", "trials", "arms", "policy", "rule", "assets", "output"]
ALIAS_BOMB = "".join(
    f"{name}: &x{i} [{', '.join(['lol' if i == 0 else f'*x{i - 1}'] * 12)}]\n"
    for i, name in enumerate(NAMES)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: " + "[" * 5000, "line 1: a setting is a value or a list of values"),
        ("tasks: " + "[" * 5000 + "]" * 5000, "a list of values, no more"),
        ("a: " + "{a: " * 3000, "a list of values, no more"),
        ("- " * 5000, "a list of values, no more"),
        ("".join(" " * i + "a:\n" for i in range(150)), "a list of values, no more"),
        (ALIAS_BOMB, "anchors and aliases are not read here"),
        ("tasks: &a [*a]", "anchors and aliases"),
        ("num_trials: &n 3", "anchors and aliases"),
        ("tasks: [" + "1," * 3000 + "x: 1]", "a list of values"),
        ("# " * 10_000, "larger than"),
        ("[]", "expected `setting: value`"),
        ("false", "expected `setting: value`"),
        ("hello", "expected `setting: value`"),
        ("[a]: 3", "line 1: expected `setting: value`"),
        ("num_trials: {a: 3}", "line 1: expected `setting: value`"),
        ("<<: {num_trials: 3}", "line 1: expected `setting: value`"),
        ("num_trials: 1\nnum_trials: 2", "line 2: 'num_trials' is there twice"),
        ("num_trials: 1\nnum-trials: 2", "line 2: 'num_trials' is there twice"),
        ("output: !!binary aGVsbG8=", "tags such as 'tag:yaml.org,2002:binary'"),
        ("output: !!python/object/apply:os.system ['true']", "tags such as"),
        ("resume: !!bool maybe", "tags such as"),
        ("output: !!timestamp x", "tags such as"),
        ("num_trials: 3\n---\nnum_trials: 4", "cannot read .*run.yaml"),
        ("a: \x07", "cannot read"),
        ("output: --resume", "output holds '--resume'; a value is not a flag"),
        ("tasks: [0, --dry-run]", "tasks holds '--dry-run'"),
        ('"\\e[31mred": 3', r"setting in .*run.yaml '\\x1b\[31mred'"),
        ('resume: "\\e[31mred"', r"'\\x1b\[31mred' holds control characters"),
        ('output: "a\\e[2Jb"', r"'a\\x1b\[2Jb' holds control characters"),
        ('tasks: [0, "\\0"]', "holds control characters"),
        ("output: |\n  a\n  b\n", "holds control characters"),
    ],
)
def test_a_hostile_yaml_file_is_refused_in_a_second(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    begun = time.process_time()
    with pytest.raises(UserError, match=told):
        parse(["--config", str(file)])
    assert time.process_time() - begun < 1


def test_yaml_that_is_not_text_or_no_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(b"a: \xff")
    with pytest.raises(UserError, match=r"run\.yaml: 'utf-8' codec"):
        read_settings(file, "run.yaml")
    for path, told in (("/dev/zero", "larger than"), (str(tmp_path), "Is a directory")):
        with pytest.raises(UserError, match=told):
            read_settings(Path(path), "it")


def test_yaml_words_are_those_that_are_written(tmp_path: Path) -> None:
    """YAML 1.1 would make a date, 90 and 8 of these."""
    file = tmp_path / "run.yaml"
    file.write_text("output: 2024-13-45\npolicy: 1:30\ntasks: [010]\nresume: yes\nrule: ~\n")
    assert read_settings(file, "run.yaml") == {
        "output": "2024-13-45",
        "policy": "1:30",
        "tasks": ["010"],
        "resume": True,
        "rule": None,
    }


def test_settings_can_come_through_a_pipe(tmp_path: Path) -> None:
    """As of `--config <(...)`."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("num_trials: 3\n",))
    writer.start()
    assert read_settings(pipe, "it") == {"num_trials": "3"}
    writer.join()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[" * 200_000, "nested more than 100"),
        ("[" * 200_000 + "]" * 200_000, "nested more than 100"),
        ('{"a":' * 150 + "1" + "}" * 150, "nested more than 100"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' is there twice"),
        ('{"a": {"b": 1, "b": 1}}', "'b' is there twice"),
        ('{"a": ["\\ud83d"]}', "surrogates not allowed"),
        ('{"\\uDE00": 1}', "surrogates not allowed"),
        ("{" + ",".join(f'"{i % 10**5}": 0' for i in range(10**5 + 1)) + "}", "'0' is there twice"),
        (b"\xff\xfe{", "codec can't decode"),
        ("9" * 5000, "4300 digits"),
        ("", "Expecting value"),
    ],
)
def test_hostile_json_is_refused(content: str | bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_json(content)
    assert parse_json('{"a": [{"b": null}]}') == {"a": [{"b": None}]}
    assert parse_json('"\\ud83d\\ude00"') == "\U0001f600"


def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(UserError, match="large is larger than 100 bytes"):
        read_bytes(file, 100)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("all is well\r\b\x7f", r"all is well\r\x08\x7f"),
        ("\x9b31m", r"\x9b31m"),  # a control sequence in one character
        ("\u202egnp.exe", r"\u202egnp.exe"),  # turns the direction of reading
        ("\udcff", r"\udcff"),  # no character at all: a file's name in another encoding
        ("zwei Wörter\u00a0\n\t日本 %", "zwei Wörter\u00a0\n\t日本 %"),
    ],
)
def test_control_characters_are_shown_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert str(UserError(text)) == shown


def test_a_message_does_not_fill_the_screen() -> None:
    assert len(str(UserError("x" * 10**6))) < LONGEST + 50
    assert len(str(unknown("thing", "y" * 10**6, ["a"]))) < LONGEST + 100


def test_a_console_shows_no_control_characters() -> None:
    """Of lines, cells and titles; its own colours stay."""
    stream = io.StringIO()
    console = SafeConsole(file=stream, force_terminal=True, color_system="standard", width=60)
    table = Table("arm\x1b[2J", title="run\x07")
    table.add_row("\x9b31mred")
    console.print("task \x1b[8mhidden", style="red", **PLAIN)
    console.print(table)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert all(char == "\n" or char.isprintable() for char in shown)
    for text in (r"task \x1b[8mhidden", r"arm\x1b[2J", r"run\x07", r"\x9b31mred"):
        assert text in shown
    assert "\x1b[31m" in stream.getvalue() and "\x1b[8m" not in stream.getvalue()
