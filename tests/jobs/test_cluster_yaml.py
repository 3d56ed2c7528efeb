"""cluster.yaml against Ray's own schema and the promises of its comments; no cloud is asked."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
TOKEN = "~/.ray/auth_token"


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def node_types(cluster: dict[str, Any]) -> dict[str, Any]:
    return cluster["available_node_types"]


def test_the_cluster_is_valid_against_rays_schema(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


def test_a_misspelt_field_would_be_seen(cluster: dict[str, Any]) -> None:
    broken = copy.deepcopy(cluster) | {"setup_comands": []}
    with pytest.raises(jsonschema.ValidationError, match="setup_comands"):
        validate_config(prepare_config(broken))


def test_the_head_takes_no_work_and_is_never_taken_away(cluster: dict[str, Any]) -> None:
    head = node_types(cluster)[cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]


def test_simulators_are_spot_machines_that_scale(cluster: dict[str, Any]) -> None:
    simulators = node_types(cluster)["simulators"]
    assert simulators["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert simulators["min_workers"] <= 1 < simulators["max_workers"]


def test_gpus_start_from_zero(cluster: dict[str, Any]) -> None:
    with_gpu = [node for node in node_types(cluster).values() if node["resources"].get("GPU")]
    assert with_gpu
    assert all(node["min_workers"] == 0 < node["max_workers"] for node in with_gpu)


def test_the_limits_of_the_node_types_can_all_be_reached(cluster: dict[str, Any]) -> None:
    limits = [node.get("max_workers", 0) for node in node_types(cluster).values()]
    assert cluster["max_workers"] == sum(limits)


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_no_machine_starts_ray_without_the_token(cluster: dict[str, Any], commands: str) -> None:
    starts = [command for command in cluster[commands] if "ray start" in command]
    assert len(starts) == 1
    assert "RAY_AUTH_MODE=token ray start" in starts[0]
    assert cluster["file_mounts"][TOKEN] == TOKEN


def test_no_secret_stands_in_the_file() -> None:
    assert "RAY_AUTH_TOKEN" not in (ROOT / "cluster.yaml").read_text()


def test_the_dashboard_is_reached_through_ssh_only(cluster: dict[str, Any]) -> None:
    assert any("--dashboard-host=127.0.0.1" in line for line in cluster["head_start_ray_commands"])


def test_every_mounted_file_of_the_project_exists(cluster: dict[str, Any]) -> None:
    local = [Path(path) for path in cluster["file_mounts"].values() if path != TOKEN]
    assert [str(path) for path in local if not (ROOT / path).exists()] == []


def test_whatever_the_setup_needs_is_mounted(cluster: dict[str, Any]) -> None:
    mounts = cluster["file_mounts"]
    commands = "\n".join(cluster["setup_commands"])
    needed = re.findall(r" -[bcr] (\S+)", commands) + re.findall(r"sh (~\S+)", commands)
    assert "~/rsd/install-system-packages" in needed
    assert {"~/rsd/requirements.txt", "~/rsd/constraints.txt"} <= set(needed)
    while needed:
        remote = needed.pop()
        assert remote in mounts
        # what requirements name by -r and -c lies beside them
        named = re.findall(r"^-[rc] (\S+)", (ROOT / mounts[remote]).read_text(), re.MULTILINE)
        needed += [str(Path(remote).parent / name) for name in named]
