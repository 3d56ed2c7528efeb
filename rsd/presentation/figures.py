"""Figures of matplotlib, and the data behind them, as files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib as mpl
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

FORMATS = ("png", "svg")  # of a picture on a page of Markdown
_UNDATED: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


def as_file(figure: Figure, format: str) -> bytes:
    """PNG, SVG or PDF: the same bytes of the same figure each time."""
    content = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "rsd"}):
        figure.savefig(content, format=format, dpi=150, metadata=_UNDATED.get(format))
    return content.getvalue()


def as_parquet(rows: Iterable[Mapping[str, Any]], about: Mapping[str, str] | None = None) -> bytes:
    """Rows of one kind as a file, with what they are `about` in its metadata. What is nested in one
    becomes columns such as `predicted.ms`."""
    table = pa.Table.from_pylist([dict(row) for row in rows])
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    content = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(about), content, compression="zstd")
    return content.getvalue()
