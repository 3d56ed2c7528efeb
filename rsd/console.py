"""How commands print: a line as it is, neither coloured by its words nor broken."""

from __future__ import annotations

from typing import Any

LINE_PERIOD_S = 15.0  # between lines of progress where there is no terminal
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
