"""What evaluation scripts do differently, and that none of it is mixed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import RUN

from rsd import conditions
from rsd.books import Books
from rsd.conditions import WORLD_PACKAGES as WORLDS
from rsd.conditions import differences, of_rows, of_run, of_world
from rsd.config import parse
from rsd.envs import worlds
from rsd.envs.assets import ResolvedAssets
from rsd.envs.worlds import World, WorldStream
from rsd.errors import UserError
from rsd.plan import resolve
from rsd.preflight import prepare, run_record
from rsd.protocols import OFT, PROTOCOLS, get_protocol, read_recorded, recorded
from rsd.suites import SUITES, Task

TOY = ["--policy", "toy", "--task-suite", "toy"]


@pytest.mark.parametrize(
    ("name", "env_seed", "wait", "replan", "spatial", "long"),
    [
        ("oft", 0, 10, None, 220, 520),
        ("openpi", 7, 10, 5, 220, 520),
        ("gr00t", 0, 0, 8, 720, 720),
        ("lerobot", 1000, 10, None, 280, 520),
    ],
)
def test_a_protocol_has_its_scripts_numbers(
    name: str, env_seed: int, wait: int, replan: int | None, spatial: int, long: int
) -> None:
    protocol = get_protocol(name)
    assert (protocol.env_seed, protocol.wait_steps, protocol.replan_steps) == (
        env_seed,
        wait,
        replan,
    )
    assert protocol.most_steps(SUITES["libero_spatial"]) == spatial
    assert protocol.most_steps(SUITES["libero_10"]) == long


def test_an_unknown_protocol_is_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown protocol 'opnpi'; did you mean 'openpi'"):
        resolve(parse(["--protocol", "opnpi"]))


def test_an_older_run_is_one_of_oft_and_no_other_is_pooled_with_it() -> None:
    assert not differences(of_rows(RUN), of_rows({**RUN, "protocol": recorded(OFT)}))
    assert conditions.protocol(RUN) == "oft"
    for name, protocol in PROTOCOLS.items():
        other = {**RUN, "protocol": recorded(protocol)}
        for of in (of_rows, of_run):
            found = {each.name for each in differences(of(RUN), of(other))}
            assert ("protocol.name" in found) == (name != "oft")


def test_other_draws_or_waits_make_another_world_and_other_limits_do_not() -> None:
    whole = {
        **RUN,
        "arithmetic": "x",
        "simulator": {"a": "b"},
        "packages": dict.fromkeys(WORLDS, "1"),
    }
    worlds_of = {
        name: of_world({**whole, "protocol": recorded(protocol)})
        for name, protocol in PROTOCOLS.items()
    }
    assert of_world(whole) == worlds_of["oft"]
    assert len({str(world) for world in worlds_of.values()}) == len(PROTOCOLS)
    longer = dataclasses.replace(OFT, max_steps={"libero_10": 1000})
    assert of_world({**whole, "protocol": recorded(longer)}) == worlds_of["oft"]
    unknown = {"name": conditions.UNKNOWN}  # of imported results
    assert of_world({**whole, "protocol": unknown}) is None


def test_what_was_recorded_is_read_again_whatever_its_name_stands_for_by_now() -> None:
    for protocol in PROTOCOLS.values():
        changed = dataclasses.replace(protocol, env_seed=99)
        numbers = json.loads(json.dumps(recorded(changed)))
        assert recorded(read_recorded(numbers)) == numbers
    assert read_recorded(None) == OFT


def test_a_number_that_changes_makes_another_protocol_of_the_same_name() -> None:
    changed = dataclasses.replace(PROTOCOLS["openpi"], env_seed=8)
    before, after = ({**RUN, "protocol": recorded(p)} for p in (PROTOCOLS["openpi"], changed))
    assert [each.name for each in differences(of_rows(before), of_rows(after))] == [
        "protocol.env_seed"
    ]


def test_a_run_is_not_resumed_under_another_protocol(tmp_path: Path) -> None:
    Books.open(str(tmp_path), run_record(prepare(parse(TOY))), resume=False).close()
    record = run_record(prepare(parse([*TOY, "--protocol", "openpi"])))
    with pytest.raises(UserError, match=r'protocol.name: "oft" -> "openpi"'):
        Books.open(str(tmp_path), record, resume=True)
    Books.open(str(tmp_path), run_record(prepare(parse(TOY))), resume=True).close()


@pytest.fixture()
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], WorldStream]:
    monkeypatch.setattr(worlds, "_cache_key", lambda task, assets: "task")
    task = Task("libero_spatial", 0, "name", "instruction")
    assets = ResolvedAssets("none", Path(), "", "")
    return lambda name: WorldStream(task, assets, tmp_path, get_protocol(name))


def draw(loads_before: int) -> World:
    """What a reset draws, and after how many loads of the model."""
    return World(np.random.rand(1, 3), np.full((1, 4), float(loads_before)), np.zeros(1))


def test_trials_draw_one_after_the_other_or_each_from_its_own_seed(
    stream: Callable[[str], WorldStream],
) -> None:
    for name in PROTOCOLS:
        stream(name).extend(2, draw)
    drawn = {name: [stream(name)[k].body_pos.ravel() for k in range(3)] for name in PROTOCOLS}
    for name, seed in {"oft": 0, "openpi": 7, "gr00t": 0}.items():
        rows = np.random.RandomState(seed).rand(3, 3)
        assert np.array_equal(drawn[name], rows)
    each = [np.random.RandomState(1000 + trial).rand(3) for trial in range(3)]
    assert np.array_equal(drawn["lerobot"], each)
    loads = {name: [stream(name)[k].body_quat[0, 0] for k in range(3)] for name in PROTOCOLS}
    assert loads["openpi"] == [1, 2, 3]  # made once, then a reset a trial
    assert loads["lerobot"] == [2, 2, 2]  # an environment a trial, reset once before


def test_worlds_of_two_protocols_are_kept_apart(stream: Callable[[str], WorldStream]) -> None:
    stream("openpi").extend(0, draw)
    assert 0 in stream("openpi")
    assert 0 not in stream("oft") and 0 not in stream("lerobot")
    stream("oft").extend(0, draw)
    assert 0 in stream("gr00t")  # the same draws
