"""Refinement that stops: nothing is left out at one end of a rule's number, more passes are never
taken towards the other, what is left out is bounded, and the gripper is decoded to its end."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from rsd.decoding.contracts import Part
from rsd.decoding.rules import Converged, Exact
from rsd.decoding.sequential import autoregressive, refined
from rsd.decoding.stopwatch import Stopwatch
from rsd.errors import UserError
from rsd.models.code_policy import CodePolicy
from rsd.models.small_vla.weights import policy_of
from rsd.rfsq import RFSQ
from rsd.rfsq_config import RFSQConfig
from rsd.types import Chunk, Decoding
from tests.decoding.backbones import L, TableBackbone, V, avalanche, row_context
from tests.decoding.small_policy import IMAGES, requests, small_model

BATCH = 12
ROWS = torch.arange(BATCH)
TOKENISER = RFSQ(RFSQConfig(steps=2, latent_dim=7, layers=L, levels=V, hidden=0, overlap=3.0))
NUMBERS = (0, 3, 10, 20, 30, 40, 100)  # mm and degrees, from lossless on


def of_seven(row: int, layer: int, coarser: Tensor) -> Tensor:
    """(2, 7, V): like what `avalanche` says, for the tokeniser's dimensions; finer layers of some
    rows move little, and the gripper of some is settled by the first layer."""
    logits = avalanche(row, layer, coarser).repeat(1, 3, 1)[:, :7].clone()
    calm = torch.arange(V).sub(V // 2).abs() * (0.0, 1.0, 2.0)[row % 3] * layer
    logits -= calm
    logits[:, 6, V - 1 if row % 2 else V // 2 + 1] += 20
    return logits


TARGET = TableBackbone(of_seven, latent_dim=7)


def decode(number: float, rows: Tensor = ROWS) -> list[Part]:
    rule = Converged(number, TOKENISER.leeway())
    context = row_context(BATCH)[rows]
    return list(refined(TARGET, context, rule, L, None, Stopwatch(), actions=TOKENISER.decode))


def whole() -> Tensor:
    """int64 (B, T, D, L)"""
    context = row_context(BATCH)
    return autoregressive(TARGET, context, Exact(), L, None, Stopwatch()).codes


def passes(parts: Iterable[Part]) -> Tensor:
    """int64 (B,)"""
    found = torch.zeros(BATCH, dtype=torch.int64)
    for rows, decoded in parts:
        found[rows] = decoded.passes
    return found


def test_at_one_end_every_layer_is_decoded() -> None:
    (part,) = decode(0)
    assert torch.equal(part.rows, ROWS) and torch.equal(part.decoded.codes, whole())
    assert (part.decoded.passes == L).all()


def test_towards_the_other_end_no_chunk_takes_more_passes() -> None:
    found = [passes(decode(number)) for number in NUMBERS]
    for more, fewer in itertools.pairwise(found):
        assert (fewer <= more).all()
    assert len({int(one.sum()) for one in found}) >= 4  # the knob turns
    assert any(len(set(one.tolist())) > 2 for one in found)  # chunk by chunk
    assert found[-1].min() == 2  # the coarsest layer has refined nothing


@pytest.mark.parametrize("number", NUMBERS)
def test_layers_that_are_decoded_are_those_of_autoregressive(number: float) -> None:
    """In batches whose rows stop behind different layers, and each alone."""
    parts = decode(number)
    assert sorted(torch.cat([part.rows for part in parts]).tolist()) == ROWS.tolist()
    for rows, decoded in parts:
        depth = decoded.codes.shape[-1]
        assert torch.equal(decoded.codes, whole()[rows][..., :depth])
        assert (decoded.passes == depth).all()
        for place, row in enumerate(rows):
            (alone,) = decode(number, row[None])
            assert torch.equal(alone.decoded.codes[0], decoded.codes[place])
            assert alone.decoded.margin[0] == decoded.margin[place]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_chunk_stops_behind_the_first_layer_that_moved_it_less(number: float) -> None:
    """But for its gripper, worked out here from the codes of all layers."""
    plans = [TOKENISER.decode(whole()[..., : k + 1]) for k in range(L)]
    unit = torch.tensor([50.0] * 3 + [28.6479] * 3)
    for rows, decoded in decode(number):
        for row in rows.tolist():
            moved = [
                float(((plans[k] - plans[k - 1])[row, :, :6].abs() * unit).max())
                for k in range(1, L)
            ]
            assert all(plan[row, :, :6].any() for plan in plans[1:])  # none stands still
            half = [50 / (V - 1) * 0.5**k for k in range(L)]  # of a level, overlap 3 of 7 levels
            calm = [k + 1 for k in range(1, L - 1) if max(moved[k - 1], half[k]) < number]
            settled = [
                k for k in calm if TOKENISER.leeway().rest(whole()[row, None, ..., :k], L).settled
            ]
            assert decoded.codes.shape[-1] == min(settled, default=L)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_gripper_is_never_turned(number: float) -> None:
    full = TOKENISER.decode(whole())[..., 6] < 0
    for rows, decoded in decode(number):
        assert torch.equal(TOKENISER.decode(decoded.codes)[..., 6] < 0, full[rows])


@pytest.mark.parametrize("number", NUMBERS)
def test_what_is_left_out_moves_no_number_further_than_is_told(number: float) -> None:
    rule = Converged(number, TOKENISER.leeway())
    full = TOKENISER.decode(whole())
    for rows, decoded in decode(number):
        told = rule.moved(decoded.codes, decoded.off, L)
        moved = (TOKENISER.decode(decoded.codes) - full[rows]).abs().amax(dim=1)
        if told is None:
            assert not moved.any()
        else:
            assert (50 * moved[:, :3] <= told[:, :1] + 1e-4).all()
            assert (28.6479 * moved[:, 3:6] <= told[:, 1:] + 1e-4).all()


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("behind", [1, 3, 5])
def test_no_codes_move_actions_further_than_the_rest_can(behind: int, cosine: bool) -> None:
    """Random ones do not, and some do it to the end. Codes in the middle, which nothing clamps."""
    config = RFSQConfig(latent_dim=7, layers=6, hidden=0, overlap=3.0, cosine=cosine)
    tokeniser, generator = RFSQ(config), torch.Generator().manual_seed(0)
    codes = torch.full((4000, 8, 7, 6), config.levels // 2)
    codes[..., behind:] = torch.randint(0, 7, codes[..., behind:].shape, generator=generator)
    signs = np.sign(np.asarray(tokeniser.basis)) if cosine else np.ones((8, 8))
    for step in range(8):  # every coefficient as far as it goes, for the good of one step
        codes[step, ..., behind:] = torch.tensor(np.where(signs[:, step] > 0, 6, 0))[:, None, None]
    rest = tokeniser.leeway().rest(codes[..., :behind], 6)
    latents = tokeniser.dequantise(codes).double()
    if cosine:  # unclamped
        latents = torch.einsum("kt,bkd->btd", tokeniser.basis.double(), latents)
    moved = latents[..., :6].abs().amax(dim=(1, 2))
    assert (50 * moved <= rest.mm * (1 + 1e-6)).all()
    assert 50 * moved.max() == pytest.approx(rest.mm)
    assert rest.degrees == pytest.approx(rest.mm / 50 * 28.6479, rel=1e-5)
    assert (tokeniser.decode(codes)[..., :6].abs().double() * 50 <= rest.mm + 1e-4).all()


@pytest.mark.parametrize("behind", [1, 2, 4, 5])
def test_a_settled_gripper_is_turned_by_no_codes(behind: int) -> None:
    config = RFSQConfig(latent_dim=7, layers=6, hidden=0, overlap=3.0, cosine=True)
    tokeniser, generator = RFSQ(config), torch.Generator().manual_seed(1)
    codes = torch.randint(0, 7, (2000, 8, 7, 6), generator=generator)
    codes[:1000, :, 6, 0] = torch.where(codes[:1000, :, 6, 0] > 3, 6, 0)
    settled = tokeniser.leeway().rest(codes[..., :behind], 6).settled
    assert settled.any() and not settled.all()
    first = tokeniser.decode(codes[..., :behind])[..., 6] < 0
    for level in (0, 6):  # the furthest that codes can go
        turned = codes.clone()
        turned[..., behind:] = level
        same = ((tokeniser.decode(turned)[..., 6] < 0) == first).all(dim=1)
        assert same[settled].all() and (behind == 5 or not same.all())
    assert tokeniser.leeway().rest(codes, 6).settled.float().mean() > 0.9  # nothing is behind


# --- of a policy -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> CodePolicy:
    """Of a target whose gripper is settled by the first layer."""
    model = small_model()
    with torch.no_grad():
        model.target.heads.bias.view(4, 8, 7, 7)[0, :, 6, 6] += 300
    return policy_of(model, IMAGES, "none")


def chunks(policy: CodePolicy, rule: str, layers: int | None = None) -> list[Chunk]:
    return policy.act(requests(BATCH, Decoding("autoregressive", rule, layers)))


def test_a_policys_lossless_end_is_autoregressive_bit_for_bit(small: CodePolicy) -> None:
    for ours, theirs in zip(chunks(small, "converged=0mm"), chunks(small, "exact"), strict=True):
        assert np.array_equal(ours.actions, theirs.actions)
        assert np.array_equal(ours.codes, theirs.codes)
        for field in dataclasses.fields(ours.trace):
            if not field.name.endswith("_s"):
                assert getattr(ours.trace, field.name) == getattr(theirs.trace, field.name)


@pytest.mark.parametrize("rule", ["converged=40mm", "converged=60mm", "converged=100mm"])
def test_a_policys_answers_depend_on_the_request_alone_and_say_what_was_left_out(
    small: CodePolicy, rule: str
) -> None:
    together, full = chunks(small, rule), chunks(small, "exact")
    for request, chunk, other in zip(
        requests(BATCH, Decoding("autoregressive", rule)), together, full, strict=True
    ):
        (alone,) = small.act([request])
        assert np.array_equal(chunk.actions, alone.actions)
        depth = chunk.trace.layers
        assert depth == chunk.trace.passes == alone.trace.layers
        assert np.array_equal(chunk.codes[..., :depth], other.codes[..., :depth])
        assert (chunk.codes[..., depth:] == 3).all()
        assert np.array_equal(chunk.actions[:, 6], other.actions[:, 6])
        assert (chunk.trace.moved_mm == 0) == (depth == 4)
        off = np.abs(chunk.actions - other.actions)[:, :3].max()
        assert 50 * off <= chunk.trace.moved_mm + 1e-4
    assert min(chunk.trace.layers for chunk in together) < 4


def test_of_fewer_layers_nothing_is_behind_the_last(small: CodePolicy) -> None:
    for chunk in chunks(small, "converged=100mm", layers=2):
        assert (chunk.trace.layers, chunk.trace.moved_mm, chunk.trace.moved_degrees) == (2, 0, 0)


def test_a_plan_that_stands_still_is_decoded_until_no_token_can_move_it() -> None:
    """By 20 mm: of 4 layers the last can by 9 (the codes of a token move a step by 1.39 times what
    they stand for, cosines being what they are), the last two by 26."""
    model = small_model()
    with torch.no_grad():
        model.target.heads.weight.zero_()
        model.target.heads.bias.view(4, 8, 7, 7)[..., 3] += 300
        model.target.heads.bias.view(4, 8, 7, 7)[0, :, 6, 6] += 600
    policy = policy_of(model, IMAGES, "none")
    for rule, layers in (("converged=8mm", 4), ("converged=20mm", 3), ("converged=27mm", 2)):
        for chunk in chunks(policy, rule):
            assert not chunk.actions[:, :6].any() and chunk.trace.layers == layers


def test_a_near_tie_that_is_settled_may_stop_behind_another_layer() -> None:
    """Levels are tied in single precision: 0 comes first, and from the second layer on moves
    nothing, actions being at their end. In double precision the middle one is ahead: a plan that
    stands still, of which the third layer is the last."""
    model = small_model()
    with torch.no_grad():
        model.target.heads.weight.zero_()
        model.target.heads.bias.fill_(1.0)
        model.target.heads.bias.view(4, 8, 7, 7)[0, :, 6, 6] += 3
    policy = policy_of(model, IMAGES, "none")
    bias = policy.precise.model.target.heads.bias.data.view(4, 8, 7, 7)
    bias[:, :, :6, 3] += 1e-9
    bias[1:, :, 6, 3] += 1e-9
    for chunk in chunks(policy, "converged=20mm"):
        assert chunk.trace.canonical and chunk.trace.passes == chunk.trace.layers == 3
        assert chunk.trace.drafted == (0, 0, 0)
        assert (chunk.codes[..., :6, :] == 3).all() and not chunk.actions[:, :6].any()


def test_tokens_of_an_encoder_cannot_stop() -> None:
    with pytest.raises(UserError, match="has an encoder, so that no token is the gripper's alone"):
        RFSQ(RFSQConfig()).leeway()
