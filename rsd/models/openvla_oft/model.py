"""OpenVLA-OFT as a target of speculative decoding: towers, sequence, language model, heads, draft.

Sequence (modeling_prismatic.py 449-476, 734-755): BOS | patches | proprioception | prompt, which
ends in token 29871 | placeholders with zeroed embeddings | end of sequence. That is block 0. The
action heads read hidden states that start one position early, at the last token of the prompt
(914-918). Blocks 1.. hold the codes of layers 0.. (DESIGN 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rsd.models.openvla_oft import heads, trunk
from rsd.models.openvla_oft.attention import BlockCache, Layout, TrackedCache, new_cache
from rsd.models.openvla_oft.config import PROPRIO_DIM, OFTConfig
from rsd.models.openvla_oft.draft import OFTDraft
from rsd.models.openvla_oft.vision import Projector, ProprioProjector, Vision
from rsd.rfsq import RFSQ

BOS, EOS = 1, 2  # Llama's tokens


class Inputs(NamedTuple):
    """What a batch of chunks is decoded from, on the model's device."""

    pixels: Tensor  # (B, 6 images, H, W), normalised for each tower, dtype of the model
    prompt: Tensor  # int64 (B, P): tokens behind BOS, padded on the left
    valid: Tensor | None  # bool (B, P): False where the prompt is padding; None: nowhere
    proprio: Tensor  # (B, 8), normalised and clipped, dtype of the model
    previous: Tensor  # int64 (B, T, D, L): codes of the chunk before
    known: Tensor  # bool (B,): whether there is one


@dataclass(frozen=True)
class Context:
    """Block 0 before the language model."""

    embeddings: Tensor  # (B, S, W)
    valid: Tensor | None  # bool (B, S): False where it is padding; None: nowhere

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def device(self) -> torch.device:
        return self.embeddings.device


class Target(nn.Module):
    """The language model and its heads. Implements `rsd.decoding.contracts.Backbone`."""

    centres: Tensor  # float32 (bins - 1,)

    def __init__(self, config: OFTConfig) -> None:
        super().__init__()
        self.config = config
        self.steps, self.latent_dim = config.tokeniser.steps, config.tokeniser.latent_dim
        self.layers = config.tokeniser.layers
        width = config.llama.width
        self.llama = trunk.make_llama(config.llama)
        self.lm_head = nn.Linear(width, config.llama.vocabulary, bias=False)
        self.l1_head = heads.L1Head(width)
        self.code_heads = heads.CodeHeads(config)
        self.register_buffer("centres", heads.bin_centres(config.bins), persistent=False)

    def prefill(self, context: Context, codes: Tensor) -> tuple[Tensor, BlockCache]:
        """Context with k layers of codes appended -> logits of layers 0..k, cache."""
        cache = self.cache(context)
        return self.prefill_into(cache, context, codes), cache

    def taught(self, context: Context, codes: Tensor) -> tuple[Tensor, Tensor]:
        """For training: context and all layers of codes but the last -> logits (B, L, T, D, V) and
        the placeholders' hidden states. Where the context has no gradients, nor the language model,
        only the positions of codes are gone back through."""
        cache = self.cache(context, TrackedCache)
        trained = any(each.requires_grad for each in self.llama.parameters())
        if trained or context.embeddings.requires_grad:
            hidden = self.hidden(cache, context, codes)
            of_blocks = hidden[:, cache.layout.context :]
        else:
            with torch.no_grad():
                hidden = self.hidden(cache, context, codes[..., :0])
            blocks = self.code_heads.blocks(codes, 1).to(context.embeddings.dtype)
            of_blocks = trunk.run(self.llama, blocks, cache, cache.layout.start(1))
        placeholders = self.of_placeholders(hidden, cache)
        rest = self.code_heads.of_blocks(of_blocks, 1)
        return torch.cat([self.code_heads.layer_0(placeholders), rest], dim=1), placeholders

    def cache(self, context: Context, kind: type[BlockCache] = BlockCache) -> BlockCache:
        """An empty one for a context."""
        sizes = self.config.llama
        layout = Layout(context.embeddings.shape[1], self.steps, self.layers)
        head_width = sizes.width // sizes.heads
        return new_cache(
            layout=layout,
            valid=context.valid,
            batch=len(context),
            depth=sizes.depth,
            heads=sizes.heads,
            head_width=head_width,
            like=context.embeddings,
            kind=kind,
        )

    def prefill_into(self, cache: BlockCache, context: Context, codes: Tensor) -> Tensor:
        """`prefill` with a cache at hand; whatever it held is overwritten."""
        hidden = self.hidden(cache, context, codes)
        logits = self.code_heads.layer_0(self.of_placeholders(hidden, cache))
        if codes.shape[-1]:
            rest = self.code_heads.of_blocks(hidden[:, cache.layout.context :], 1)
            logits = torch.cat([logits, rest], dim=1)
        return logits

    def hidden(self, cache: BlockCache, context: Context, codes: Tensor) -> Tensor:
        """Hidden states (B, S + k T, W) of the context and k layers of codes behind it."""
        if codes.shape[-1]:
            blocks = self.code_heads.blocks(codes, 1).to(context.embeddings.dtype)
            embeddings = torch.cat([context.embeddings, blocks], dim=1)
        else:
            embeddings = context.embeddings.clone()  # a fused trunk overwrites it
        cache.blocks = codes.shape[-1] + 1
        return trunk.run(self.llama, embeddings, cache, 0)

    def of_placeholders(self, hidden: Tensor, cache: BlockCache) -> Tensor:
        """What the action heads read: (B, 7 T, W), from the last token of the prompt to the last
        placeholder but one."""
        first = cache.layout.context - 1 - self.config.placeholders - 1
        return hidden[:, first : first + self.config.placeholders]

    def extend(self, cache: BlockCache, codes: Tensor, first: int) -> Tensor:
        """Blocks first.. from codes of layers first - 1.. (B, T, D, n) -> logits of layers
        first..first + n - 1; blocks from `first` on are overwritten."""
        assert 1 <= first <= cache.blocks, f"block {first} would leave a gap after {cache.blocks}"
        blocks = self.code_heads.blocks(codes, first).to(cache.entries.dtype)
        hidden = trunk.run(self.llama, blocks, cache, cache.layout.start(first))
        cache.blocks = first + codes.shape[-1]
        return self.code_heads.of_blocks(hidden, first)

    def parallel_logits(self, context: Context) -> Tensor:
        """Logits (B, L, T, D, V) of all layers from the context alone."""
        return self.code_heads.all_at_once(self.placeholders(context))

    def placeholders(self, context: Context) -> Tensor:
        """Hidden states (B, 7 T, W) that the heads of a context alone read."""
        cache = self.cache(context)
        hidden = self.hidden(cache, context, self.no_codes(len(context), context.device))
        return self.of_placeholders(hidden, cache)

    def bins(self, placeholders: Tensor) -> Tensor:
        """Hidden states (B, 7 T, W) -> actions (B, T, 7), normalised, of the published discrete
        decode."""
        logits = self.lm_head(placeholders)
        return heads.actions_of_bins(logits, self.centres, self.config.llama.padding)

    def no_codes(self, batch: int, device: torch.device | str) -> Tensor:
        """int64 (B, T, D, 0)."""
        return torch.zeros(batch, self.steps, self.latent_dim, 0, dtype=torch.int64, device=device)


class OpenVLAOFT(nn.Module):
    """Everything of one checkpoint."""

    def __init__(self, config: OFTConfig) -> None:
        super().__init__()
        self.config = config
        self.tokeniser = RFSQ(config.tokeniser)
        self.vision_backbone = Vision(config)
        self.projector = Projector(config.vision_width, config.llama.width)
        self.proprio_projector = ProprioProjector(PROPRIO_DIM, config.llama.width)
        self.target = Target(config)
        self.draft = OFTDraft(config)

    def context(self, patches: Tensor, inputs: Inputs) -> Context:
        """Tower features (B, patches, F) and the rest -> block 0."""
        batch, table = len(patches), self.target.llama.embed_tokens
        bos, eos = (table.weight[i].expand(batch, 1, -1) for i in (BOS, EOS))
        parts = [
            bos,
            self.projector(patches),
            self.proprio_projector(inputs.proprio)[:, None],
            table(inputs.prompt),
            patches.new_zeros(batch, self.config.placeholders, bos.shape[-1]),
            eos,
        ]
        return Context(torch.cat(parts, dim=1), self._valid(inputs))

    def _valid(self, inputs: Inputs) -> Tensor | None:
        if inputs.valid is None:
            return None
        batch, device = len(inputs.valid), inputs.valid.device
        before = torch.ones(batch, 1 + self.config.patches + 1, dtype=torch.bool, device=device)
        after = torch.ones(batch, self.config.placeholders + 1, dtype=torch.bool, device=device)
        return torch.cat([before, inputs.valid, after], dim=1)

    def text(self, inputs: Inputs) -> Tensor:
        """The instruction's mean token embedding, (B, W)."""
        words: Tensor = self.target.llama.embed_tokens(inputs.prompt)
        if inputs.valid is None:
            return words.mean(dim=1)
        weight = inputs.valid[..., None].to(words.dtype)
        return (words * weight).sum(dim=1) / weight.sum(dim=1)

    def draft_context(self, patches: Tensor, inputs: Inputs) -> Tensor:
        """Tower features and the rest -> (B, W'); nothing of the language model's but its table of
        token embeddings."""
        text = self.text(inputs)
        latents = self.tokeniser.dequantise(inputs.previous)
        return self.draft.context(patches, text, inputs.proprio, latents, inputs.known)


def make(config: OFTConfig, device: torch.device | str, dtype: torch.dtype) -> OpenVLAOFT:
    """Random weights, made on the device. The tokeniser stays in float32: it decodes actions."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = OpenVLAOFT(config)
    finally:
        torch.set_default_dtype(default)
    with torch.device(device):
        model.tokeniser = RFSQ(config.tokeniser)
        model.target.centres = heads.bin_centres(config.bins)
    return model.eval().requires_grad_(False)


def random_inputs(
    config: OFTConfig, batch: int, prompt: int, device: torch.device | str, dtype: torch.dtype
) -> Inputs:
    """Noise of the right shapes; every prompt `prompt` tokens long."""
    codes = config.tokeniser
    size = config.image_size
    return Inputs(
        torch.randn(batch, 6 * config.images, size, size, device=device, dtype=dtype),
        torch.randint(3, config.llama.vocabulary - 64, (batch, prompt), device=device),
        None,
        torch.rand(batch, PROPRIO_DIM, device=device, dtype=dtype) * 2 - 1,
        torch.randint(
            codes.levels,
            (batch, codes.steps, codes.latent_dim, codes.layers),
            device=device,
        ),
        torch.ones(batch, dtype=torch.bool, device=device),
    )
