"""Lossy rules lose what they say, nothing at one end of their number, and never the gripper."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from rsd.decoding.contracts import Decoded
from rsd.decoding.rules import ActionTolerance, Agreement, Case, Exact, Lossy, Relaxed, Rule
from rsd.errors import UserError
from rsd.models.code_policy import CodePolicy
from rsd.models.small_vla.weights import policy_of
from rsd.rfsq import RFSQ, Leeway
from rsd.rfsq_config import RFSQConfig
from rsd.types import Decoding
from tests.decoding.backbones import D, L, T, TableBackbone, V, avalanche, row_context, speculate
from tests.decoding.small_policy import IMAGES, policy_of_a_tied_draft, requests, small_model

BATCH = 6
TOKENISER = RFSQConfig(steps=8, latent_dim=7, layers=L, levels=V, hidden=0, overlap=3.0)
WHOLE = RFSQ(TOKENISER).leeway()
LEEWAY = WHOLE._replace(  # of the table's T steps and D dimensions, the last of them the gripper's
    level=WHOLE.level[:, :T, :D], gripper=torch.arange(D) == D - 1
)
RULES: dict[str, tuple[Callable[[float, Leeway], Lossy], tuple[float, ...]]] = {
    "relaxed": (Relaxed, (0, 1, 2, 6)),
    "agreement": (Agreement, (1, 0.8, 0.5, 0)),
    "action_tolerance": (ActionTolerance, (0, 1, 4, 20, 100)),
}  # from lossless on
ALL = [(name, value) for name, (_, values) in RULES.items() for value in values]


def made(name: str, value: float) -> Lossy:
    return RULES[name][0](value, LEEWAY)


def near(row: int, layer: int, coarser: Tensor) -> Tensor:
    """A draft that is a level or two off in some tokens, in some rows more than in others."""
    logits = avalanche(row, layer, coarser)
    generator = torch.Generator().manual_seed(1000 * row + layer)
    rolled = torch.rand(T, D, generator=generator) < 0.08 * row
    return torch.where(rolled[..., None], logits.roll(1 + row % 2, dims=-1), logits)


def decode(rule: Rule, draft_layers: int = L - 1, rows: Tensor | None = None) -> Decoded:
    context = row_context(BATCH) if rows is None else row_context(BATCH)[rows]
    target, draft = TableBackbone(avalanche), TableBackbone(near)
    return speculate(target, draft, context, context, rule, L, draft_layers)


def cases(count: int = 200) -> Case:
    """Guesses of all L layers that are up to two levels off in some tokens, for made-up targets."""
    generator = torch.Generator().manual_seed(0)
    best = torch.randint(0, V, (count, L, T, D), generator=generator)
    shift = torch.randint(-2, 3, best.shape, generator=generator)
    spared = torch.rand(best.shape, generator=generator) < torch.rand(count, L, 1, 1)
    guess = torch.where(spared, best, best + shift).clamp(0, V - 1)
    logits = torch.nn.functional.one_hot(best, V).double()
    return Case(guess, logits, None, None, None, best[:, :0])


@pytest.mark.parametrize("draft_layers", range(L))
@pytest.mark.parametrize("name", RULES)
def test_at_its_lossless_end_a_rule_is_the_exact_one(name: str, draft_layers: int) -> None:
    """In a batch whose rows become final after different numbers of passes."""
    rule = made(name, RULES[name][1][0])
    assert rule.lossless
    lossless, exact = decode(rule, draft_layers), decode(Exact(), draft_layers)
    assert len(set(exact.passes.tolist())) > 1 or draft_layers == 0
    for ours, theirs in zip(lossless, exact, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", RULES)
def test_negative_control_further_on_a_rule_changes_codes(name: str) -> None:
    rule = made(name, RULES[name][1][-1])
    assert not rule.lossless
    assert not torch.equal(decode(rule).codes, decode(Exact()).codes)


@pytest.mark.parametrize("name", RULES)
def test_what_a_rule_keeps_it_keeps_when_it_tolerates_more(name: str) -> None:
    case = cases()
    kept = [made(name, value).judge(case).accepted for value in RULES[name][1]]
    assert kept[-1].sum() > kept[0].sum()
    for less, more in itertools.pairwise(kept):
        assert (more | ~less).all()


@pytest.mark.parametrize(("name", "value"), ALL)
def test_the_grippers_tokens_are_always_the_targets(name: str, value: float) -> None:
    rule = made(name, value)
    verdict = rule.judge(cases())
    assert torch.equal(verdict.codes[..., -1], cases().target_logits.argmax(-1)[..., -1])
    decoded = decode(rule)
    assert not decoded.off[..., -1, :].any()
    assert torch.equal(decoded.codes[..., -1, 0], decode(Exact()).codes[..., -1, 0])


@pytest.mark.parametrize(("name", "value"), ALL)
def test_a_row_is_decoded_alone_as_in_a_ragged_batch(name: str, value: float) -> None:
    together = decode(made(name, value))
    for row in range(BATCH):
        alone = decode(made(name, value), rows=torch.tensor([row]))
        for ours, theirs in zip(alone, together, strict=True):
            assert torch.equal(ours[0], theirs[row])


@pytest.mark.parametrize("value", RULES["action_tolerance"][1])
def test_all_that_an_action_tolerance_keeps_moves_no_number_further(value: float) -> None:
    off = decode(made("action_tolerance", value)).off
    moved = LEEWAY.moved(off.permute(0, 3, 1, 2)).sum(dim=(1, 2))
    assert (moved <= value * (1 + 1e-9)).all()
    assert bool(moved.any()) == (value >= 4.2)  # what a level of the finest drafted layer moves


def test_codes_that_are_off_are_recorded_as_off() -> None:
    """Behind the codes that were executed: the target's own choice there is the code less `off`."""
    decoded = decode(made("relaxed", 2))
    assert decoded.off.any() and decoded.off.abs().max() <= 2
    for row in range(BATCH):
        for layer in range(L):
            best = avalanche(row, layer, decoded.codes[row, ..., :layer]).argmax(dim=-1)
            assert torch.equal(decoded.codes[row, ..., layer] - decoded.off[row, ..., layer], best)


def test_a_layer_agrees_from_its_share_of_tokens_on() -> None:
    tokens = 10
    leeway = LEEWAY._replace(gripper=torch.zeros(tokens, dtype=torch.bool))
    off = (torch.arange(tokens) < 3).long()[None, None, None]  # 7 of 10 agree
    assert Agreement(0.7, leeway).tolerates(off).all()
    assert not Agreement(0.71, leeway).tolerates(off).any()


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("layers", [1, 3, 6])
def test_actions_stay_within_the_bound_and_reach_it(layers: int, cosine: bool) -> None:
    """Of those that the codes without what is off decode to."""
    config = dataclasses.replace(TOKENISER, layers=6, cosine=cosine)
    tokeniser, generator = RFSQ(config), torch.Generator().manual_seed(0)
    shape = (400, 8, 7, layers)
    codes = torch.randint(2, 5, shape, generator=generator)
    off = torch.randint(-2, 3, shape, generator=generator)
    off[torch.rand(shape, generator=generator) < 0.98] = 0
    moved = (tokeniser.decode(codes + off) - tokeniser.decode(codes))[..., :6].abs()
    unit = torch.tensor([50.0] * 3 + [0.5 * 180 / torch.pi] * 3)
    found = (moved * unit).amax(dim=1).view(-1, 2, 3).amax(dim=2)
    bound = tokeniser.leeway().bound(off)
    assert (found <= bound + 1e-4).all()
    assert (found[bound > 0] > 0.99 * bound[bound > 0]).double().mean() > 0.3


def test_codes_of_an_encoder_have_no_gripper_to_spare() -> None:
    with pytest.raises(UserError, match="has an encoder, so that no token is the gripper's alone"):
        RFSQ(RFSQConfig()).leeway()


# --- of a policy -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> CodePolicy:
    return policy_of(small_model(), IMAGES, "none")


@pytest.mark.parametrize("rule", ["relaxed=0", "agreement=1", "action_tolerance=0mm"])
def test_a_policys_lossless_ends_give_its_exact_actions(small: CodePolicy, rule: str) -> None:
    exact = small.act(requests(BATCH, Decoding("speculative")))
    same = small.act(requests(BATCH, Decoding("speculative", rule)))
    for one, other in zip(exact, same, strict=True):
        assert np.array_equal(one.actions, other.actions)
        assert one.trace.passes == other.trace.passes
        assert other.trace.moved_mm is None and other.trace.moved_degrees is None


@pytest.mark.parametrize("rule", ["relaxed=2", "agreement=0.2", "action_tolerance=60mm"])
def test_a_policys_lossy_answers_depend_on_the_request_alone_and_are_bounded(
    small: CodePolicy, rule: str
) -> None:
    decoding = Decoding("speculative", rule)
    together = small.act(requests(BATCH, decoding))
    exact = small.act(requests(BATCH, Decoding("speculative")))
    for request, chunk, other in zip(requests(BATCH, decoding), together, exact, strict=True):
        assert np.array_equal(chunk.actions, small.act([request])[0].actions)
        assert chunk.trace.moved_mm >= 0 and chunk.trace.moved_degrees >= 0
        if rule.startswith("action"):
            assert max(chunk.trace.moved_mm, chunk.trace.moved_degrees) <= 60 * (1 + 1e-9)
        assert np.array_equal(chunk.codes[..., 6, 0], other.codes[..., 6, 0])
    assert any(not np.array_equal(a.codes, b.codes) for a, b in zip(together, exact, strict=True))


def test_near_ties_of_the_draft_are_settled_where_its_guesses_decide_codes() -> None:
    policy = policy_of_a_tied_draft()
    for chunk in policy.act(requests(BATCH, Decoding("speculative", "relaxed=6"))):
        assert chunk.trace.canonical and (chunk.codes[..., :6, :3] == 5).all()
    assert not any(c.trace.canonical for c in policy.act(requests(BATCH, Decoding("speculative"))))
