"""Speculative decoding with the exact rule is autoregressive decoding, token for token."""

from __future__ import annotations

import pytest
import torch

from rsd.decoding.contracts import Decoded
from rsd.decoding.rules import Case, Exact, Verdict
from rsd.decoding.sequential import autoregressive
from rsd.decoding.speculative import speculative
from rsd.decoding.stopwatch import Stopwatch
from tests.decoding.backbones import (
    D,
    L,
    T,
    TableBackbone,
    avalanche,
    real_backbone,
    real_context,
    real_draft,
    row_context,
    shifted,
    speculate,
    together,
    unrelated,
)

BATCH = 5
DRAFTS = {
    "oracle": shifted(set()),
    "random": unrelated,
    "adversarial": shifted(set(range(L))),
    **{f"wrong at layer {m}": shifted({m}) for m in range(L)},
}


def _autoregressive(batch: int, layers: int) -> Decoded:
    return autoregressive(
        TableBackbone(avalanche), row_context(batch), Exact(), layers, None, Stopwatch()
    )


def _speculative(draft: str, batch: int, layers: int, draft_layers: int) -> Decoded:
    context = row_context(batch)
    target, guesser = TableBackbone(avalanche), TableBackbone(DRAFTS[draft])
    return speculate(target, guesser, context, context, Exact(), layers, draft_layers)


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("draft_layers", range(L))
def test_codes_equal_autoregressive_codes_for_every_draft_and_depth(
    draft: str, draft_layers: int
) -> None:
    for layers in range(draft_layers + 1, L + 1):
        decoded = _speculative(draft, BATCH, layers, draft_layers)
        assert torch.equal(decoded.codes, _autoregressive(BATCH, layers).codes)
        assert (decoded.passes >= 1).all() and (decoded.passes <= layers).all()
        assert (decoded.kept <= decoded.judged).all()


def test_an_oracle_draft_takes_one_pass_and_an_always_wrong_one_takes_all() -> None:
    assert (_speculative("oracle", BATCH, L, L - 1).passes == 1).all()
    assert (_speculative("adversarial", BATCH, L, L - 1).passes == L).all()


@pytest.mark.parametrize("wrong", range(L - 1))
def test_a_draft_wrong_at_one_layer_costs_exactly_one_more_pass(wrong: int) -> None:
    decoded = _speculative(f"wrong at layer {wrong}", BATCH, L, L - 1)
    assert (decoded.passes == 2).all()
    rejected = decoded.judged - decoded.kept
    expected = torch.zeros(BATCH, 2, L, dtype=torch.int64)
    expected[:, 0, wrong] = T * D
    assert torch.equal(rejected, expected)


def test_rows_that_finish_at_different_passes_do_not_disturb_each_other() -> None:
    def uneven(row: int, layer: int, coarser: torch.Tensor) -> torch.Tensor:
        wrong = set(range(row))  # row r is drafted wrongly in its first r layers
        return shifted(wrong)(row, layer, coarser)

    context = row_context(L)
    target = TableBackbone(avalanche)
    parts = list(
        speculative(
            target, TableBackbone(uneven), context, context, Exact(), L, L - 1, None, Stopwatch()
        )
    )
    assert [part.rows.tolist() for part in parts] == [[0], [1], [2], [3]]  # as they become final
    decoded = together(parts)
    assert decoded.passes.tolist() == [1, 2, 3, 4]
    assert torch.equal(decoded.codes, _autoregressive(L, L).codes)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("draft_layers", range(L))
def test_a_real_transformer_decodes_the_same_codes_in_both_modes(
    seed: int, draft_layers: int
) -> None:
    target, draft = real_backbone(seed), real_draft(seed + 100)
    context = real_context(BATCH, seed)
    slow = autoregressive(target, context, Exact(), L, None, Stopwatch())

    def decode(context: torch.Tensor) -> Decoded:
        return speculate(target, draft, context, context[:, 0], Exact(), L, draft_layers)

    fast = decode(context)
    assert torch.equal(fast.codes, slow.codes)
    alone = [decode(row) for row in context.split(1)]
    assert torch.equal(torch.cat([row.codes for row in alone]), slow.codes)
    assert torch.equal(torch.cat([row.passes for row in alone]), fast.passes)


def test_the_target_as_its_own_draft_is_always_right() -> None:
    target = real_backbone(0)
    context = real_context(BATCH)
    decoded = speculate(target, target, context, context, Exact(), L, L - 1)
    assert (decoded.passes == 1).all()
    assert torch.equal(decoded.kept, decoded.judged)
    assert (decoded.judged[:, 0, :-1] == T * D).all() and (decoded.judged[:, 1] == 0).all()


def test_negative_control_a_rule_that_keeps_wrong_tokens_changes_the_codes() -> None:
    class Gullible(Exact):
        def judge(self, case: Case) -> Verdict:
            return Verdict(case.guess >= 0, case.guess, torch.zeros_like(case.guess))

    context = row_context(BATCH)
    target, draft = TableBackbone(avalanche), TableBackbone(unrelated)
    decoded = speculate(target, draft, context, context, Gullible(), L, L - 1)
    assert not torch.equal(decoded.codes, _autoregressive(BATCH, L).codes)


def test_the_draft_is_launched_before_the_pass_it_is_meant_to_shorten() -> None:
    calls: list[str] = []
    context = row_context(1)
    target = TableBackbone(avalanche, calls, "target")
    draft = TableBackbone(unrelated, calls, "draft")
    speculate(target, draft, context, context, Exact(), L, L - 1)
    assert calls[: L - 1] == ["draft"] * (L - 1) and calls[L - 1] == "target"
