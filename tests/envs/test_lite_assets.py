"""The lite asset pack in LIBERO, and against LIBERO's own files where the environment variable
RSD_FULL_ASSETS names a tree of them."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsd.envs import lite
from rsd.envs.assets import ResolvedAssets, activate, resolve
from rsd.envs.lite import collision, mesh
from rsd.envs.lite.derive import derive
from rsd.envs.lite.mjcf import Boxes
from rsd.errors import UserError
from rsd.suites import WAIT_ACTION, Task, get_suite, get_task, load_initial_states

pytest.importorskip("libero")

TASKS = [get_task(suite, k) for suite in lite.SUITES for k in range(get_suite(suite).num_tasks)]
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.suite}-{task.task_id}")
BOWL = "akita_black_bowl_1"
VISUAL_GROUP = 1  # robosuite's group of what cameras see
SETTLE_STEPS = 20
FLOOR_Z = -0.05  # metres; below it, an object has fallen through
TRIANGLE_BUDGET = 10_000
NAMED = ("body", "joint", "site", "geom", "actuator", "sensor")
EXACT = (  # model arrays that lite must share with LIBERO's files
    *("body_mass", "body_inertia", "body_ipos", "body_iquat", "body_pos", "body_quat"),
    *("jnt_type", "jnt_range", "dof_damping", "dof_frictionloss", "dof_armature", "qpos0"),
    *("site_pos", "site_quat", "site_size", "site_type", "site_rgba"),
    *("geom_contype", "geom_conaffinity", "geom_group", "cam_pos", "cam_quat", "light_pos"),
)
EXACT_COLLIDING = (
    *("geom_type", "geom_pos", "geom_quat", "geom_size"),
    *("geom_friction", "geom_solref", "geom_solimp", "geom_condim", "geom_margin"),
)

full = pytest.mark.skipif(
    not os.environ.get("RSD_FULL_ASSETS"),
    reason="RSD_FULL_ASSETS names no tree of LIBERO's own assets to compare with",
)


@dataclass(frozen=True)
class Facts:
    """What one task's model is and does on one asset tree."""

    names: dict[str, list[str]]
    arrays: dict[str, np.ndarray]
    visual_boxes: dict[str, np.ndarray]  # body -> float64 (2, 3): metres, its frame, meshes only
    triangles: int  # of meshes that cameras see
    reflectance: float  # largest of all materials
    heights: dict[str, np.ndarray]  # object -> z in metres: stored, settled, half a second later
    final_state: str  # SHA-256 of the simulator's state after settling
    successes: list[bool]  # LIBERO's predicate on every stored state, then with the goal fulfilled


@functools.cache
def lite_tree() -> Path:
    tree = Path(tempfile.mkdtemp(prefix="rsd-lite-test-"))
    lite.write_tree(tree)
    return tree


@contextmanager
def environment(
    tree: Path, task: Task, processor: Callable[[str], str] | None = None
) -> Iterator[Any]:
    """LIBERO's control environment without a renderer, after `seed(0)` and a reset."""
    activate(ResolvedAssets("test", tree, "test", "test"))
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    from libero.libero.envs.env_wrapper import ControlEnv

    path = str(task.bddl_path)
    control = ControlEnv(bddl_file_name=path, has_offscreen_renderer=False, use_camera_obs=False)
    try:
        control.env.set_xml_processor(processor)
        control.seed(0)
        control.reset()
        yield control
    finally:
        control.close()


@functools.cache
def facts(tree: Path, task: Task, processor: Callable[[str], str] | None = None) -> Facts:
    states = load_initial_states(task)
    with environment(tree, task, processor) as control:
        model = control.sim.model._model
        described = {
            "names": {kind: _names(model, kind) for kind in NAMED},
            "arrays": _arrays(model),
            "visual_boxes": _visual_boxes(model),
            "triangles": sum(int(model.mesh_facenum[model.geom_dataid[g]]) for g in _seen(model)),
            "reflectance": float(model.mat_reflectance.max()),
        }
        successes = [_success(control, state) for state in states]
        control.set_init_state(states[0])
        heights = [_object_heights(control)]
        for steps in (SETTLE_STEPS, 10):
            _wait(control, steps)
            heights.append(_object_heights(control))
        final_state = hashlib.sha256(control.get_sim_state().tobytes()).hexdigest()
        successes.append(_success_with_the_goal_fulfilled(control))
    by_object = {name: np.array([moment[name] for moment in heights]) for name in heights[0]}
    return Facts(heights=by_object, final_state=final_state, successes=successes, **described)


def _wait(control: Any, steps: int = SETTLE_STEPS) -> None:
    for _ in range(steps):
        control.env.step(np.array(WAIT_ACTION))


def _names(model: Any, kind: str) -> list[str]:
    count = {"joint": model.njnt, "actuator": model.nu}.get(kind) or getattr(model, f"n{kind}")
    return [getattr(model, kind)(index).name for index in range(count)]


def _arrays(model: Any) -> dict[str, np.ndarray]:
    arrays = {name: getattr(model, name).copy() for name in EXACT}
    colliding = (model.geom_contype | model.geom_conaffinity) > 0
    return arrays | {name: getattr(model, name)[colliding] for name in EXACT_COLLIDING}


def _seen(model: Any) -> list[int]:
    """Mesh geoms that cameras see."""
    shown = (model.geom_group == VISUAL_GROUP) & (model.geom_rgba[:, 3] > 0)
    return [int(geom) for geom in np.flatnonzero(shown & (model.geom_dataid >= 0))]


def _visual_boxes(model: Any) -> dict[str, np.ndarray]:
    import mujoco

    boxes: dict[str, np.ndarray] = {}
    for geom in _seen(model):
        start, count = (
            a[model.geom_dataid[geom]] for a in (model.mesh_vertadr, model.mesh_vertnum)
        )
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
        points = model.mesh_vert[start : start + count] @ rotation.reshape(3, 3).T
        corners = np.stack([points.min(axis=0), points.max(axis=0)]) + model.geom_pos[geom]
        name = model.body(model.geom_bodyid[geom]).name
        seen = boxes.get(name, corners)
        boxes[name] = np.stack([np.minimum(seen, corners)[0], np.maximum(seen, corners)[1]])
    return boxes


def _object_heights(control: Any) -> dict[str, float]:
    ids = control.env.obj_body_id
    return {
        name: float(control.sim.data.body_xpos[ids[name]][2]) for name in control.env.objects_dict
    }


def _success(control: Any, state: np.ndarray) -> bool:
    control.set_state(state)
    control.sim.forward()
    return bool(control.check_success())


def _success_with_the_goal_fulfilled(control: Any) -> bool:
    """Move what the goal names to where it has to be, one predicate after the other, and ask."""
    goals = control.env.parsed_problem["goal_state"]
    filled: Counter[str] = Counter()
    for predicate, name, *targets in goals:
        for target in targets:
            _put(control, predicate, name, target, aside=0.06 * filled[target])
            filled[target] += 1
        if not targets:
            _turn(control, predicate, name)
    return bool(control.check_success())


def _put(control: Any, predicate: str, name: str, target: str, aside: float) -> None:
    """Lower an object towards a site or another object until LIBERO says that it is there."""
    joint = control.env.objects_dict[name].joints[-1]
    pose = control.sim.data.get_joint_qpos(joint).copy()
    place = control.env.object_states_dict[target].get_geom_state()["pos"].copy()
    for height in np.arange(0.15, -0.05, -0.0025):
        pose[:3] = place + np.array([0, aside, height])
        control.sim.data.set_joint_qpos(joint, pose)
        control.sim.forward()
        if control.env._eval_predicate([predicate, name, target]):
            return


def _turn(control: Any, predicate: str, name: str) -> None:
    """Move the joints of a fixture, or of the part that a site belongs to, into the range that
    LIBERO's predicate asks for."""
    state = control.env.object_states_dict[name]
    fixture = control.env.get_object(getattr(state, "parent_name", name))
    ranges = fixture.object_properties["articulation"][f"default_{predicate}_ranges"]
    state.set_joint(float(np.mean(ranges)))
    control.sim.forward()


def full_facts(task: Task) -> Facts:
    """With the simplified robot too: it builds faster, and what it changes has its own tests."""
    return facts(Path(os.environ["RSD_FULL_ASSETS"]), task, lite.simplify_robot)


def lite_facts(task: Task) -> Facts:
    return facts(lite_tree(), task, lite.simplify_robot)


# --- the tree ----------------------------------------------------------------------------------


def test_the_tree_is_the_same_bytes_every_time_and_costs_less_than_a_second(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from rsd.envs import lite;"
        "lite.write_tree(Path(sys.argv[1])); print(lite.fingerprint())"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "other")]
    other = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )
    started = time.process_time()  # other load on the machine does not count
    lite.write_tree(tmp_path / "this")
    assert time.process_time() - started < 1.0
    assert _contents(tmp_path / "this") == _contents(tmp_path / "other")
    assert other.stdout.strip() == lite.fingerprint()


def _contents(tree: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(tree)): path.read_bytes()
        for path in sorted(tree.rglob("*"))
        if path.is_file()
    }


def test_every_floor_and_wall_style_of_libero_has_its_texture() -> None:
    with environment(lite_tree(), TASKS[0]):
        from libero.libero.envs.arenas.style import STYLE_MAPPING
    for styles in STYLE_MAPPING.values():
        for file in styles.values():
            assert (lite_tree() / "textures" / file).is_file(), file


def test_generated_meshes_are_closed_and_face_outwards() -> None:
    cylinder = mesh.lathe([(0, -1), (1, -1), (1, 1), (0, 1)], segments=64)
    cube = mesh.box((0, 0, 0), (1, 2, 3))
    assert _volume(cylinder) == pytest.approx(2 * np.pi, rel=0.01)
    assert _volume(cube) == pytest.approx(6.0)
    pipes = [mesh.loft(axis, [(-1, 3, 0, 1, 1), (1, 3, 0, 1, 1)], segments=64) for axis in range(3)]
    assert [_volume(pipe) for pipe in pipes] == [pytest.approx(2 * np.pi, rel=0.01)] * 3
    slab = mesh.hexahedron(
        [(0, 0, 0), (1, 0, 0), (1, 2, 0), (0, 2, 0)], [(0, 0, 3), (1, 0, 3), (1, 2, 3), (0, 2, 3)]
    )
    assert _volume(slab) == pytest.approx(6.0)
    turned = mesh.cuboids([Boxes((500_000, 1_000_000, 1_500_000), ((1, 2, 3, 4, 5, 6, 7),))])
    assert _volume(turned) == pytest.approx(6.0)
    rod = mesh.tube([(0, 0, 0), (0, 0, 1), (0, 0, 2)], radius=1, segments=64)
    assert _volume(rod) == pytest.approx(2 * np.pi, rel=0.01)
    for shape in (cylinder, cube, *pipes, slab, turned, rod, cylinder.turned(1)):
        corners = shape.vertices[shape.faces]
        geometric = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        shaded = shape.normals[shape.faces].mean(axis=1)
        assert (np.einsum("ij,ij->i", geometric, shaded) > 0).all()


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", (-1, 1))
def test_a_picture_is_upright_and_not_mirrored(axis: int, sign: int) -> None:
    up = 1 if axis == 2 else 2
    pictured = mesh.box((-1, -1, -1), (1, 1, 1)).pictured(axis, sign, cell=3)
    seen = pictured.uv[:, 0] >= 3
    assert seen.sum() == 6  # two triangles
    place, uv = pictured.vertices[seen], pictured.uv[seen] - [3, 0]
    outward, upward = sign * np.eye(3)[axis], np.eye(3)[up]
    rightward = np.cross(upward, outward)
    np.testing.assert_allclose(uv[:, 0] > 0.5, place @ rightward > 0)
    np.testing.assert_allclose(uv[:, 1] < 0.5, place @ upward > 0)  # t runs downwards


def test_suites_without_embedded_assets_are_refused_with_the_alternatives() -> None:
    with pytest.raises(UserError, match=r"do not cover libero_90 .*rsd.envs.assets.*--assets PATH"):
        resolve("lite", ["libero_spatial", "libero_90"])
    for suite in lite.SUITES:
        assert resolve("lite", [suite]).name == "lite"


def _volume(shape: mesh.Mesh) -> float:
    a, b, c = np.moveaxis(shape.vertices[shape.faces], 1, 0)
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


# --- every task on lite ------------------------------------------------------------------------


@each_task
def test_stored_states_come_to_rest_and_the_goal_answers(task: Task) -> None:
    """LIBERO stores objects up to 16 cm above their places, or up to 4 cm below; they fall or are
    pushed out during the wait steps."""
    found = lite_facts(task)
    for name, (_, settled, later) in found.heights.items():
        assert settled > FLOOR_Z, name
        assert abs(later - settled) < 0.001, name
    assert found.successes == [False] * 50 + [True]


@each_task
def test_what_cameras_see_is_cheap_to_draw(task: Task) -> None:
    found = lite_facts(task)
    assert 1000 < found.triangles <= TRIANGLE_BUDGET
    assert found.reflectance == 0  # each reflecting box or plane draws the scene once more


def test_the_gripper_lifts_the_bowl_by_its_rim() -> None:
    with environment(lite_tree(), TASKS[0], lite.simplify_robot) as control:
        control.set_init_state(load_initial_states(TASKS[0])[0])
        _wait(control)
        bowl = control.sim.data.body_xpos[control.env.obj_body_id[BOWL]]  # a view: follows it
        rim = bowl + np.array([0, 0.045, 0.022])
        lifted = bowl[2] + 0.1
        for above, gripper, steps in ((0.1, -1, 40), (0.0, -1, 40), (0.0, 1, 10), (0.15, 1, 30)):
            for _ in range(steps):
                _move_towards(control, rim + np.array([0, 0, above]), gripper)
        assert bowl[2] > lifted


def _move_towards(control: Any, goal: np.ndarray, gripper: float) -> None:
    """One control step: full speed (1 is 5 cm) until near."""
    site = control.sim.model.site_name2id("gripper0_grip_site")
    delta = np.clip((goal - control.sim.data.site_xpos[site]) / 0.05, -1, 1)
    control.env.step(np.array([*delta, 0, 0, 0, gripper]))


# --- the simplified robot ----------------------------------------------------------------------


def _states_after_actions(
    processor: Callable[[str], str] | None, seeds: Sequence[int]
) -> list[str]:
    """SHA-256 of the simulator's state after 70 random steps, once for each seed."""
    states = []
    with environment(lite_tree(), TASKS[3], processor) as control:
        for seed in seeds:
            control.set_init_state(load_initial_states(TASKS[3])[0])
            for action in np.random.default_rng(seed).uniform(-1, 1, (70, 7)):
                control.env.step(action)
            states.append(hashlib.sha256(control.get_sim_state().tobytes()).hexdigest())
    return states


def test_the_simplified_robot_moves_bit_for_bit_like_robosuites() -> None:
    [original] = _states_after_actions(None, seeds=[0])
    simplified, other_actions = _states_after_actions(lite.simplify_robot, seeds=[0, 1])
    assert simplified == original
    assert other_actions != original  # the hash does see motion


def test_the_simplified_robot_fills_the_same_space() -> None:
    whole, simple = facts(lite_tree(), TASKS[0]), lite_facts(TASKS[0])
    assert whole.names == simple.names
    robot = [
        name for name in whole.visual_boxes if name.startswith(("robot0", "gripper0", "mount0"))
    ]
    for name in robot:
        assert _relative_gap(whole.visual_boxes[name], simple.visual_boxes[name]) < 0.1, name


def test_an_unknown_robot_is_refused_and_a_simplified_model_left_alone() -> None:
    body = '<body name="b"><geom type="mesh" group="1" mesh="{mesh}"/></body>'
    model = f"<mujoco><asset/><worldbody>{body}</worldbody></mujoco>"
    with pytest.raises(ValueError, match="robot0_sawyer_arm"):
        lite.simplify_robot(model.format(mesh="robot0_sawyer_arm"))
    once = lite.simplify_robot(model.format(mesh="robot0_link2_vis"))
    assert lite.simplify_robot(once) == once
    shown = ET.fromstring(once).find("./worldbody/body/geom")
    assert shown is not None and shown.get("mesh") == "robot0_link2"


# --- against LIBERO's own files ----------------------------------------------------------------


@full
def test_the_collision_boxes_are_derived_from_liberos_files() -> None:
    assert collision.FILE.read_text() == derive(Path(os.environ["RSD_FULL_ASSETS"]))


@full
@each_task
def test_structure_and_collision_geometry_are_liberos(task: Task) -> None:
    theirs, ours = full_facts(task), lite_facts(task)
    assert ours.names == theirs.names
    named = [name for name in ours.names["geom"] if name]  # some of LIBERO's scenery is not
    assert all(count == 1 for count in Counter(named).values())
    for name, array in theirs.arrays.items():
        np.testing.assert_array_equal(ours.arrays[name], array, err_msg=name)


@full
@each_task
def test_what_cameras_see_has_liberos_size(task: Task) -> None:
    theirs, ours = full_facts(task), lite_facts(task)
    assert ours.visual_boxes.keys() == theirs.visual_boxes.keys()
    for name, box in theirs.visual_boxes.items():
        assert _relative_gap(box, ours.visual_boxes[name]) < 0.1, name


def _relative_gap(one: np.ndarray, other: np.ndarray) -> float:
    """Largest distance between two boxes' sides, in parts of the first one's longest edge."""
    return float(np.abs(one - other).max() / (one[1] - one[0]).max())


@full
@each_task
def test_physics_and_predicates_are_liberos_bit_for_bit(task: Task) -> None:
    theirs, ours = full_facts(task), lite_facts(task)
    for name, heights in theirs.heights.items():
        assert np.abs(heights - ours.heights[name]).max() < 0.005, name
    assert ours.final_state == theirs.final_state
    assert ours.successes == theirs.successes
