"""CPUs and memory that a process may use, as Ray counts them in a container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ray._common.utils import get_system_memory
from ray._private.utils import _get_docker_cpus

from rsd import provenance
from rsd.provenance import cpus, memory_bytes

V1 = {"cpu/cpu.cfs_quota_us": "{quota}", "cpu/cpu.cfs_period_us": "100000"}
V2 = {"cpu.max": "{quota} 100000"}


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(provenance, "_CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    return tmp_path


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text + "\n")


@pytest.mark.parametrize("version", [V1, V2])
@pytest.mark.parametrize(
    ("quota", "count"),
    [("300000", 3), ("350000", 3), ("50000", 1), ("1600000", 8), ("-1", 8), ("max", 8)],
)
def test_a_containers_cpu_limit_counts(
    groups: Path, version: dict[str, str], quota: str, count: int
) -> None:
    write(groups, {name: text.format(quota=quota) for name, text in version.items()})
    assert cpus() == count
    if quota != "max" or version is V2:
        rays = _get_docker_cpus(
            *(str(groups / name) for name in V1), str(groups / "none"), str(groups / "cpu.max")
        )
        assert count == max(1, int(min(8, rays or 8)))


def test_without_a_container_the_affinity_counts(groups: Path) -> None:
    assert cpus() == 8


@pytest.mark.parametrize("name", ["memory/memory.limit_in_bytes", "memory.max"])
@pytest.mark.parametrize("limit", ["1073741824", "9223372036854771712"])
def test_a_containers_memory_limit_counts(groups: Path, name: str, limit: str) -> None:
    machine = memory_bytes()
    write(groups, {name: limit})
    assert memory_bytes() == min(machine, int(limit))
    files = [str(groups / file) for file in ("memory/memory.limit_in_bytes", "memory.max")]
    assert memory_bytes() == get_system_memory(*files)


def test_memory_without_a_limit_is_the_machines(groups: Path) -> None:
    write(groups, {"memory.max": "max"})
    assert memory_bytes() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
