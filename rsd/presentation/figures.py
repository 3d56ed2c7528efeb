"""Figures of matplotlib as files."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

FORMATS = ("png", "svg")  # of a picture on a page of Markdown
_UNDATED: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


def as_file(figure: Figure, format: str) -> bytes:
    """PNG, SVG or PDF: the same bytes of the same figure each time."""
    content = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "rsd"}):
        figure.savefig(content, format=format, dpi=150, metadata=_UNDATED.get(format))
    return content.getvalue()
