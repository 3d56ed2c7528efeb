"""What Ray says on a screen, in a line."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from rsd.cluster.reasons import in_a_line, killed_for_memory, reason_of

MEMORY = """1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: \
192.0.2.2, ID: 12c3) was 1.82GB used / 23.54GB limit (0.077298)
OOM kill reason: Memory usage 1948663808B exceeded threshold of 1263825152B (5.0% of 25276502016B)
Object store memory usage: [- objects spillable: 0
- bytes spillable: 0
Top 10 memory users: PID        MEM(GB) COMMAND
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io"""

OWNER = """The actor died unexpectedly before finishing this task.
        class_name: PolicyReplicaActor
        pid: 14220
The actor is dead because its owner has died. Owner Id: 01 Owner worker exit type: SYSTEM_ERROR \
Worker exit detail: Owner's node has crashed."""

CREATION = """The actor died because of an error raised in its creation task, \x1b[36mray::A\x1b[39m
  File "policy.py", line 6, in __init__
    load()
ValueError: the weights are not there"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (MEMORY, "killed for memory (1.82GB of 23.54GB were in use, the threshold is 5 %)"),
        ("a node running low on memory", "killed for memory"),
        (OWNER, "Owner's node has crashed."),
        (CREATION, "ValueError: the weights are not there"),
        ("The actor is dead because it was killed by `ray.kill`.", "it was killed by `ray.kill`."),
        ("\n \x1b[33mfirst\x1b[0m line\nsecond", "first line"),
        ("", ""),
        ("x" * 400, "x" * 297 + "..."),
    ],
)
def test_a_dump_becomes_a_sentence(text: str, line: str) -> None:
    assert in_a_line(text) == line


def test_exceptions_without_a_word_are_named() -> None:
    assert reason_of(KeyError()) == "KeyError"
    assert reason_of(OutOfMemoryError(MEMORY)).startswith("killed for memory (1.82GB")


def test_memory_is_told_from_other_deaths() -> None:
    assert killed_for_memory(OutOfMemoryError(MEMORY))
    assert killed_for_memory(RuntimeError(MEMORY))  # as Ray Train passes it on
    assert not killed_for_memory(ActorDiedError())
    assert not killed_for_memory(RayTaskError("f", "Traceback", ValueError()))
