"""The policy: same answers in every batch and mode, honest traces, clear refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rsd.decoding.modes import NonFiniteError
from rsd.errors import UserError
from rsd.models.code_policy import CodePolicy
from rsd.models.small_vla import checkpoint, weights
from rsd.models.small_vla.model import SmallVLA
from rsd.models.small_vla.weights import policy_of
from rsd.types import Chunk, Decoding, Mode
from tests.decoding.small_policy import (
    CONFIG,
    IMAGES,
    policy_of_a_tied_draft,
    requests,
    small_checkpoint,
    small_model,
)

AUTOREGRESSIVE = Decoding("autoregressive")
SPECULATIVE = Decoding("speculative")
DRAFT = Decoding("draft")
REGRESSION = Decoding("regression")
BATCH = 6


@pytest.fixture(scope="module")
def small() -> CodePolicy:
    return policy_of(small_model(), IMAGES, "none")


def _actions(chunks) -> np.ndarray:  # type: ignore[no-untyped-def]
    return np.stack([chunk.actions for chunk in chunks])


@pytest.mark.parametrize("layers", [None, 1, 3])
def test_paired_exact_arms_give_the_same_actions_bit_for_bit(
    small: CodePolicy, layers: int | None
) -> None:
    slow = small.act(requests(BATCH, dataclasses.replace(AUTOREGRESSIVE, layers=layers)))
    fast = small.act(requests(BATCH, dataclasses.replace(SPECULATIVE, layers=layers)))
    assert np.array_equal(_actions(slow), _actions(fast))
    for chunk in fast:
        assert 1 <= chunk.trace.passes <= chunk.trace.layers
        assert sum(chunk.trace.accepted) <= sum(chunk.trace.drafted)


@pytest.mark.parametrize(
    "mode", [AUTOREGRESSIVE, SPECULATIVE, Decoding("parallel"), REGRESSION, DRAFT]
)
def test_an_answer_does_not_depend_on_the_batch(small: CodePolicy, mode: Decoding) -> None:
    together = small.act(requests(BATCH, mode))
    alone = [small.act([request])[0] for request in requests(BATCH, mode)]
    assert np.array_equal(_actions(together), _actions(alone))


def test_every_chunk_is_delivered_once_and_is_the_one_returned(small: CodePolicy) -> None:
    delivered: dict[int, Chunk] = {}
    chunks = small.act(requests(BATCH, SPECULATIVE), lambda i, c: delivered.update({i: c}))
    assert sorted(delivered) == list(range(BATCH))
    assert all(delivered[i] is chunk for i, chunk in enumerate(chunks))
    passes = [delivered[i].trace.passes for i in delivered]  # in the order of delivery
    assert passes == sorted(passes)


def test_sampled_answers_do_not_depend_on_the_batch(small: CodePolicy) -> None:
    decoding = Decoding("speculative", rule="sampling")
    together = small.act(requests(BATCH, decoding))
    alone = [small.act([request])[0] for request in requests(BATCH, decoding)]
    assert np.array_equal(_actions(together), _actions(alone))


def _nearly_tied_policy(deterministic: bool) -> CodePolicy:
    """Two equal best levels everywhere, and rounding in single precision (made large enough to see)
    that favours one or the other by the number of blocks in a pass."""
    model = small_model()
    with torch.no_grad():
        model.target.heads.weight.zero_()
        model.target.heads.bias.zero_()
    policy = policy_of(model, IMAGES, "none", deterministic=deterministic)

    def round_differently(logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        logits[..., logits.shape[1] % 2] += 1e-5
        return logits

    prefill, extend = model.target.prefill, model.target.extend

    def rounded_prefill(*inputs: Any) -> Any:
        logits, cache = prefill(*inputs)
        return round_differently(logits), cache

    model.target.prefill = rounded_prefill  # type: ignore[method-assign]
    model.target.extend = lambda *inputs: round_differently(extend(*inputs))  # type: ignore[method-assign]
    return policy


def test_a_near_tie_is_settled_by_the_canonical_computation() -> None:
    tied = _nearly_tied_policy(deterministic=True)
    slow, fast = tied.act(requests(BATCH, AUTOREGRESSIVE)), tied.act(requests(BATCH, SPECULATIVE))
    assert all(chunk.trace.canonical for chunk in fast)
    assert np.array_equal(_actions(slow), _actions(fast))


def test_negative_control_without_the_canonical_computation_near_ties_differ() -> None:
    tied = _nearly_tied_policy(deterministic=False)
    slow, fast = tied.act(requests(BATCH, AUTOREGRESSIVE)), tied.act(requests(BATCH, SPECULATIVE))
    assert not np.array_equal(_actions(slow), _actions(fast))


def test_near_ties_are_settled_in_double_precision() -> None:
    """A level that is better by 1e-9 wins in every arm, though single precision cannot see it."""
    model = small_model()
    with torch.no_grad():
        model.target.heads.weight.zero_()
        model.target.heads.bias.fill_(1.0)  # in float32 the next number is 1.2e-7 away
    policy = policy_of(model, IMAGES, "none")
    bias = policy.precise.model.target.heads.bias.data
    bias[..., 5 :: model.config.tokeniser.levels] += 1e-9
    for decoding in (AUTOREGRESSIVE, SPECULATIVE):
        for chunk in policy.act(requests(BATCH, decoding)):
            assert chunk.trace.canonical and (chunk.codes == 5).all()


@pytest.mark.parametrize("rule", ["exact", "sampling"])
def test_a_draft_of_nan_raises_instead_of_acting(rule: str) -> None:
    model = small_model()
    with torch.no_grad():
        model.draft.norm.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="NaN"):
        policy_of(model, IMAGES, "none").act(requests(2, Decoding("speculative", rule)))


def test_nan_weights_raise_instead_of_acting() -> None:
    model = small_model()
    with torch.no_grad():
        model.target.norm.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="NaN"):
        policy_of(model, IMAGES, "none").act(requests(1, AUTOREGRESSIVE))


@pytest.mark.parametrize("mode", ["autoregressive", "speculative", "parallel", "draft"])
@pytest.mark.parametrize("rule", ["exact", "sampling"])
def test_an_infinite_logit_raises_instead_of_acting(mode: Mode, rule: str) -> None:
    model = small_model()
    with torch.no_grad():
        for heads in (model.target.heads, model.parallel_heads, model.draft.heads):
            heads.bias.flatten()[0] = float("inf")
    with pytest.raises(NonFiniteError, match="infinity"):
        policy_of(model, IMAGES, "none").act(requests(2, Decoding(mode, rule)))


def test_a_request_to_the_regression_head_waits_for_those_before_it(small: CodePolicy) -> None:
    chunks = small.act(requests(4, REGRESSION))
    target_s = [chunk.trace.target_s for chunk in chunks]
    assert target_s == sorted(set(target_s))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_regression_that_is_no_number_raises_instead_of_acting(number: float) -> None:
    model = small_model()
    with torch.no_grad():
        model.regression_head.bias[5] = number
    with pytest.raises(NonFiniteError):
        policy_of(model, IMAGES, "none").act(requests(2, REGRESSION))


def test_frames_of_another_size_are_refused(small: CodePolicy) -> None:
    request = requests(1, AUTOREGRESSIVE)[0]
    wide = dataclasses.replace(request.observation, agentview=np.zeros((64, 48, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="reads"):
        small.act([dataclasses.replace(request, observation=wide)])


def test_the_draft_reads_nothing_from_the_targets_backbone(small: CodePolicy) -> None:
    """With the target's trunk replaced by one that fails, the draft has still been launched."""

    class FailingError(Exception):
        pass

    def fail(*_: object) -> None:
        raise FailingError

    model = small_model()
    launched: list[str] = []
    original = model.draft.prefill

    def prefill(*arguments: torch.Tensor) -> object:
        launched.append("draft")
        return original(*arguments)

    model.draft.prefill = prefill  # type: ignore[method-assign, assignment]
    model.target.prefill = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(FailingError):
        policy_of(model, IMAGES, "none").act(requests(1, SPECULATIVE))
    assert launched == ["draft"]


def test_the_draft_arm_executes_the_drafts_own_codes_and_never_runs_the_target() -> None:
    """What `speculative` guesses before its first pass; layer 0 is seen there as it was judged."""
    model = small_model()
    policy = policy_of(model, IMAGES, "none")
    guesses: list[torch.Tensor] = []
    prefill = model.target.prefill

    def note(context: torch.Tensor, codes: torch.Tensor) -> Any:
        guesses.append(codes.clone())
        return prefill(context, codes)

    model.target.prefill = note  # type: ignore[method-assign]
    policy.act(requests(BATCH, SPECULATIVE))
    chunks = policy.act(requests(BATCH, DRAFT))
    assert len(guesses) == 1  # of `speculative`: the other arm asked nothing
    codes = np.stack([chunk.codes for chunk in chunks])
    assert np.array_equal(codes[..., :3], guesses[0].numpy())
    assert (codes[..., 3] == CONFIG.tokeniser.levels // 2).all()
    for chunk in chunks:
        assert (chunk.trace.passes, chunk.trace.layers, chunk.trace.target_s) == (0, 3, 0.0)
        assert chunk.trace.draft_s > 0 and not any(chunk.trace.drafted)


def test_fewer_layers_of_the_draft_are_the_first_of_all(small: CodePolicy) -> None:
    whole = small.act(requests(BATCH, DRAFT))
    short = small.act(requests(BATCH, dataclasses.replace(DRAFT, layers=2)))
    for one, other in zip(whole, short, strict=True):
        assert other.trace.layers == 2
        assert np.array_equal(one.codes[..., :2], other.codes[..., :2])


def test_near_ties_of_the_draft_are_settled_in_double_precision() -> None:
    for chunk in policy_of_a_tied_draft().act(requests(BATCH, DRAFT)):
        assert chunk.trace.canonical and (chunk.codes[..., :3] == 5).all()


def test_a_saved_checkpoint_acts_as_before(tmp_path: Path) -> None:
    path = small_checkpoint(tmp_path / "saved")
    info = checkpoint.inspect(str(path))
    assert (info.chunk_steps, info.layers, info.images) == (8, 4, IMAGES)
    assert info.model == CONFIG
    loaded = weights.load(str(path), deterministic=True, device="cpu")
    before = policy_of(small_model(), IMAGES, "none").act(requests(2, SPECULATIVE))
    assert np.array_equal(_actions(before), _actions(loaded.act(requests(2, SPECULATIVE))))


def _spoil(path: Path, **changes: object) -> None:
    file = path / checkpoint.CONFIG_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_bad_checkpoints_are_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint"):
        checkpoint.inspect(str(tmp_path / "nowhere"))

    truncated = small_checkpoint(tmp_path / "truncated")
    weights = truncated / checkpoint.WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="truncated"):
        checkpoint.inspect(str(truncated))

    foreign = small_checkpoint(tmp_path / "foreign")
    _spoil(foreign, architecture="small_vlaa")
    with pytest.raises(UserError, match="did you mean 'small_vla'"):
        checkpoint.inspect(str(foreign))

    other = small_checkpoint(tmp_path / "other")
    _spoil(other, conventions={"action": "delta joints"})
    with pytest.raises(UserError, match="action convention"):
        checkpoint.inspect(str(other))

    resized = small_checkpoint(tmp_path / "resized")
    wider = dataclasses.replace(CONFIG, word_buckets=128)
    _spoil(resized, model=dataclasses.asdict(wider))
    with pytest.raises(UserError, match="not written together"):
        checkpoint.inspect(str(resized))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("proprio_mean", float("nan"), "proprio_mean holds NaN"),
        ("proprio_scale", float("inf"), "proprio_scale holds NaN or infinity"),
        ("proprio_scale", 0.0, "proprio_scale reaches 0, a standard deviation is above 0"),
        ("tokeniser.scales", 0.3, "the tokeniser's scales are .* its settings give"),
        ("target.heads.bias", float("nan"), "target.heads.bias holds NaN"),
    ],
)
def test_statistics_that_cannot_be_the_models_are_refused(
    tmp_path: Path, name: str, value: float, message: str
) -> None:
    tensors = load_file(small_checkpoint(tmp_path) / checkpoint.WEIGHTS_FILE)
    tensors[name].view(-1)[-1] = value
    stored = tmp_path / checkpoint.WEIGHTS_FILE
    save_file(tensors, stored)
    described = checkpoint.described(CONFIG, IMAGES, {}, stored.read_bytes())
    (tmp_path / checkpoint.CONFIG_FILE).write_bytes(described)
    with pytest.raises(UserError, match=message):
        weights.load(str(tmp_path), deterministic=True, device="cpu")


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_weights_that_half_precision_cannot_hold_are_not_written(
    tmp_path: Path, value: float
) -> None:
    model = small_model()
    model.target.code_embedding.weight.data[0, 0] = value
    with pytest.raises(
        UserError, match=r"is not written: target\.code_embedding\.weight holds NaN"
    ):
        weights.save(model, tmp_path, IMAGES, {})
    assert not list(tmp_path.iterdir())


def test_weights_of_another_checkpoint_of_the_same_sizes_are_refused(tmp_path: Path) -> None:
    """Their statistics of normalisation would be taken for this one's."""
    mine, other = small_checkpoint(tmp_path / "mine"), small_checkpoint(tmp_path / "other", seed=1)
    (other / checkpoint.WEIGHTS_FILE).replace(mine / checkpoint.WEIGHTS_FILE)
    with pytest.raises(UserError, match="not written together, or changed since"):
        weights.load(str(mine), deterministic=True, device="cpu")


def test_regression_acts_on_what_its_head_says(small: CodePolicy) -> None:
    """Not on its codes, which are for the books: a head that says 0.3 moves by 0.3 all the way."""
    model = small_model()
    with torch.no_grad():
        model.regression_head.weight.zero_()
        model.regression_head.bias.zero_()
        model.regression_head.bias[:3] = 0.3  # the mean of the translation
    policy = policy_of(model, IMAGES, "sha")
    (chunk,) = policy.act(requests(1, REGRESSION))
    assert np.array_equal(chunk.actions[:, :3], np.full((8, 3), 0.3, np.float32))
    assert not chunk.actions[:, 3:6].any()
    assert chunk.trace.passes == 1 and not any(chunk.trace.drafted)
    assert chunk.codes.shape == (8, 7, 4)


def test_a_policy_without_a_regression_head_refuses_the_arm(tmp_path: Path) -> None:
    model = SmallVLA(dataclasses.replace(CONFIG, regression=False), IMAGES.height)
    with pytest.raises(UserError, match="without a regression head"):
        policy_of(model, IMAGES, "sha").act(requests(1, REGRESSION))


@pytest.mark.parametrize(("mode", "layers"), [("autoregressive", 4), ("draft", 3)])
def test_layers_that_the_policy_lacks_are_refused(
    small: CodePolicy, mode: Mode, layers: int
) -> None:
    small.act(requests(1, Decoding(mode, layers=layers)))
    with pytest.raises(UserError, match=rf"layers 1\.\.{layers} in mode '{mode}'"):
        small.act(requests(1, Decoding(mode, layers=layers + 1)))


def test_an_instruction_is_read_once_whatever_else_changes() -> None:
    policy = policy_of(small_model(), IMAGES, "none", deterministic=False)
    read: list[int] = []
    text = policy.model.model.text
    text.register_forward_hook(lambda module, inputs, output: read.append(len(inputs[0])))
    for seed in range(3):
        policy.act(requests(2, AUTOREGRESSIVE, seed))
    assert read == [1, 1]


def test_a_loaded_policy_is_saved_as_it_was(tmp_path: Path) -> None:
    """Its weights lie otherwise in memory."""
    path = small_checkpoint(tmp_path / "before")
    policy = weights.load(str(path), deterministic=False, device="cpu")
    weights.save(policy.model.model, tmp_path / "after", IMAGES, {"data": "none"})
    before, after = (
        load_file(tmp_path / at / checkpoint.WEIGHTS_FILE) for at in ("before", "after")
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
