"""What stands between text out of files and a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from rsd.errors import printable


class SafeConsole(Console):
    """Shows control characters in lines, cells and titles as escapes: names of tasks, arms and
    suites, and what went wrong on a worker, come out of files that others wrote."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)
