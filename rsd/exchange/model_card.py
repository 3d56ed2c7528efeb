"""The results of a run as the head of a model card on the Hugging Face Hub (its `model-index`,
https://github.com/huggingface/hub-docs/blob/main/modelcard.md) and Markdown tables below it."""

from __future__ import annotations

from typing import Any

import yaml

from rsd.books import read_run
from rsd.summary import markdown
from rsd.summary.compute import summarise
from rsd.summary.values import ArmSummary, Success, Summary

_PLACES = 2  # of percent


def card_of(output: str) -> str:
    """Of a run, finished or going on; raises UserError as `summarise`."""
    summary = summarise(output)
    head = yaml.safe_dump({"model-index": model_index(summary, _policy(output))}, sort_keys=False)
    body = [*markdown.section(summary), "", "\n\n".join(markdown.all_notes([summary]))]
    return f"---\n{head}---\n\n" + "\n".join(body) + "\n"


def model_index(summary: Summary, policy: str) -> list[dict[str, Any]]:
    """A result a suite, a metric an arm: its success rate in percent, with what it was counted
    from."""
    suites = sorted({suite.suite for arm in summary.arms for suite in arm.suites})
    results = [
        {
            "task": {"type": "robotics", "name": "Language-conditioned manipulation"},
            "dataset": {"type": "libero", "name": "LIBERO", "config": name},
            "metrics": [
                _metric(arm, suite)
                for arm in summary.arms
                for suite in arm.suites
                if suite.suite == name and suite.success.finished
            ],
        }
        for name in suites
    ]
    return [{"name": policy, "results": [result for result in results if result["metrics"]]}]


def _metric(arm: ArmSummary, suite: Success) -> dict[str, Any]:
    rate = suite.success
    return {
        "type": "success_rate",
        "name": f"success rate, arm {arm.arm}, %",
        "value": _percent(rate.rate or 0.0),
        "args": {
            "arm": arm.arm,
            "successes": rate.successes,
            "finished": rate.finished,
            "errors": suite.errors,
            "wilson_95": [_percent(rate.low), _percent(rate.high)],
        },
    }


def _percent(share: float) -> float:
    return round(100 * share, _PLACES)


def _policy(output: str) -> str:
    """What the run calls it; of imported results, whose arm is the policy, the arms."""
    config = read_run(output)["config"]
    return str(config.get("policy") or ", ".join(config["arms"]))
