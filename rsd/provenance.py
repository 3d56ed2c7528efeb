"""Where a result comes from: code, packages, machine; for run.json. No torch, no ray."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from rsd import arithmetic
from rsd.conditions import ROW_PACKAGES

PACKAGES = tuple(sorted({*ROW_PACKAGES, "pandas", "pyarrow", "ray", "safetensors"}))


@dataclass(frozen=True)
class Machine:
    """A node in one of its roles in a run, as run.json keeps it."""

    role: str  # replica | worker
    node: str
    runs_on: str  # replica: cpu or cuda; worker: its renderer and what draws for it
    cpu: str  # model
    cpus: int  # that the process may use
    gpus: tuple[str, ...]  # models of all of the node
    arithmetic: str  # of numpy and libm in that process


@dataclass(frozen=True)
class ReplicaEvent:
    """What a run's driver has heard of a replica, as run.json keeps it beside the time."""

    replica: str  # its name
    what: Literal["started", "ready", "died", "lost"]  # asked for; answers; its process ended, and
    # another one starts in its place; dead for good
    node: str = ""  # of one that is ready
    processor: str = ""  # likewise: what it decides on
    why: str = ""  # of one that died or is lost, as far as it is known


def machine(role: str, runs_on: str) -> Machine:
    """This process's node."""
    return Machine(
        role, platform.node(), runs_on, _cpu_model(), cpus(), tuple(gpus()), arithmetic.name()
    )


def provenance() -> dict[str, Any]:
    """`code`, `packages`, `hardware` of this process."""
    return {"code": code(), "packages": packages(), "hardware": hardware()}


def code() -> dict[str, Any]:
    """The commit where there is one, and always a hash over the sources: a working folder that
    `ray job submit` uploads has no history, and that of a repository in which this package is
    merely installed is another's."""
    is_ours = bool(_git("ls-files", "__init__.py"))
    changes = _git("status", "--porcelain", "--untracked-files=no") if is_ours else None
    return {
        "git_commit": _git("rev-parse", "HEAD") if is_ours else None,
        "git_dirty": None if changes is None else bool(changes),
        "source_sha256": source_sha256(),
    }


def source_sha256() -> str:
    """sha256 over relative names and contents of this package's modules, in sorted order."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _git(*arguments: str) -> str | None:
    """Standard output of a git command in this checkout; None without git or history."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def packages(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of those packages that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, Any]:
    """The driver's machine; those of replicas and workers are noted when they are up (Machine)."""
    return {
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "platform": platform.platform(),
        "node": platform.node(),
        "cpu": _cpu_model(),
        "cpus": cpus(),
        "memory_bytes": memory_bytes(),
        "gpus": gpus(),
    }


def cpus() -> int:
    """CPUs that this process may use, at least 1: those that it may run on, within the limit of a
    container, rounded down (the files that Ray reads, of cgroups v1 or v2)."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, int(min(count, _cpu_quota())))


def memory_bytes() -> int:
    """Memory that this process may use: that of the machine, within the limit of a container."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_limit(_CGROUPS / name) for name in ("memory/memory.limit_in_bytes", "memory.max")]
    return int(min(machine, *limits))


_CGROUPS = Path("/sys/fs/cgroup")


def _cpu_quota() -> float:
    """CPUs' worth of time a container may take; infinite without a limit."""
    v1, v2 = _CGROUPS / "cpu", _CGROUPS / "cpu.max"
    quota, period = _limit(v1 / "cpu.cfs_quota_us"), _limit(v1 / "cpu.cfs_period_us")
    if math.isinf(quota) and v2.exists():
        quota, period = _limit(v2), _limit(v2, word=1)
    return quota / period if math.isfinite(quota) and period > 0 else math.inf


def _limit(path: Path, word: int = 0) -> float:
    """A number of a cgroup's file; infinite where there is no file or limit (`max`, -1)."""
    try:
        value = path.read_text().split()[word]
    except (OSError, IndexError):
        return math.inf
    return float(value) if value.isdecimal() else math.inf


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def gpu_memory_bytes() -> list[int]:
    """Of NVIDIA's GPUs; empty where nvidia-smi does not tell."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [int(word) * 2**20 for word in done.stdout.split() if word.isdecimal()]


def gpus() -> list[str]:
    """Models of NVIDIA's GPUs as their driver names them."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = [line for file in files for line in file.read_text().splitlines()]
    return [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
