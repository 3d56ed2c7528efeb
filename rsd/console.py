"""How commands print a line: as it is, neither coloured by its words nor broken."""

from __future__ import annotations

from typing import Any

PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
