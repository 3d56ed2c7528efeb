"""The scripted experts: their skills without a simulator, and real tasks, freshly placed."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rsd.envs import rendering
from rsd.envs.assets import resolve
from rsd.envs.libero import LiberoEnvironment
from rsd.experts import Expert, PrivilegedState, has_other_rim, make_expert, read_state, skills
from rsd.experts.engine import Move, Phase, PlanExpert, Rim
from rsd.experts.plans import BOWL, CABINET, PLANS, PLATE, find_plan
from rsd.suites import get_suite, get_task

UPRIGHT = np.array([1.0, 0.0, 0.0, 0.0])  # wxyz
POINTING_DOWN = np.array([1.0, 0.0, 0.0, 0.0])  # xyzw


def scene(**changes: Any) -> PrivilegedState:
    """A table scene: open gripper high above, bowl at the origin of the table, plate 0.2 m left."""
    state = PrivilegedState(
        eef_pos=np.array([-0.2, 0.0, 1.17]),
        eef_quat=POINTING_DOWN,
        finger_qpos=np.array([0.04, -0.04]),
        finger_qvel=np.zeros(2),
        object_pos={
            BOWL: np.array([0.0, 0.0, 0.898]),
            PLATE: np.array([0.0, 0.2, 0.902]),
            CABINET: np.array([0.03, -0.27, 0.905]),
        },
        object_quat={BOWL: UPRIGHT, PLATE: UPRIGHT, CABINET: UPRIGHT},
        grasped=frozenset(),
    )
    return replace(state, **changes)


def table_expert() -> PlanExpert:
    """The expert of the plainest task, the bowl at the table's centre."""
    return PlanExpert(find_plan("libero_spatial", 2))


def grasp_of(state: PrivilegedState) -> np.ndarray:
    """Where the table expert wants the grip site, from its settings alone."""
    rim = find_plan("libero_spatial", 2)[0].grasp
    outward = np.array([np.cos(rim.azimuth), np.sin(rim.azimuth), 0.0])
    return state.object_pos[BOWL] + rim.radius * outward + np.array([0.0, 0.0, rim.height])


def test_servo_keeps_its_direction_and_saturates() -> None:
    action = skills.servo(np.array([0.3, 0.4, 0.0]), gain=1.0, limit=0.8)
    np.testing.assert_allclose(action, [0.48, 0.64, 0.0])
    small = skills.servo(np.array([0.01, 0.0, 0.0]), gain=1.0, limit=0.8)
    np.testing.assert_allclose(small, [0.2, 0.0, 0.0])


def test_the_funnel_rises_before_it_crosses_and_drops_only_over_the_goal() -> None:
    goal = np.zeros(3)
    low = skills.funnel(np.array([0.3, 0.0, 0.0]), goal, clearance=0.1, slope=1.5, radius=0.01)
    np.testing.assert_allclose(low, [0.3, 0.0, 0.1])
    high = skills.funnel(np.array([0.3, 0.0, 0.1]), goal, clearance=0.1, slope=1.5, radius=0.01)
    np.testing.assert_allclose(high, [0.0, 0.0, 0.1])
    over = skills.funnel(np.array([0.005, 0.0, 0.1]), goal, clearance=0.1, slope=1.5, radius=0.01)
    np.testing.assert_allclose(over, [0.0, 0.0, 0.0])


def test_every_start_flows_down_the_funnel_to_the_goal() -> None:
    goal = np.array([0.1, -0.2, 0.9])
    for start in ([0.4, 0.3, 0.9], [0.1, -0.2, 1.3], [-0.3, 0.0, 1.1], [0.13, -0.2, 0.88]):
        position = np.array(start)
        for _ in range(400):
            waypoint = skills.funnel(position, goal, clearance=0.1, slope=1.5, radius=0.01)
            position = position + 0.01 * skills.servo(waypoint - position, gain=1.3, limit=1.0)
        np.testing.assert_allclose(position, goal, atol=1e-3)


def test_the_rim_point_follows_a_tilted_bowl() -> None:
    upright = skills.rim_point(np.zeros(3), UPRIGHT, np.pi / 2, radius=0.05, height=0.03)
    np.testing.assert_allclose(upright, [0.0, 0.05, 0.03], atol=1e-12)
    half = np.pi / 12  # tilted by 30 degrees about x: the +y rim goes up
    tilted = np.array([np.cos(half), np.sin(half), 0.0, 0.0])
    point = skills.rim_point(np.zeros(3), tilted, np.pi / 2, radius=0.05, height=0.03)
    assert point[2] == pytest.approx(0.05 * 0.5 + 0.03 * np.cos(np.pi / 6))


def test_the_gripper_turns_the_short_way_to_a_rim() -> None:
    assert skills.gripper_yaw(np.pi / 2) == pytest.approx(0.0)
    assert skills.gripper_yaw(-np.pi / 2) == pytest.approx(0.0)
    assert skills.gripper_yaw(np.radians(156)) == pytest.approx(np.radians(66))
    assert abs(skills.gripper_yaw(0.0)) == pytest.approx(np.pi / 2)


def test_alignment_is_idle_within_the_deadband_and_turns_towards_the_yaw_beyond() -> None:
    np.testing.assert_array_equal(
        skills.align(POINTING_DOWN, skills.pointing_down(0.05), 1.0, 0.1), np.zeros(3)
    )
    turn = skills.align(POINTING_DOWN, skills.pointing_down(0.3), 1.0, 0.1)
    np.testing.assert_allclose(turn, [0.0, 0.0, 0.4], atol=1e-9)


def test_an_open_gripper_above_the_table_reaches_for_the_rim() -> None:
    action = table_expert().act(scene())
    assert action.dtype == np.float32 and action.shape == (7,)
    assert action[0] > 0 and action[6] == -1
    np.testing.assert_array_equal(action[3:6], 0)


def test_the_gripper_closes_at_the_rim_and_keeps_closing_when_it_is_pushed_a_little() -> None:
    expert, state = table_expert(), scene()
    at_rim = replace(state, eef_pos=grasp_of(state))
    assert expert.act(at_rim)[6] == 1
    pushed = replace(
        at_rim,
        eef_pos=at_rim.eef_pos + np.array([0.02, 0.0, 0.0]),
        finger_qpos=np.array([0.02, -0.02]),
        finger_qvel=np.array([-0.1, 0.1]),
    )
    assert expert.act(pushed)[6] == 1
    assert table_expert().act(pushed)[6] == -1  # hysteresis: it would not have begun there


def test_a_gripper_that_closed_on_nothing_opens_and_rises_without_chattering() -> None:
    expert, state = table_expert(), scene()
    at_rim = replace(state, eef_pos=grasp_of(state))
    expert.act(at_rim)
    for gap in (0.0, 0.01, 0.03, 0.05):
        action = expert.act(replace(at_rim, finger_qpos=np.array([gap, -gap]) / 2))
        assert action[6] == -1 and action[2] > 0


def test_a_gripper_closed_far_from_the_bowl_opens() -> None:
    closed = scene(finger_qpos=np.zeros(2))
    assert table_expert().act(closed)[6] == -1


def held(bowl: list[float]) -> PrivilegedState:
    """The bowl at `bowl` in the fingers."""
    state = scene(finger_qpos=np.array([0.004, -0.004]), grasped=frozenset({BOWL}))
    moved = replace(state, object_pos={**state.object_pos, BOWL: np.array(bowl)})
    return replace(moved, eef_pos=grasp_of(moved))


def test_a_held_bowl_is_lifted_then_carried_then_lowered_then_released() -> None:
    lifted = table_expert().act(held([0.0, 0.0, 0.898]))
    assert lifted[2] > 0.5 and abs(lifted[1]) < 0.1 and lifted[6] == 1
    carried = table_expert().act(held([0.0, 0.0, 1.02]))
    assert carried[1] > 0.5 and carried[6] == 1
    lowered = table_expert().act(held([0.0, 0.2, 1.0]))
    assert lowered[2] < -0.5 and lowered[6] == 1
    released = table_expert().act(held([0.0, 0.2, 0.912]))
    assert released[6] == -1 and not released[:6].any()


def test_the_bowl_is_lifted_only_when_the_fingers_have_settled_and_then_stays_lifted() -> None:
    expert, state = table_expert(), held([0.0, 0.0, 0.898])
    squeezing = replace(state, finger_qvel=np.array([-0.02, 0.02]))
    assert expert.decide(squeezing).phase is Phase.CLOSE
    expert.act(state)
    assert expert.decide(squeezing).phase is Phase.CARRY


def test_a_bowl_on_the_plate_is_left_alone() -> None:
    state = scene()
    on_plate = replace(
        state,
        object_pos={**state.object_pos, BOWL: np.array([0.01, 0.21, 0.912])},
        eef_pos=np.array([0.0, 0.16, 0.94]),
        satisfied=frozenset({("on", BOWL, PLATE)}),
    )
    expert = table_expert()
    assert expert.decide(on_plate).phase is Phase.RETREAT
    action = expert.act(on_plate)
    assert action[2] > 0 and action[6] == -1 and not action[:2].any()


def test_the_expert_forgets_a_carry_once_the_bowl_is_gone() -> None:
    fresh, used = table_expert(), table_expert()
    used.act(held([0.0, 0.0, 1.02]))
    used.act(scene())
    np.testing.assert_array_equal(fresh.act(scene()), used.act(scene()))


def test_a_box_is_gripped_across_its_narrow_side_and_never_through_the_table() -> None:
    flat = np.array([0.041, 0.021, 0.009])
    height, yaw = skills.box_grasp(np.eye(3), flat, depth=0.035, clearance=0.012, widest=0.034)
    assert yaw == pytest.approx(0.0) and height == pytest.approx(0.003)
    quarter = skills.rotation_of(np.array([np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)]))
    _, yaw = skills.box_grasp(quarter, flat, depth=0.035, clearance=0.012, widest=0.034)
    assert abs(yaw) == pytest.approx(np.pi / 2)
    tall = np.array([0.026, 0.026, 0.066])
    height, _ = skills.box_grasp(np.eye(3), tall, depth=0.035, clearance=0.012, widest=0.034)
    assert height == pytest.approx(0.031)


def test_a_lane_is_entered_at_its_start_and_followed_to_its_end() -> None:
    end, north = np.array([0.1, 0.2, 0.9]), np.array([0.0, 1.0, 0.0])
    lane = {"direction": north, "length": 0.06, "radius": 0.02, "clearance": 0.1}
    inside = end - 0.03 * north
    waypoint, entered = skills.lane(inside, end, **lane)
    assert entered and waypoint is end
    past = end + 0.05 * north
    waypoint, entered = skills.lane(past, end, **lane)
    assert not entered and waypoint[2] > end[2]  # over it, back to the start


def test_the_next_goal_of_a_plan_is_taken_up_where_the_one_before_is_reached() -> None:
    (first,) = find_plan("libero_spatial", 2)
    second = replace(first, thing="cup", done=lambda state: False)
    expert = PlanExpert((first, second))
    state = scene()
    both = replace(
        state,
        object_pos={**state.object_pos, "cup": np.array([0.1, -0.1, 0.9])},
        object_quat={**state.object_quat, "cup": UPRIGHT},
    )
    assert expert.decide(both).at == 0
    reached = replace(both, satisfied=frozenset({("on", BOWL, PLATE)}))
    assert expert.decide(reached).at == 1
    knocked_off = replace(reached, satisfied=frozenset())
    assert expert.decide(knocked_off).at == 0


def test_plans_are_the_official_tasks_in_their_order() -> None:
    for suite, plans in PLANS.items():
        tasks = [get_task(suite, number) for number in range(get_suite(suite).num_tasks)]
        assert [task.instruction for task in tasks] == list(plans)
        for number, task in enumerate(tasks):
            assert find_plan(suite, number) is find_plan(suite, task.name)
            assert find_plan(suite, number) is find_plan(suite, task.instruction)


def test_unknown_tasks_and_suites_are_refused() -> None:
    for unknown in (10, -1, "pick up the milk"):
        with pytest.raises(ValueError, match="unknown libero_spatial task"):
            find_plan("libero_spatial", unknown)
    with pytest.raises(ValueError, match="no expert for suite"):
        make_expert("libero_90", 0)


def rim_of(expert: Expert) -> Rim:
    assert isinstance(expert, PlanExpert) and isinstance(expert.plan[0], Move)
    assert isinstance(expert.plan[0].grasp, Rim)
    return expert.plan[0].grasp


def test_the_other_rim_can_be_asked_for() -> None:
    own, other = (rim_of(make_expert("libero_spatial", 2, other)) for other in (False, True))
    assert (own.azimuth, own.other) == (other.other, other.azimuth)
    assert own.azimuth != other.azimuth
    assert rim_of(make_expert("libero_spatial", 2)) == own


def test_what_is_taken_in_one_way_only_has_no_other_rim() -> None:
    assert not has_other_rim("libero_object", 0)
    with pytest.raises(ValueError, match="by either of two rims"):
        make_expert("libero_object", 0, other_rim=True)


@pytest.mark.parametrize(
    ("suite", "task", "other_rim", "most_steps"),
    [
        ("libero_spatial", 2, False, 130),
        ("libero_spatial", 2, True, 130),
        ("libero_object", 0, False, 160),  # a can
        ("libero_object", 6, False, 180),  # a flat box
        ("libero_goal", 0, False, 140),  # a drawer
        ("libero_goal", 7, False, 140),  # a knob
    ],
)
def test_the_expert_solves_a_real_task_from_a_fresh_placement(
    suite: str, task: int, other_rim: bool, most_steps: int
) -> None:
    env = LiberoEnvironment(suite, task, resolve("lite", [suite]), rendering.NO_RENDERER)
    with contextlib.closing(env):
        env.reset_fresh(12345)
        expert = make_expert(suite, task, other_rim)
        for _ in range(most_steps):
            action = expert.act(read_state(env.simulator))
            assert np.isfinite(action).all() and np.abs(action).max() <= 1
            if env.step(action):
                return
        pytest.fail(f"not solved in {most_steps} steps; last state {read_state(env.simulator)}")
