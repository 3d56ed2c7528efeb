"""The lines of DESIGN 10: which part of the package may know which library."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for folder in ("rsd", "jobs")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


@dataclass(frozen=True)
class Line:
    """These modules may be imported below these paths only."""

    modules: tuple[str, ...]
    allowed: tuple[str, ...]  # relative to the repository; a folder ends in /


LINES = (
    Line(("ray", "rsd.cluster"), ("rsd/cluster/", "rsd/commands/")),
    Line(("rsd.commands",), ("rsd/commands/", "rsd/__main__.py", "rsd/report.py", "jobs/")),
    Line(
        ("torch", "torchvision"),
        ("rsd/rfsq.py", "rsd/decoding/", "rsd/models/", "rsd/training/", "rsd/commands/"),
    ),
    Line(("rsd.models.small_vla",), ("rsd/models/", "rsd/training/")),
    Line(("robosuite", "libero", "mujoco"), ("rsd/envs/", "rsd/experts/")),
    Line(("lerobot",), ("rsd/models/lerobot/",)),
    Line(("onnxruntime",), ("rsd/models/small_vla/onnx_runtime.py",)),
    Line(("matplotlib",), ("rsd/presentation/", "rsd/replay/strip.py")),
    Line(("plotly", "jinja2"), ("rsd/presentation/",)),
    Line(("wandb", "mlflow", "tensorboard"), ()),  # by name: rsd.tracking.trackers
    Line(("websockets", "msgpack", "zmq", "httpx"), ()),  # an extra: rsd.models.remote.wire.library
)

# Loaded by every environment worker (about 300 MB and seconds each, were torch among it), or by
# whatever asks what a policy is.
WITHOUT_TORCH = (
    "rsd/envs/",
    "rsd/experts/",
    "rsd/cluster/worker.py",
    "rsd/cluster/collector.py",
    "rsd/cluster/calibrator.py",
    "rsd/models/__init__.py",
    "rsd/models/openvla_oft/folder.py",
    "rsd/models/lerobot/__init__.py",
)


def _imports(node: ast.AST, at_load: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements below a node; with `at_load` those that run when the module is loaded."""
    for child in ast.iter_child_nodes(node):
        if at_load and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if at_load and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        yield from _imports(child, at_load)


def imported(source: str, at_load: bool = False) -> set[str]:
    """Dotted names of the import statements; `from a import b` gives both a and a.b."""
    names: set[str] = set()
    for node in _imports(ast.parse(source), at_load):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def is_within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def crossings(path: str, source: str) -> list[str]:
    return [
        f"{path} imports {name}"
        for line in LINES
        if not path.startswith(line.allowed)
        for name in sorted(imported(source))
        if any(is_within(name, module) for module in line.modules)
    ]


def module_paths(name: str) -> list[str]:
    """Source files that loading a dotted name runs: its packages and itself."""
    parts = name.split(".")
    stems = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return [path for stem in stems for path in (f"{stem}/__init__.py", f"{stem}.py")]


def loads(path: str, sources: dict[str, str]) -> set[str]:
    """All names that loading a source file imports, through the project's own files."""
    names: set[str] = set()
    waiting, seen = [path], set()
    while waiting:
        current = waiting.pop()
        if current in sources and current not in seen:
            seen.add(current)
            found = imported(sources[current], at_load=True)
            names |= found
            waiting += [file for name in found for file in module_paths(name)]
    return names


@pytest.mark.parametrize("path", SOURCES)
def test_imports_stay_on_their_side(path: str) -> None:
    assert crossings(path, SOURCES[path]) == []


@pytest.mark.parametrize("path", SOURCES)
def test_imports_are_absolute(path: str) -> None:
    """So that this test sees them all."""
    nodes = ast.walk(ast.parse(SOURCES[path]))
    assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level > 0]


@pytest.mark.parametrize("path", [path for path in SOURCES if path.startswith(WITHOUT_TORCH)])
def test_what_needs_no_torch_loads_none_through_rsd(path: str) -> None:
    assert not [name for name in loads(path, SOURCES) if is_within(name, "torch")]


@pytest.mark.parametrize("path", [path for path in SOURCES if path.startswith("rsd/commands/")])
def test_a_command_starts_without_ray_and_torch(path: str) -> None:
    """It imports them, which takes seconds, once it knows that it can be carried out."""
    heavy = [name for name in loads(path, SOURCES) if name.partition(".")[0] in ("ray", "torch")]
    assert not heavy


def test_an_evaluation_starts_without_what_summaries_need() -> None:
    """scipy takes a second; the summary comes at the end."""
    found = loads("rsd/commands/evaluate.py", SOURCES)
    assert not [name for name in found if is_within(name, "scipy")]
    assert [name for name in loads("rsd/commands/report.py", SOURCES) if is_within(name, "scipy")]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("rsd/books/reader.py", "import ray"),
        ("rsd/models/small.py", "def f():\n    from ray import serve"),
        ("rsd/envs/libero.py", "import torch.nn as nn"),
        ("rsd/cluster/worker.py", "import torch"),
        ("rsd/episode.py", "from robosuite.utils import transform_utils"),
        ("rsd/envs/toy.py", "from rsd import cluster"),
        ("rsd/cluster/session.py", "from rsd.commands import call"),
        ("jobs/evaluate.py", "import ray"),
        ("rsd/models/remote/openpi.py", "import msgpack"),
        ("rsd/plan.py", "from rsd.models.small_vla import checkpoint"),
    ],
)
def test_a_crossing_would_be_seen(path: str, source: str) -> None:
    assert crossings(path, source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("rsd/cluster/evaluate.py", "import ray"),
        ("rsd/rfsq.py", "import torch"),
        ("rsd/envs/libero.py", "import mujoco"),
        ("rsd/episode.py", "import rayon\nfrom rsd.types import Arm"),
    ],
)
def test_what_is_allowed_passes(path: str, source: str) -> None:
    assert crossings(path, source) == []


def test_torch_behind_another_module_would_be_seen() -> None:
    sources = {
        "rsd/envs/bad.py": "from rsd import config",
        "rsd/config.py": "from rsd.decoding.rules import RULES",
        "rsd/decoding/__init__.py": "import torch",
        "rsd/decoding/rules.py": "",
        "rsd/envs/good.py": "def f():\n    import rsd.decoding",
    }
    assert "torch" in loads("rsd/envs/bad.py", sources)
    assert loads("rsd/envs/good.py", sources) == set()


def unit_of(path: str) -> str:
    """The package, or the module on top, that a source file belongs to."""
    parts = Path(path).with_suffix("").parts
    return ".".join(parts[:2])


def packages_in_a_circle(sources: dict[str, str]) -> list[str]:
    """Packages and modules on top that import each other, directly or by way of others."""
    follows: dict[str, set[str]] = {}
    for path, source in sources.items():
        named = {".".join(name.split(".")[:2]) for name in imported(source)}
        follows.setdefault(unit_of(path), set()).update(named - {unit_of(path)})
    try:
        list(TopologicalSorter(follows).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def test_packages_import_one_way() -> None:
    inside = {path: text for path, text in SOURCES.items() if path.startswith("rsd/")}
    assert packages_in_a_circle(inside) == []


def test_a_circle_of_packages_is_found() -> None:
    circle = {"rsd/a/x.py": "from rsd.b import y", "rsd/b/y.py": "from rsd.a.x import z"}
    assert {"rsd.a", "rsd.b"} <= set(packages_in_a_circle(circle))
