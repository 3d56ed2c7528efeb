"""A demonstration's file rebuilds the simulator that it came from, as LIBERO does it."""

from __future__ import annotations

import contextlib
import inspect
import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from rsd.demos import OSC_POSE, write_demonstration
from rsd.envs import rendering
from rsd.envs.assets import resolve
from rsd.envs.libero import LiberoEnvironment
from rsd.suites import get_task
from tests.made_up_demonstrations import made_up_demonstration

TASK = get_task("libero_goal", 0)
POSE_ERROR = 1e-5  # m: MJCF holds about six digits


def test_the_model_and_a_state_give_back_every_body_s_pose(tmp_path: Path) -> None:
    env = LiberoEnvironment(
        TASK.suite, TASK.task_id, resolve("lite", [TASK.suite]), rendering.NO_RENDERER
    )
    with contextlib.closing(env):
        env.reset_fresh(12345)
        sim = env.simulator.sim
        sim.forward()
        poses = sim.data._data.xpos.copy()
        made_up = made_up_demonstration(12345)
        demo = replace(
            made_up,
            suite=TASK.suite,
            task_id=TASK.task_id,
            states=np.tile(env.state(), (len(made_up), 1)),
            model_xml=env.model_xml(),
        )
    write_demonstration(tmp_path / "demo.hdf5", demo)

    from libero.libero.envs import TASK_MAPPING
    from libero.libero.envs.bddl_base_domain import BDDLBaseDomain

    with h5py.File(tmp_path / "demo.hdf5") as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        model_file = file["data/demo_0"].attrs["model_file"]
        state = file["data/demo_0/states"][0]
    kwargs = env_args["env_kwargs"]
    assert set(kwargs) <= set(inspect.signature(BDDLBaseDomain.__init__).parameters)
    here = {"bddl_file_name": str(TASK.bddl_path)}
    undrawn = {"has_offscreen_renderer": False, "use_camera_obs": False}
    np.random.seed(0)
    rebuilt = TASK_MAPPING[env_args["problem_name"]](**{**kwargs, **here, **undrawn})
    with contextlib.closing(rebuilt):

        def worst() -> float:
            rebuilt.sim.set_state_from_flattened(state)
            rebuilt.sim.forward()
            return float(np.abs(rebuilt.sim.data._data.xpos - poses).max())

        assert worst() > 100 * POSE_ERROR  # the fixtures' poses are not in the state
        rebuilt.reset_from_xml_string(model_file)
        assert worst() < POSE_ERROR


def test_the_controller_is_robosuites() -> None:
    from robosuite import load_controller_config

    assert load_controller_config(default_controller="OSC_POSE") == OSC_POSE
