"""What calls cost, and what devices take for it: counted, fitted, predicted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rsd.errors import UserError
from rsd.models import benchmark
from rsd.models.calls import Call, watched
from rsd.models.code_policy import CodePolicy
from rsd.models.costs import SHEETS, Cost, Device, sheet_named
from rsd.models.openvla_oft import costs as oft
from rsd.models.openvla_oft.config import openvla_7b
from rsd.models.operations import Operations, Primitives, fitted
from rsd.types import Decoding, Past
from tests.decoding.small_policy import IMAGES, requests, small_model


@pytest.fixture(scope="module")
def small() -> CodePolicy:
    from rsd.models.small_vla import weights

    return weights.policy_of(small_model(), IMAGES)


def counted(call: object, *args: object) -> list[Cost]:
    operations = Operations()
    with torch.inference_mode(), operations:
        call(*args)  # type: ignore[operator]
    return [operations.operations[kind].cost for kind in operations.kinds]


def test_a_linear_layer_costs_two_operations_a_weight_and_position() -> None:
    costs = counted(F.linear, torch.zeros(5, 32), torch.zeros(64, 32), torch.zeros(64))
    total = sum(costs, Cost())
    assert total.flops == 2 * 5 * 32 * 64
    assert total.bytes == 4 * (5 * 32 + 32 * 64 + 64 + 5 * 64)
    assert total.dispatches == 2  # weights turned, which moves nothing, and a product
    double = sum(counted(torch.mm, *(torch.zeros(4, 4, dtype=torch.float64),) * 2), Cost())
    assert double.flops == 2 * (2 * 4 * 4 * 4)


def test_a_view_is_a_dispatch_of_no_work_and_what_does_nothing_is_none() -> None:
    assert counted(lambda x: x.view(-1), torch.zeros(2, 3)) == [Cost(dispatches=1)]
    assert counted(lambda x: x + x, torch.zeros(6)) == [Cost(0, 3 * 6 * 4, 1)]
    assert counted(F.dropout, torch.zeros(6), 0.5, False) == []


def test_timing_an_operation_again_changes_nothing_of_the_model() -> None:
    held = torch.zeros(3)
    operations = Operations()
    with torch.inference_mode(), operations:
        held.add_(1)
    primitives = Primitives(operations.operations, operations.kinds)
    for _ in range(3):
        primitives.take_turn()
    assert held.tolist() == [1, 1, 1]
    assert primitives.device("here").dispatch_s > 0


def test_rates_are_found_again_from_the_times_that_they_make() -> None:
    made = Device("made up", 5e10, 8e9, 4e-6)
    rng = np.random.default_rng(0)
    kinds = [(0, 0), (1e6, 1e4), (1e7, 1e5), (2e8, 1e6), (1e3, 1e6), (0, 2e5), (0, 1e7)]
    costs = [Cost(*rng.uniform(0.5, 2, 2) * kind, 1) for kind in kinds for _ in range(5)]
    seconds = np.array([made.seconds(cost) for cost in costs])
    found = fitted("found", costs, seconds, np.ones(len(costs)))
    for name in ("flops", "bandwidth", "dispatch_s"):
        assert getattr(found, name) == pytest.approx(getattr(made, name), rel=0.01)
    weights = rng.integers(1, 100, len(costs)).astype(float)
    noisy = seconds * rng.uniform(0.5, 2, len(costs))
    rough = fitted("rough", costs, noisy, weights)
    total = weights @ [rough.seconds(cost) for cost in costs]
    assert total == pytest.approx(weights @ noisy, rel=1e-3)


def test_a_device_that_nobody_knows_is_told_with_the_nearest() -> None:
    assert sheet_named("H100") is SHEETS["H100"]
    with pytest.raises(UserError, match=r"did you mean 'H100'.*known: A100, H100, H200"):
        sheet_named("H101")


def test_calls_are_those_of_the_decode_loop(small: CodePolicy) -> None:
    calls: list[Call] = []
    watched(small, calls).act(requests(3, Decoding("autoregressive")))
    assert calls == [
        Call("inputs", 3),
        Call("context", 3),
        Call("prefill", 3, 0, 1),
        *(Call("extend", 3, layer, 1) for layer in (1, 2, 3)),
        Call("actions", 3),
    ]
    calls.clear()
    watched(small, calls).act(requests(2, Decoding("draft")))
    assert [call.what for call in calls] == [
        *("inputs", "draft context", "draft prefill", "draft extend", "draft extend", "actions")
    ]


def test_rows_sum_up_and_are_predicted_from_what_is_dispatched(small: CodePolicy) -> None:
    asked = [(request.observation, Past()) for request in requests(4, Decoding("parallel"))]
    decodings = {mode: Decoding(mode) for mode in ("autoregressive", "parallel", "draft")}  # type: ignore[arg-type]
    turns: list[tuple[int, int]] = []
    rows = benchmark.benchmark(
        small, asked, decodings, (1, 4), repeats=2, told=lambda *turn: turns.append(turn)
    )
    planned = 3 * (len(asked) + len(asked) // 4)
    assert turns == [(done, planned) for done in range(1, planned + 1)]
    again = benchmark.benchmark(small, asked, decodings, (1, 4), repeats=1)
    for row, other in zip(rows, again, strict=True):
        stages = [getattr(row, f"{s}_mean_ms") for s in ("vision", "draft", "target", "detokenise")]
        assert sum(stages) + row.other_mean_ms == pytest.approx(row.answer_mean_ms)
        assert min(stages) >= 0 and row.other_mean_ms > 0
        assert row.predicted is not None and other.predicted is not None
        assert row.predicted.cost == other.predicted.cost  # the same on any machine
        assert 0.1 < row.predicted.ms / row.processor_mean_ms < 10
    work = {(row.name, row.batch): row.predicted.cost for row in rows if row.predicted}
    for batch in (1, 4):
        one, all_, none = (work[name, batch] for name in ("parallel", "autoregressive", "draft"))
        assert all_.dispatches > one.dispatches and all_.flops > one.flops > none.flops
    assert work["parallel", 4].flops == pytest.approx(4 * work["parallel", 1].flops)
    assert work["parallel", 4].dispatches < 1.2 * work["parallel", 1].dispatches


def test_rows_of_a_gpu_are_priced_by_the_same_calls(small: CodePolicy) -> None:
    asked = [(request.observation, Past()) for request in requests(4, Decoding("parallel"))]
    decodings = {mode: Decoding(mode) for mode in ("autoregressive", "draft")}  # type: ignore[arg-type]
    slow, fast = benchmark.elsewhere(small, asked, decodings, (2,), "H200")
    assert (slow.passes, slow.fast, slow.draft_calls) == (4, 0, 0)
    assert (fast.passes, fast.fast, fast.draft_calls) == (0, 1, 4)
    assert slow.predicted_ms and fast.predicted_ms and slow.predicted_ms > 5 * fast.predicted_ms
    for row in (slow, fast):
        assert row.predicted_ms and row.floor_ms < row.predicted_ms
    (sheet_only,) = benchmark.elsewhere(small, asked, {"draft": Decoding("draft")}, (1,), "A100")
    assert sheet_only.predicted_ms is None and sheet_only.floor_ms > 0


@pytest.mark.parametrize("gpu", ["H100", "H200"])
def test_the_model_of_7b_is_as_far_off_as_its_page_says(gpu: str) -> None:
    """Of figures measured on the card (docs/openvla_oft/), from rates measured there on products,
    copies and the draft's kernels."""
    kept = Path(__file__).parents[2] / "docs" / "openvla_oft" / f"{gpu.lower()}.json"
    figures = json.loads(kept.read_text())["figures"]
    measured = {f["name"]: f["ms"] for f in figures if f["graphed"] and f["batch"] == 1}
    config = openvla_7b()
    passes = [Call("extend", 1, layer, 1) for layer in range(1, 8)]
    sees = [Call("inputs", 1), Call("context", 1)]
    guess = [Call("draft context", 1), *[Call("draft extend", 1, n, 1) for n in range(7)]]
    end = [Call("actions", 1)]
    chunks = {
        "parallel": [*sees, Call("parallel", 1), *end],
        "autoregressive": [*sees, Call("prefill", 1, 0, 1), *passes, *end],
        "speculative, layer p 1": [*sees, *guess, Call("prefill", 1, 0, 8), *end],
        "towers": sees[:1],
        "extra pass over 8 positions": passes[:1],
    }
    off = {}
    for name, calls in chunks.items():
        work = [cost for call in calls for cost in oft.called(config, call)]
        off[name] = oft.MEASURED[gpu].ms(work) / measured[name] - 1
        assert SHEETS[gpu].ms(work) < oft.MEASURED[gpu].ms(work) < measured[name], name
    page = (Path(__file__).parents[2] / "docs" / "decoding_time.md").read_text()
    for name, share in off.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {name} |")]
        assert f"{100 * share:.0f} %" in row.split("|")[3 if gpu == "H100" else 6], (name, share)
