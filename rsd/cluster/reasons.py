"""Why a run stops, in one sentence: what Ray says takes a screen."""

from __future__ import annotations

import re

from ray.exceptions import OutOfMemoryError

LONGEST = 300  # characters of a reason
LOW_MEMORY = "running low on memory"  # in Ray's words


def reason_of(error: BaseException) -> str:
    """What an exception of Ray's comes down to, in a line.

    The last line of a traceback, which is the exception that a process raised; else what follows
    "is dead because" or, before it, in Ray's dump; else the first line.
    """
    return in_a_line(str(error)) or type(error).__name__


def in_a_line(text: str) -> str:
    """The same for what Ray has noted."""
    text = _plain(text)
    if LOW_MEMORY in text:
        return _memory(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    if re.search(r'^\s*File "', text, re.MULTILINE):
        return _short(lines[-1])
    because = re.search(r"is dead because (.+)", text)
    if because:
        detail = because[1].partition("Worker exit detail: ")[2] or because[1]
        return _short(detail.partition(" There are some potential root causes")[0])
    return _short(lines[0])


def killed_for_memory(error: BaseException) -> bool:
    """Whether Ray ended a process since its node's memory ran out."""
    return isinstance(error, OutOfMemoryError) or LOW_MEMORY in str(error)


def _memory(text: str) -> str:
    """ "killed for memory" with what the node had and how much it may use."""
    used = re.search(r"was ([\d.]+ ?\w+) used / ([\d.]+ ?\w+) limit", text)
    threshold = re.search(r"exceeded threshold of \d+B \(([\d.]+) ?%", text)
    known = [
        *([f"{used[1]} of {used[2]} were in use"] if used else []),
        *([f"the threshold is {float(threshold[1]):g} %"] if threshold else []),
    ]
    return "killed for memory" + (f" ({', '.join(known)})" if known else "")


def _plain(text: str) -> str:
    """Without what colours a terminal."""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)


def _short(line: str) -> str:
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
