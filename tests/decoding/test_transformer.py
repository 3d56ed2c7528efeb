"""The block-causal transformer: who sees whom, and that cache and recompute agree."""

from __future__ import annotations

import pytest
import torch

from rsd.models.small_vla.transformer import CodeTransformer
from tests.decoding.backbones import D, L, T, V, real_backbone, real_context, real_draft

BATCH = 3


@pytest.fixture(params=[1, T], ids=["one position a block", "one position a step"])
def model(request: pytest.FixtureRequest) -> CodeTransformer:
    return real_backbone(0, positions=request.param)


def _codes(seed: int, layers: int = L - 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, V, (BATCH, T, D, layers), generator=generator)


@pytest.mark.parametrize("layer", range(L - 1))
def test_logits_of_a_layer_never_depend_on_codes_of_that_layer_or_deeper(
    model: CodeTransformer, layer: int
) -> None:
    context = real_context(BATCH)
    codes, other = _codes(1), _codes(2)
    mixed = torch.cat([codes[..., :layer], other[..., layer:]], dim=-1)
    before, _ = model(context, codes)
    after, _ = model(context, mixed)
    assert torch.equal(before[:, : layer + 1], after[:, : layer + 1])
    assert not torch.allclose(before[:, layer + 1], after[:, layer + 1])


def test_all_tokens_of_a_coarser_layer_reach_every_token_of_the_next(
    model: CodeTransformer,
) -> None:
    context = real_context(BATCH)
    codes = _codes(1)
    changed = codes.clone()
    changed[:, 0, 0, 0] = (changed[:, 0, 0, 0] + 1) % V
    difference = (model(context, codes)[0] - model(context, changed)[0]).abs()
    assert (difference[:, 0] == 0).all()
    assert (difference[:, 1].amax(dim=-1) > 0).all()


@pytest.mark.parametrize("first", range(1, L))
def test_the_cache_after_a_rollback_equals_a_recompute(model: CodeTransformer, first: int) -> None:
    context = real_context(BATCH)
    wrong, right = _codes(1), _codes(2)
    right[..., : first - 1] = wrong[..., : first - 1]  # what is final when block `first` is redone
    _, cache = model.prefill(context, wrong)
    logits = model.extend(cache, right[..., first - 1 :], first)
    fresh, fresh_cache = model.prefill(context, right)
    assert torch.allclose(logits, fresh[:, first:], rtol=1e-12, atol=1e-12)
    assert torch.allclose(cache.entries, fresh_cache.entries, atol=1e-12)


def test_one_block_at_a_time_equals_one_prefill(model: CodeTransformer) -> None:
    context = real_context(BATCH)
    codes = _codes(1)
    whole, _ = model.prefill(context, codes)
    logits, cache = model.prefill(context, codes[..., :0])
    steps = [logits]
    for layer in range(1, L):
        steps.append(model.extend(cache, codes[..., layer - 1 : layer], layer))
    assert torch.allclose(torch.cat(steps, dim=1), whole, rtol=1e-12, atol=1e-12)


def test_a_selected_cache_continues_the_selected_rows(model: CodeTransformer) -> None:
    context = real_context(BATCH)
    codes = _codes(1)
    _, cache = model.prefill(context, codes[..., :1])
    rows = torch.tensor([2, 0])
    kept = model.extend(cache.select(rows), codes[rows][..., 1:2], 2)
    assert torch.allclose(kept, model.extend(cache, codes[..., 1:2], 2)[rows], atol=1e-12)


def test_a_gap_between_blocks_is_refused(model: CodeTransformer) -> None:
    context = real_context(BATCH)
    _, cache = model.prefill(context, _codes(1)[..., :0])
    with pytest.raises(AssertionError, match="gap"):
        model.extend(cache, _codes(1)[..., 1:2], 2)


@pytest.mark.parametrize("first", range(1, L - 1))
def test_the_draft_continues_from_any_prefix_as_if_it_had_started_with_it(first: int) -> None:
    draft, context = real_draft(0), real_context(BATCH)[:, 0]
    wrong, right = _codes(1, L - 2), _codes(2, L - 2)
    right[..., : first - 1] = wrong[..., : first - 1]
    _, cache = draft.prefill(context, wrong)
    logits = draft.extend(cache, right[..., first - 1 :], first)
    assert torch.allclose(logits, draft(context, right)[:, first:], rtol=1e-12, atol=1e-12)
    rows = torch.tensor([2, 0])
    kept = draft.extend(cache.select(rows), right[rows][..., first - 1 :], first)
    assert torch.allclose(kept, logits[rows], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layer", range(L - 2))
def test_a_draft_of_a_layer_depends_on_all_coarser_layers_and_no_other(layer: int) -> None:
    draft, context = real_draft(0), real_context(BATCH)[:, 0]
    codes, other = _codes(1, L - 2), _codes(2, L - 2)
    before = draft(context, codes)
    after = draft(context, torch.cat([codes[..., :layer], other[..., layer:]], dim=-1))
    assert torch.allclose(before[:, : layer + 1], after[:, : layer + 1], atol=1e-12)
    changed = (before - after)[:, layer + 1 :].abs().amax(dim=(0, 3, 4))
    assert (changed > 0).all()


def test_positions_that_do_not_divide_the_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="evenly"):
        real_backbone(0, positions=T + 1)
