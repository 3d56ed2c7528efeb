from __future__ import annotations

import socket
from pathlib import Path

import pytest

from rsd.cluster import address
from rsd.cluster.address import check_cluster, cluster_address
from rsd.commands import call
from rsd.errors import UserError
from tests.made_up_demonstrations import made_up_demonstration, made_up_folder


@pytest.mark.parametrize("value", [None, "", "  ", "local"])
def test_without_a_name_a_command_has_a_ray_of_its_own(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if value is not None:
        monkeypatch.setenv("RAY_ADDRESS", value)
    assert cluster_address() is None
    check_cluster()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("http://127.0.0.1:8265", "the address of a dashboard, which takes jobs"),
        ("HTTPS://head", "the address of a dashboard"),
        ("head", "no address of a Ray cluster; give host:port"),
        ("head:99999", "no address of a Ray cluster"),
        ("head:port", "no address of a Ray cluster"),
        ("127.0.0.1:1", "nothing listens there"),
        ("ray://127.0.0.1:1", "is for Ray Client"),
        ("no-such-host.invalid:6379", "nothing listens there"),
    ],
)
def test_an_address_that_takes_no_driver_is_told_by_the_variables_name(
    value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", value)
    with pytest.raises(UserError, match=f"^RAY_ADDRESS='{value}'.*{told}.*unset RAY_ADDRESS"):
        check_cluster()


def test_something_that_listens_and_is_no_ray_is_given_up_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert address.CONNECT_S + address.ANSWER_S < 30
    monkeypatch.setattr(address, "ANSWER_S", 4.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(UserError, match="no Ray cluster answered there within 4 s"):
            check_cluster()


@pytest.mark.parametrize("job", ["evaluate", "dry run", "collect", "train", "benchmark"])
def test_every_job_refuses_a_dead_address_before_it_touches_its_output(
    job: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    output = ["--output", str(tmp_path / "output")]
    toy = ["--task-suite", "toy", "--policy", "toy", *output]
    if job == "evaluate":
        code = call("evaluate", toy)
    elif job == "dry run":
        code = call("evaluate", [*toy, "--dry-run"])
    elif job == "collect":
        code = call("collect", ["--assets", "lite", *output])
    elif job == "train":
        data = made_up_folder(tmp_path / "data", [made_up_demonstration(1)])
        code = call("train", ["--data", str(data), *output])
    else:
        code = call("benchmark", ["driver"])
    assert code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: RAY_ADDRESS='127.0.0.1:1': nothing listens there")
    assert len(captured.err.splitlines()) == 1
    assert not (tmp_path / "output").exists()
