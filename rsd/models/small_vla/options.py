"""What a spec of SmallVLA asks for: `libero?runtime=onnx`, `FOLDER?runtime=onnx`. No torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from typing import NamedTuple

from rsd.errors import UserError, brief
from rsd.models.options import options_of

CHOICES = {"runtime": ("torch", "onnx")}
PACKAGES = ("onnxruntime", "onnx")  # of runtime=onnx: it computes, torch writes graphs by it


class Asked(NamedTuple):
    """A spec taken apart."""

    place: str  # folder, or name of a bundled policy
    runtime: str  # what computes towers and target


def taken_apart(spec: str) -> Asked:
    """Raises UserError for options that there are not, and for a runtime that is missing."""
    place, given = options_of(spec, CHOICES)
    asked = Asked(place, given.get("runtime", "torch"))
    needed = PACKAGES if asked.runtime == "onnx" else ()
    if missing := [each for each in needed if importlib.util.find_spec(each) is None]:
        raise UserError(
            f"policy {brief(spec)}: runtime=onnx needs {' and '.join(missing)}: pip install -r "
            "requirements-onnx.txt, or pip install 'rsd[onnx]'"
        )
    return asked


def described(runtime: str) -> str:
    """What the books have of it, as JSON; nothing of what needs no words."""
    if runtime == "torch":
        return ""
    return json.dumps({"runtime": f"onnxruntime {importlib.metadata.version('onnxruntime')}"})
