"""Policies of ours for the harnesses of others: `rsd serve`. Without Ray.

A protocol is a module with a `Protocol`, and an entry below; its codec is that of the dialect with
the same name in rsd/models/remote, where both directions of a protocol are understood.
"""

from __future__ import annotations

from rsd.serving import openpi, vla_eval
from rsd.serving.server import Protocol

PROTOCOLS: dict[str, Protocol] = {"openpi": openpi.PROTOCOL, "vla-eval": vla_eval.PROTOCOL}
