"""OpenVLA-OFT at a tiny size: what each block sees, and that every way to decode says the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("timm", exc_type=ImportError)

from transformers import LlamaConfig, LlamaModel

from rsd.decoding.rules import Exact
from rsd.decoding.sequential import autoregressive
from rsd.decoding.speculative import speculative
from rsd.decoding.stopwatch import Stopwatch
from rsd.models.openvla_oft import trunk
from rsd.models.openvla_oft.config import OFTConfig, openvla_7b, tiny
from rsd.models.openvla_oft.model import Context, Inputs, OpenVLAOFT, make, random_inputs
from rsd.models.openvla_oft.programs import Programs, judge_greedily

PROMPT = 7
CLOSE = {"rtol": 1e-4, "atol": 2e-5}  # float32, over sums in another order


@pytest.fixture
def config() -> OFTConfig:
    return tiny()


@pytest.fixture
def model(config: OFTConfig) -> OpenVLAOFT:
    torch.manual_seed(1)
    return make(config, "cpu", torch.float32)


def inputs_of(config: OFTConfig, batch: int, seed: int = 0) -> Inputs:
    torch.manual_seed(seed)
    return random_inputs(config, batch, PROMPT, "cpu", torch.float32)


def context_of(model: OpenVLAOFT, inputs: Inputs) -> Context:
    with torch.no_grad():
        return model.context(model.vision_backbone(inputs.pixels), inputs)


def placeholders_of(model: OpenVLAOFT, inputs: Inputs) -> Tensor:
    return model.target.placeholders(context_of(model, inputs))


def random_codes(config: OFTConfig, batch: int, layers: int) -> Tensor:
    codes = config.tokeniser
    return torch.randint(codes.levels, (batch, codes.steps, codes.latent_dim, layers))


def published(
    model: OpenVLAOFT, inputs: Inputs, causal: bool = False, swap: bool = False
) -> Tensor:
    """Hidden states of the published forward, (B, S, W): timm's and transformers' modules put
    together here, with nothing of rsd's but the weights."""
    vision, llama, size = model.vision_backbone, model.target.llama, model.config.llama
    towers = [vision.featurizer, vision.fused_featurizer]
    images = []
    for index in range(model.config.images):
        pixels = inputs.pixels[:, 6 * index : 6 * index + 6]
        halves = [pixels[:, 3:], pixels[:, :3]] if swap else [pixels[:, :3], pixels[:, 3:]]
        found = []
        for tower, half in zip(towers, halves, strict=True):
            x = tower.norm_pre(tower.patch_drop(tower._pos_embed(tower.patch_embed(half))))
            for block in tower.blocks[:-1]:
                x = block(x)
            found.append(x[:, tower.num_prefix_tokens :])
        images.append(torch.cat(found, dim=2))
    x = torch.cat(images, dim=1)
    maps = model.projector
    x = maps.fc3(F.gelu(maps.fc2(F.gelu(maps.fc1(x)))))
    maps = model.proprio_projector
    proprio = maps.fc2(F.gelu(maps.fc1(inputs.proprio)))[:, None]
    words = llama.embed_tokens(F.pad(inputs.prompt, (1, 0), value=1))  # BOS
    zeros = torch.zeros(len(x), model.config.placeholders, size.width)
    end = llama.embed_tokens(torch.full((len(x), 1), 2))
    x = torch.cat([words[:, :1], x, proprio, words[:, 1:], zeros, end], dim=1)
    plain = LlamaModel(
        LlamaConfig(
            vocab_size=size.vocabulary,
            hidden_size=size.width,
            intermediate_size=size.hidden,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            rms_norm_eps=size.epsilon,
            attn_implementation="eager",
        )
    ).eval()
    plain.load_state_dict(llama.state_dict())
    mask = torch.zeros(1, 1, x.shape[1], x.shape[1])
    if causal:
        mask = mask.masked_fill(torch.ones_like(mask, dtype=torch.bool).triu(1), -torch.inf)
    return plain(inputs_embeds=x, attention_mask=mask, use_cache=False).last_hidden_state


def by_hand(model: OpenVLAOFT, hidden: Tensor, shift: int = 1) -> Tensor:
    """The published L1 head on the published slice: from the prompt's last token on."""
    first = 1 + model.config.patches + 1 + PROMPT - shift
    head = model.target.l1_head
    x = hidden[:, first : first + model.config.placeholders]
    x = head.layer_norm1(x.reshape(len(x), -1, 7 * x.shape[2]))
    x = head.fc1(x).relu()
    for block in head.mlp_resnet_blocks:
        norm, linear, _ = block.ffn
        x = x + linear(norm(x)).relu()
    return head.fc2(head.layer_norm2(x))


@torch.no_grad()
def test_regression_is_the_published_forward_and_the_l1_head_by_hand(
    config: OFTConfig, model: OpenVLAOFT
) -> None:
    inputs = inputs_of(config, 3)
    ours = model.target.l1_head(placeholders_of(model, inputs))
    torch.testing.assert_close(ours, by_hand(model, published(model, inputs)), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("wrong", ["causal", "swap", "unshifted"])
def test_a_causal_mask_swapped_towers_or_an_unshifted_slice_would_be_noticed(
    config: OFTConfig, model: OpenVLAOFT, wrong: str
) -> None:
    inputs = inputs_of(config, 3)
    inputs.pixels[:, 3::6] += 1  # the towers' channels differ
    ours = model.target.l1_head(placeholders_of(model, inputs))
    hidden = published(model, inputs, causal=wrong == "causal", swap=wrong == "swap")
    other = by_hand(model, hidden, shift=0 if wrong == "unshifted" else 1)
    assert (ours - other).abs().max() > 1e-3


@torch.no_grad()
def test_bins_are_decoded_as_published(config: OFTConfig, model: OpenVLAOFT) -> None:
    inputs = inputs_of(config, 3)
    first = 1 + config.patches + 1 + PROMPT - 1
    hidden = published(model, inputs)[:, first : first + config.placeholders]
    ids = model.target.lm_head(hidden).argmax(dim=-1)
    points = torch.linspace(-1, 1, 256, dtype=torch.float64)
    centres = (points[1:] + points[:-1]) / 2
    index = (config.llama.vocabulary - 64 - ids - 1).clamp(0, 254)
    wanted = centres[index].reshape(3, -1, 7).float()
    torch.testing.assert_close(model.target.bins(placeholders_of(model, inputs)), wanted)


@torch.no_grad()
@pytest.mark.parametrize("fused", [False, True])
def test_block_0_is_the_published_forward_whatever_codes_stand_behind_it(
    config: OFTConfig, model: OpenVLAOFT, fused: bool
) -> None:
    inputs = inputs_of(config, 2)
    wanted, context = published(model, inputs), context_of(model, inputs)
    if fused:
        trunk.fuse(model.target.llama)
    size = wanted.shape[1]
    for layers in range(config.tokeniser.layers):
        cache = model.target.cache(context)
        hidden = model.target.hidden(cache, context, random_codes(config, 2, layers))
        torch.testing.assert_close(hidden[:, :size], wanted, **CLOSE)
    assert (hidden[:, size:].std() > 0.1).all()


@torch.no_grad()
@pytest.mark.parametrize("split", [True, False])
def test_a_layer_never_sees_codes_of_its_own_or_finer_layers(
    config: OFTConfig, model: OpenVLAOFT, split: bool
) -> None:
    trunk.fuse(model.target.llama, split)
    context, guessed = context_of(model, inputs_of(config, 2)), config.tokeniser.layers - 1
    codes = random_codes(config, 2, guessed)
    logits, _ = model.target.prefill(context, codes)
    for layer in range(guessed):
        other = codes.clone()
        other[..., layer] = (other[..., layer] + 1) % config.tokeniser.levels
        changed, _ = model.target.prefill(context, other)
        torch.testing.assert_close(changed[:, : layer + 1], logits[:, : layer + 1], **CLOSE)
        moved = (changed[:, layer + 1 :] - logits[:, layer + 1 :]).abs().flatten(2).amax(dim=2)
        assert (moved > 1e-3).all()  # finer ones do see it


@torch.no_grad()
@pytest.mark.parametrize("fused", [False, True])
def test_extending_a_cache_says_what_one_prefill_says(
    config: OFTConfig, model: OpenVLAOFT, fused: bool
) -> None:
    if fused:
        trunk.fuse(model.target.llama)
    context, guessed = context_of(model, inputs_of(config, 3)), config.tokeniser.layers - 1
    codes = random_codes(config, 3, guessed)
    logits, _ = model.target.prefill(context, codes)
    for first in range(1, guessed + 1):
        _, cache = model.target.prefill(context, random_codes(config, 3, guessed))
        model.target.extend(cache, codes[..., :first], 1)
        rows = torch.tensor([2, 0])
        some = model.target.extend(cache.select(rows), codes[rows][..., first - 1 :], first)
        torch.testing.assert_close(some, logits[rows, first:], **CLOSE)


@torch.no_grad()
def test_padded_prompts_say_what_each_says_alone(config: OFTConfig, model: OpenVLAOFT) -> None:
    inputs = inputs_of(config, 3)
    lengths = torch.tensor([PROMPT, PROMPT - 3, 1])
    valid = torch.arange(PROMPT) >= PROMPT - lengths[:, None]
    context = context_of(model, inputs._replace(valid=valid))
    codes = random_codes(config, 3, config.tokeniser.layers - 1)
    logits, cache = model.target.prefill(context, codes)
    again = model.target.extend(cache.select(torch.tensor([1])), codes[1:2, ..., 1:], 2)
    torch.testing.assert_close(again, logits[1:2, 2:], **CLOSE)
    for row, length in enumerate(lengths.tolist()):
        one = Inputs(*(t if t is None else t[row : row + 1] for t in inputs))
        alone = context_of(model, one._replace(prompt=one.prompt[:, PROMPT - length :]))
        found, _ = model.target.prefill(alone, codes[row : row + 1])
        torch.testing.assert_close(logits[row : row + 1], found, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("fused", [False, True])
def test_speculative_codes_are_autoregressive_codes(
    config: OFTConfig, model: OpenVLAOFT, fused: bool
) -> None:
    if fused:
        trunk.fuse(model.target.llama)
    layers, watch = config.tokeniser.layers, Stopwatch()
    for seed in range(20):
        inputs = inputs_of(config, 8, seed)
        patches = model.vision_backbone(inputs.pixels)
        context, drafted = model.context(patches, inputs), model.draft_context(patches, inputs)
        wanted = autoregressive(model.target, context, Exact(), layers, None, watch)
        parts = speculative(
            *(model.target, model.draft, context, drafted, Exact(), layers),
            *(1 + seed % (layers - 1), None, watch),
        )
        for part in parts:
            clear = wanted.margin[part.rows] > 1e-5
            assert torch.equal(part.decoded.codes[clear], wanted.codes[part.rows][clear])


@torch.no_grad()
def test_programs_decode_as_the_loops_do(config: OFTConfig, model: OpenVLAOFT) -> None:
    layers, batch = config.tokeniser.layers, 6
    reference = make(config, "cpu", torch.float32)
    reference.load_state_dict(model.state_dict())
    trunk.fuse(model.target.llama)
    programs = Programs(model, batch, PROMPT, graphed=False)
    for seed in range(5):
        inputs = inputs_of(config, batch, seed)
        context = context_of(reference, inputs)
        wanted = autoregressive(reference.target, context, Exact(), layers, None, Stopwatch())
        programs.load(inputs)
        programs.autoregressive()
        assert torch.equal(programs.codes, wanted.codes)
        programs.codes.zero_()
        assert 1 < programs.speculative() <= layers
        assert torch.equal(programs.codes, wanted.codes)
        actions = reference.tokeniser.decode(wanted.codes)
        assert torch.equal(programs.host_actions, actions)
        programs.oracle.copy_(wanted.codes[..., :-1])
        assert programs.speculative() == 1
        programs.oracle[1, 0, 0, 2] = (programs.oracle[1, 0, 0, 2] + 1) % config.tokeniser.levels
        assert programs.speculative() == 2
        assert torch.equal(programs.codes, wanted.codes)
        programs.oracle.fill_(-1)
        programs.parallel()
        at_once = reference.target.parallel_logits(context).argmax(dim=-1)
        assert torch.equal(programs.codes, at_once.permute(0, 2, 3, 1))
        programs.regression()
        said = reference.target.l1_head(reference.target.placeholders(context))
        torch.testing.assert_close(programs.actions, said, **CLOSE)


def test_a_verdict_stops_at_the_first_wrong_token_of_each_row() -> None:
    codes = torch.zeros(3, 1, 2, 4, dtype=torch.int64)
    best = torch.ones(3, 3, 1, 2, dtype=torch.int64)  # of layers 1 to 3
    guess = torch.ones(3, 1, 2, 3, dtype=torch.int64)
    guess[1, 0, 1, 2] = 0  # wrong in layer 2
    final = torch.tensor([1, 1, 4])
    none = torch.full((3,), -1)
    logits = F.one_hot(best, 2).float()
    assert judge_greedily(codes, final, guess, logits, 1, none).tolist() == [4, 3, 4]
    assert codes[:, 0, 0].tolist() == [[0, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]]
    forced = torch.tensor([2, -1, 4])
    assert judge_greedily(codes, final, guess, logits, 1, forced).tolist() == [2, 3, 4]


def test_the_draft_has_about_4_7_million_parameters_at_full_size() -> None:
    from rsd.models.openvla_oft.draft import OFTDraft

    with torch.device("meta"):
        draft = OFTDraft(openvla_7b())
    assert sum(p.numel() for p in draft.parameters()) == pytest.approx(4.7e6, rel=0.05)


def test_the_l1_head_has_the_published_size() -> None:
    from rsd.models.openvla_oft.heads import L1Head

    with torch.device("meta"):
        head = L1Head(4096)
    assert sum(p.numel() for p in head.parameters()) == pytest.approx(151e6, rel=0.01)


def test_triton_kernels_compute_what_torch_does() -> None:
    pytest.importorskip("triton")
    code = (
        "import torch; from rsd.models.openvla_oft import kernels as k;"
        "print(k.difference('cpu', torch.float32), k.difference('cpu', torch.bfloat16))"
    )
    single, half = map(float, _python("-c", code, TRITON_INTERPRET="1").split())
    assert single < 1e-6
    assert half < 0.02


def test_the_benchmark_runs_at_tiny_size_without_ray_or_a_simulator(tmp_path: Path) -> None:
    out = tmp_path / "latency.json"
    module = "rsd.models.openvla_oft.benchmark"
    code = (
        f"import sys, runpy; sys.argv[0] = '{module}';"
        f"runpy.run_module('{module}', run_name='__main__');"
        "heavy = {'ray', 'tyro', 'mujoco', 'robosuite', 'libero'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    arguments = ("--size", "tiny", "--device", "cpu", "--batches", "1", "2", "--seconds", "0.01")
    _python("-c", code, *arguments, "--out", str(out))
    results = json.loads(out.read_text())
    assert not results["failures"]
    names = {(figure["name"], figure["batch"]) for figure in results["figures"]}
    wanted = {"parallel", "regression", "autoregressive", "speculative, layer p 1", "skipping 90%"}
    wanted |= {"towers", "prefill with 0 blocks", "draft, all layers", "detokenisation"}
    assert {(name, batch) for name in wanted for batch in (1, 2)} <= names
    assert results["facts"]["codes, batch 1"]["chunks_equal"] == 1
    assert results["facts"]["check, tiny model in float32"]["speculative"] == 1


def test_a_benchmark_out_of_time_writes_what_it_left_out(tmp_path: Path) -> None:
    out = tmp_path / "latency.json"
    arguments = ("--size", "tiny", "--device", "cpu", "--minutes", "0.05", "--out", str(out))
    _python("-m", "rsd.models.openvla_oft.benchmark", *arguments)
    results = json.loads(out.read_text())
    assert results["left_out"] and not results["failures"]


def _python(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
