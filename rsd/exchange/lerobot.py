"""LeRobot's `eval_info.json` (lerobot 0.6.1, `scripts/lerobot_eval.py`, `eval_policy_all`).

It says whether each episode succeeded, and nothing else of it: no version, no seed, no steps, no
policy. An error in an episode ends LeRobot's evaluation, so there are none.
"""

from __future__ import annotations

from typing import Any

from rsd.errors import UserError, brief
from rsd.exchange.results import Episode, Results, count, member, suite_name
from rsd.foreign import finite
from rsd.types import Outcome

SOFTWARE = "lerobot"


def looks_like(body: Any) -> bool:
    """Whether JSON is LeRobot's, of whatever version."""
    return isinstance(body, dict) and (
        "per_task" in body or {"per_episode", "aggregated"} <= set(body)
    )


def read(body: Any, shown: str) -> Results:
    """Raises UserError for a file that lacks something, or contradicts itself."""
    if "per_task" not in body:
        raise UserError(
            f"{shown} is of a LeRobot before 0.4, which evaluated one task and does not say which; "
            "evaluate again with a newer one"
        )
    tasks = member(body, "per_task", list, shown)
    seen: list[tuple[str, int, list[Any]]] = []
    for place, task in enumerate(tasks):
        what = f"{shown}: per_task[{place}]"
        suite = member(task, "task_group", str, what)
        task_id = count(task.get("task_id"), f"{what}: task_id")
        verdicts = member(
            member(task, "metrics", dict, what), "successes", list, f"{what}: metrics"
        )
        seen.append((suite, task_id, verdicts))
    most = {suite: 1 + max(task for own, task, _ in seen if own == suite) for suite, _, _ in seen}
    episodes = tuple(
        Episode(
            suite_name(SOFTWARE, suite, most[suite]),
            task_id,
            number,
            _outcome(verdict, f"{shown}: {suite} {task_id}, success {number}"),
        )
        for suite, task_id, verdicts in seen
        for number, verdict in enumerate(verdicts)
    )
    overall = member(body, "overall", dict, shown)
    if "n_episodes" in overall and overall["n_episodes"] != len(episodes):
        raise UserError(
            f"{shown} says {brief(overall['n_episodes'])} episodes in `overall` and holds "
            f"{len(episodes)}: it was edited, or put together; import what LeRobot wrote"
        )
    figures = {name: value for name, value in overall.items() if _is_number(value)}
    return Results(SOFTWARE, None, episodes, complete=True, says={"overall": figures})


def _outcome(verdict: Any, what: str) -> Outcome:
    if not isinstance(verdict, bool):
        raise UserError(f"{what} is {brief(verdict)}, expected true or false")
    return "success" if verdict else "timeout"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and finite(value)
