"""What decides the weights, and what a training run is asked to do. No torch, no Ray."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Literal

from rsd.models.openvla_oft.config import OFTDraftConfig
from rsd.models.small_vla.architecture import SmallVLAConfig
from rsd.rfsq_config import RFSQConfig


@dataclass(frozen=True)
class TrainConfig:
    """What decides the weights, besides data, sizes and `TrainJob.tokeniser_steps`."""

    steps: int = 6000
    """Optimiser steps of the target"""

    draft_steps: int = 3000
    """Optimiser steps of the draft, on features that are computed once; batches are four times
    as large"""

    draft_views: int = 4
    """Times that the draft's teacher sees every example, each but the first augmented anew"""

    batch_size: int = 64
    """Examples of an optimiser step, all workers together"""

    learning_rate: float = 1e-3
    """Largest one of the target (AdamW), reached after --train.warmup steps, then falling to 2 %"""

    draft_learning_rate: float = 2e-3
    """Largest one of the draft (AdamW, one cycle)"""

    warmup: int = 200
    """Steps in which the target's learning rate rises"""

    weight_decay: float = 0.05
    """Of target and draft (AdamW)"""

    code_noise: float = 0.1
    """Probability that a prefix token is shifted by one level"""

    parallel_weight: float = 0.25
    """Weight of the independent heads' loss"""

    regression_weight: float = 1.0
    """Weight of the regression head's loss: L1 on latents, whose range is -1 to 1"""

    shift: int = 2
    """Augmentation: pixels of random shift"""

    jitter: float = 0.15
    """Augmentation: brightness and contrast"""

    average: float = 0.998
    """Decay of the exponential moving average whose weights are kept"""

    held_out: float = 0.04
    """Fraction of placements whose demonstrations are kept for validation"""

    bf16: bool | None = None
    """Mixed precision, in which weights stay fp32; None: on GPUs, and on CPUs that multiply
    matrices of bf16 (AMX, AVX512-BF16)"""

    compile: bool = False
    """Compile the target's forward and backward pass (torch.compile, with the C++ compiler that
    `make setup` installs): about a minute at the start, then a sixth faster on a CPU"""

    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "draft_steps", "draft_views", "batch_size"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        for name in ("learning_rate", "draft_learning_rate"):
            _check(name, getattr(self, name), 0 < getattr(self, name) < inf, "above 0")
        for name in ("warmup", "weight_decay", "parallel_weight", "regression_weight", "shift"):
            value = getattr(self, name)
            _check(name, value, 0 <= value < inf, "0 or more")
        for name in ("code_noise", "jitter", "average"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < 1, "from 0 to below 1")
        _check("held_out", self.held_out, 0 < self.held_out < 1, "between 0 and 1")


def _check(name: str, value: object, fits: bool, wanted: str) -> None:
    if not fits:
        raise ValueError(f"{name.replace('_', '-')} {value}: give {wanted}")


@dataclass(frozen=True)
class OFTTrainConfig:
    """What is trained on a base of OpenVLA-OFT."""

    backbone: Literal["frozen", "lora", "all"] = "frozen"
    """frozen: only what reads and writes codes is trained; lora: low-rank changes to the language
    model, too (needs peft); all: towers, projectors and language model, for a base that knows
    nothing yet"""

    lora_rank: int = 32
    """Of the low-rank changes"""

    l1_head: bool = False
    """Train the published L1 head as well, on the same hidden states, for comparison"""

    cache_gb: float = 8.0
    """Memory for features of the towers of all examples. Where they fit and towers are frozen, they
    are computed once, and frames are not augmented; else every time. For the draft they are kept
    once for each of its views"""

    step_width: int = 1024
    """Of what the code heads read of a step"""

    tokeniser: RFSQConfig = field(default_factory=RFSQConfig)
    draft: OFTDraftConfig = field(default_factory=OFTDraftConfig)

    def __post_init__(self) -> None:
        for name in ("lora_rank", "step_width"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        _check("cache_gb", self.cache_gb, 0 <= self.cache_gb < inf, "0 or more")


@dataclass(frozen=True)
class TrainJob:
    """Train a policy and its draft from demonstrations."""

    data: tuple[Path, ...]
    """HDF5 files, or folders of them, with demonstrations: of `rsd collect`, LIBERO's published
    ones, or those that openvla-oft regenerated (*_no_noops); on a cluster, where every node finds
    them"""

    output: Path
    """Checkpoint folder to write; on a cluster, where every node finds it"""

    target: Literal["small-vla", "openvla-oft"] = "small-vla"
    """small-vla: a few million parameters, from random ones; openvla-oft: heads of residual codes
    and a draft for the 7B model in --base"""

    base: str | None = None
    """Checkpoint of OpenVLA-OFT whose backbone is used: a folder, or hf://owner/name[@revision]"""

    resume: bool = False
    """Go on with an interrupted training in --output"""

    draft_only: bool = False
    """Keep the checkpoint's target, train its draft on: on the target's choices in all frames of
    --data, also where a policy drove (`rsd collect --driver-arm draft`), so that it learns the
    states that it leads to itself. With --model.draft.* a draft of those sizes, the
    default one where only one of them is given, from random weights"""

    start_from: str | None = None
    """Name of a bundled checkpoint, or a checkpoint folder, whose weights, sizes and normalisation
    statistics the target starts from, instead of random ones: for fine-tuning; lower
    --train.learning-rate. A regression head that it lacks is new. With --model.tokeniser.steps
    other than 8 for chunks of another length: the tokeniser, what reads and says codes, and the
    draft are new then"""

    shard: bool = False
    """Each of several workers keeps its part of the target's weights, gradients and optimiser's
    state, instead of all of them (FSDP2): for --oft.backbone all at full size. What comes
    out is the same within rounding, and --resume may change it, and the number of workers"""

    threads: int | None = None
    """CPU threads of a worker; None: all cores, shared among the workers"""

    save_every_s: float = 60.0
    """Seconds between saves of the training state"""

    report_every: int = 50
    """Steps of the target from report to report; of the draft, five times as many"""

    tokeniser_steps: int = 2000
    """Steps of the tokeniser's encoder, where it has one"""

    train: TrainConfig = field(default_factory=TrainConfig)
    model: SmallVLAConfig = field(default_factory=SmallVLAConfig)
    oft: OFTTrainConfig = field(default_factory=OFTTrainConfig)

    def __post_init__(self) -> None:
        for name in ("report_every", "tokeniser_steps"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        _check("save_every_s", self.save_every_s, 0 <= self.save_every_s < inf, "0 or more")
        if self.shard and self.train.compile:
            raise ValueError("shard and train.compile do not go together: leave one out")
        if self.threads is not None:
            _check("threads", self.threads, self.threads >= 1, "1 or more")
