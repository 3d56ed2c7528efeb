"""Checkpoints on disk, checked here without torch, and never written to.

- published (vla-scripts/finetune.py 605-661): config, weights with LoRA merged into them, or
  `lora_adapter/` beside them or instead; one `action_head--*`, one `proprio_projector--*`,
  statistics, tokeniser and processor;
- trained by RSD: `config.json` that names the base, `heads.safetensors` with all that the base does
  not have and what stands for what it has, and `lora_adapter/` where the language model was changed
  by LoRA.

Either may be a folder or an id of the hub.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rsd.errors import UserError, brief, reading, using
from rsd.foreign import MOST_BYTES, expanded, parse_json, read_bytes
from rsd.models.openvla_oft import description, hub, names
from rsd.models.openvla_oft.config import OFTConfig
from rsd.models.openvla_oft.description import CONFIG, Normalisation, Trained
from rsd.models.openvla_oft.options import CHOICES, DEFAULT, Options, taken_apart
from rsd.models.openvla_oft.prompts import Prompts
from rsd.models.openvla_oft.statistics import FILE as STATISTICS
from rsd.models.openvla_oft.statistics import Statistics, statistics, suite_of
from rsd.models.openvla_oft.weight_files import WeightFile, content, weight_file
from rsd.models.seam import PolicyInfo
from rsd.types import ImageSpec, Mode

TOKENISER, PROCESSOR = "tokenizer.json", "preprocessor_config.json"
INDEX, SINGLE, SHARD = (
    "model.safetensors.index.json",
    "model.safetensors",
    re.compile(r"model-\d+-of-\d+\.safetensors"),
)
ADAPTER = "lora_adapter/adapter_model.safetensors"
ADAPTER_CONFIG = "lora_adapter/adapter_config.json"
HEADS = "heads.safetensors"
L1_HEAD = "target.l1_head."  # tensors in it begin so
OWN = ("target.code_heads.", "draft.", "tokeniser.")  # and those that no published checkpoint has
PARTS = {names.ACTION_HEAD: "action_head--", names.PROPRIO: "proprio_projector--"}
_UNSUPPORTED = {
    "noisy_action_projector--": "a diffusion head",
    "vision_backbone--": "FiLM in its vision towers",
}


@dataclass(frozen=True)
class Adapter:
    """Low-rank changes to the backbone: weight + scale * B A."""

    file: WeightFile
    scale: float
    pairs: dict[str, tuple[str, str]]  # a tensor of the backbone -> names of A and B


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose descriptions and headers fit together; its numbers are still unread."""

    spec: str  # names it for good
    config: OFTConfig
    longest: int  # positions that the language model was trained on
    statistics: dict[str, Statistics]  # by suite
    normalisations: tuple[Normalisation, ...]  # of pixels, for each tower
    tokeniser: Path
    parts: dict[str, tuple[WeightFile, ...]]  # that the published model is made of
    read: tuple[Path, ...]  # all other files that count
    adapters: tuple[Adapter, ...] = ()
    heads: WeightFile | None = None  # of residual codes, with tokeniser and draft
    base: Checkpoint | None = None  # what the heads were trained on
    trained: Trained | None = None  # how
    options: Options = DEFAULT  # that its spec asks for

    @property
    def weight_files(self) -> list[WeightFile]:
        """All of them."""
        heads = [self.heads] if self.heads else []
        parts = [file for files in self.parts.values() for file in files]
        return [*parts, *(adapter.file for adapter in self.adapters), *heads]

    @property
    def modes(self) -> tuple[Mode, ...]:
        """That it decodes, its best one first."""
        numbers: tuple[Mode, ...] = ("regression" if self.regresses else "bins",)
        return (*_CODES, *numbers) if self.heads else numbers

    @property
    def regresses(self) -> bool:
        """Whether actions come from an action head, not from the language model's own."""
        trained = self.heads.tensors if self.heads else ()
        return names.ACTION_HEAD in self.parts or any(n.startswith(L1_HEAD) for n in trained)

    @property
    def longest_prompt(self) -> int:
        """Tokens that the context has left for it."""
        codes = self.config.tokeniser
        behind = (codes.layers - 1) * codes.steps
        return max(0, self.longest - self.config.context(0) - behind)

    @property
    def parameters(self) -> int:
        """Numbers in its tensors, low-rank changes aside: they are added to others."""
        shapes = {
            names.in_model(part, name.removeprefix(names.WRAPPED)): each.shape
            for part, files in self.parts.items()
            for file in files
            for name, each in file.tensors.items()
        }
        if self.heads:  # some stand for the base's
            shapes |= {name: each.shape for name, each in self.heads.tensors.items()}
        return sum(map(math.prod, shapes.values()))

    def identity(self, digests: Mapping[Path, str]) -> str:
        """sha256 over all that is read of it, given those of its files of weights. Raises UserError
        where heads were trained on another base than they find."""
        if (
            self.base
            and self.trained
            and self.trained.base_sha256 != (found := self.base.identity(digests))
        ):
            raise UserError(
                f"{self.spec}: its heads were trained on {self.trained.base} when that was "
                f"{self.trained.base_sha256[:12]}; now it is {found[:12]}: name the revision that "
                "they were trained on, or train them again"
            )
        lines = [f"{file.path.name} {digests[file.path]}" for file in self.weight_files]
        if self.options.bits < 16:
            lines.append(f"{self.options.bits} bits")
        for path in self.read:
            lines.append(f"{path.name} {hashlib.sha256(read_bytes(path, MOST_BYTES)).hexdigest()}")
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


_CODES: tuple[Mode, ...] = ("speculative", "autoregressive", "parallel", "draft")


def inspect(spec: str) -> PolicyInfo:
    """All that can be known of a checkpoint before it is loaded; reads every byte of it. Raises
    UserError for what no replica could use."""
    checkpoint = describe(spec)
    return PolicyInfo(
        sha256=checkpoint.identity(digests(checkpoint)),
        modes=checkpoint.modes,
        chunk_steps=checkpoint.config.tokeniser.steps,
        layers=checkpoint.config.tokeniser.layers if checkpoint.heads else 0,
        images=ImageSpec(),  # the protocol's; resized by the policy itself
        suites=tuple(checkpoint.statistics),
        suites_only=True,
        lossy_rules=bool(checkpoint.heads) and checkpoint.config.tokeniser.hidden == 0,
        clips=True,
        pinned=checkpoint.spec,
        protocol="oft",
        check_instruction=_instruction_check(checkpoint),
        check_memory=functools.partial(_check_replica, checkpoint),
        settles_on_gpu=False,  # in bfloat16 most chunks are near ties (docs/openvla_oft.md)
        other_modes=f"`rsd train --target openvla-oft --base {spec}` trains heads for codes",
    )


def _instruction_check(checkpoint: Checkpoint) -> Callable[[str], None]:
    prompts = Prompts.of(checkpoint)

    def check(instruction: str) -> None:
        prompts([instruction])
        suite_of(instruction, checkpoint.statistics)

    return check


WIDTHS = {"cuda": 2, "cpu": 4}  # bytes of a number, by where it is computed with


def _check_replica(checkpoint: Checkpoint, device: str, total: int, deterministic: bool) -> None:
    settles = deterministic and device == "cpu"
    check_memory(checkpoint, total, total, device, WIDTHS[device], settles)


def check_memory(
    checkpoint: Checkpoint,
    free: int,
    total: int,
    device: str,
    width: int,
    settles: bool = False,
) -> None:
    """Raises UserError where a replica that decodes one chunk at a time does not fit, with a copy
    in double precision where it settles near ties."""
    needed, bits = memory_bytes(checkpoint, width), checkpoint.options.bits
    copy = 8 * checkpoint.parameters if settles else 0
    if needed + copy <= free:
        return
    weights = weight_bytes(checkpoint, width, bits)
    smaller = {
        fewer: needed - weights + weight_bytes(checkpoint, width, fewer)
        for fewer in CHOICES["bits"]
        if fewer < bits
    }
    ways = [f"{gb(size)} as '?bits={fewer}'" for fewer, size in smaller.items()]
    raise UserError(
        f"{checkpoint.spec} needs {gb(needed)} on {device}, {gb(weights)} of it for weights"
        + (f", and {gb(copy)} for the copy that --deterministic settles near ties by" * settles)
        + f"; {gb(free)} of {gb(total)} are free. "
        + (f"It would need {' and '.join(ways)} behind its name. " if ways else "")
        + "Free some, or give it a larger one"
    )


def gb(size: int) -> str:
    """For people."""
    return f"{size / 1e9:.3g} GB"


def memory_bytes(checkpoint: Checkpoint, width: int = 2) -> int:
    """Of a replica on its device, numbers `width` bytes wide: weights, and keys and values of a
    chunk. An instruction takes about 40 positions."""
    config, llama = checkpoint.config, checkpoint.config.llama
    positions = config.context(40) + (config.tokeniser.layers - 1) * config.tokeniser.steps
    cache = 2 * llama.depth * positions * llama.width
    return weight_bytes(checkpoint, width, checkpoint.options.bits) + width * cache


def weight_bytes(checkpoint: Checkpoint, width: int, bits: int) -> int:
    """Of all weights, those of the language model's layers in so many bits if these are fewer than
    16. A scale is a byte for 64 weights in 4 bits, a number for a row in 8."""
    llama = checkpoint.config.llama
    layers = llama.depth * llama.width * (4 * llama.width + 3 * llama.hidden)
    each = {16: width, 8: 1 + 5 / llama.width, 4: 0.5 + 1 / 64}[bits]
    return int(layers * each) + width * (checkpoint.parameters - layers)


def digests(checkpoint: Checkpoint) -> dict[Path, str]:
    """sha256 of every file of weights, several read at once. Raises UserError for numbers that are
    none."""
    files = checkpoint.weight_files
    with ThreadPoolExecutor(4, thread_name_prefix="sha256") as threads:
        found = list(threads.map(content, files))
    for file, told in zip(files, found, strict=True):
        if told.broken:
            raise UserError(
                f"{file.path}: {told.broken} holds NaN or infinity; copy or train it again"
            )
    return {file.path: told.sha256 for file, told in zip(files, found, strict=True)}


def describe(spec: str, endpoint: str | None = None) -> Checkpoint:
    """The checkpoint of a folder or a hub id. Raises UserError that says what is missing, left
    over, of another shape or of another model."""
    place, options = taken_apart(spec)
    with using(f"the checkpoint {place!r}", "mend that, or choose another"):
        found = _found(*_located(place, _wanted, endpoint), endpoint)
    return replace(found, spec=found.spec + options.suffix, options=options)


def _found(path: Path, pinned: str, endpoint: str | None) -> Checkpoint:
    if not (path / CONFIG).is_file():
        return _adapted(path, pinned, endpoint)
    told = _json(path / CONFIG)
    if description.is_trained(told):
        return _trained(path, pinned, description.trained(told, path / CONFIG), endpoint)
    return _published(path, pinned, path)


def _located(
    spec: str, wanted: Callable[[Sequence[str]], Sequence[str]], endpoint: str | None
) -> tuple[Path, str]:
    """The folder of a spec, and what names it for good."""
    if spec.startswith(f"{hub.SCHEME}://"):
        snapshot = hub.fetch(spec, wanted, endpoint)
        return snapshot.path, snapshot.spec
    path = expanded(spec)
    with reading(path):
        if not path.is_dir():
            raise UserError(
                f"no checkpoint at {spec!r}: give a folder, or hf://owner/name for one of the hub"
            )
    return path, spec


def _wanted(found: Sequence[str]) -> list[str]:
    """Of a repository's files those that are read. Raises UserError where a part is missing."""
    if HEADS in found:
        return [name for name in (CONFIG, HEADS, ADAPTER, ADAPTER_CONFIG) if name in found]
    parts = [_only(found, part, "the repository") for part in PARTS]
    fixed = [_needed(found, name, "the repository") for name in (STATISTICS, TOKENISER, PROCESSOR)]
    if CONFIG not in found:
        adapter = [_needed(found, name, "the repository") for name in (ADAPTER, ADAPTER_CONFIG)]
        return [*fixed, *adapter, *filter(None, parts)]
    return [*fixed, *_wanted_of_backbone(found), *filter(None, parts)]


def _wanted_of_backbone(found: Sequence[str]) -> list[str]:
    shards = [name for name in found if SHARD.fullmatch(name)]
    if INDEX in found and shards:
        return [CONFIG, INDEX, *shards]
    return [_needed(found, CONFIG, "the repository"), _needed(found, SINGLE, "the repository")]


def _needed(found: Sequence[str], name: str, where: str) -> str:
    if name not in found:
        raise UserError(
            f"{where} lacks {name}; a checkpoint of OpenVLA-OFT has {CONFIG}, weights in "
            f"safetensors, {STATISTICS}, {TOKENISER}, {PROCESSOR} and one "
            f"{PARTS[names.PROPRIO]}*_checkpoint.pt: copy what is missing"
        )
    return name


def _only(found: Sequence[str], part: str, where: str) -> str | None:
    """The file of a part. None for an action head that there is not: then actions are bins."""
    for prefix, what in _UNSUPPORTED.items():
        if odd := [name for name in found if name.startswith(prefix)]:
            raise UserError(f"{where} has {odd[0]}: {what} is not supported here")
    pattern = re.compile(re.escape(PARTS[part]) + r"[\w.-]*checkpoint\.pt")
    fitting = [name for name in found if pattern.fullmatch(name)]
    if len(fitting) > 1:
        raise UserError(
            f"{where} has {len(fitting)} files of its {part}: {' and '.join(fitting)}; leave the "
            "one that belongs to the weights, move the others away"
        )
    if not fitting and part == names.PROPRIO:
        return _needed(found, f"{PARTS[part]}*_checkpoint.pt", where)
    return fitting[0] if fitting else None


def _published(path: Path, spec: str, backbone_path: Path) -> Checkpoint:
    """A published folder; its backbone may lie in another one."""
    found = hub.names_in(path)
    for name in (STATISTICS, TOKENISER, PROCESSOR):
        _needed(found, name, str(path))
    files = {part: _only(found, part, str(path)) for part in PARTS}
    backbone = description.backbone(_json(backbone_path / CONFIG), backbone_path / CONFIG)
    parts = {names.BACKBONE: tuple(_shards(backbone_path))}
    parts |= {part: (weight_file(path / name),) for part, name in files.items() if name}
    for part, held in parts.items():
        _check_tensors(part, held, backbone.config)
    return Checkpoint(
        spec=spec,
        config=backbone.config,
        longest=backbone.longest,
        statistics=_said(path / STATISTICS, statistics),
        normalisations=_said(path / PROCESSOR, description.normalisations),
        tokeniser=path / TOKENISER,
        parts=parts,
        read=(
            backbone_path / CONFIG,
            *(path / name for name in (STATISTICS, TOKENISER, PROCESSOR)),
        ),
    )


def _shards(path: Path) -> Iterator[WeightFile]:
    """The files of the backbone's weights."""
    found = hub.names_in(path)
    if INDEX not in found:
        yield weight_file(path / _needed(found, SINGLE, str(path)))
        return
    told = _json(path / INDEX)
    places = told.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(each, str) for each in places.values()):
        raise UserError(f"{path / INDEX} does not say which file holds which tensor; copy it again")
    for name in sorted(set(places.values())):
        if name not in found:
            raise UserError(f"{path} lacks {name}, which {INDEX} names; copy it too")
        file = weight_file(path / name)
        for tensor in file.tensors:
            if places.get(tensor) != name:
                raise UserError(
                    f"{file.path} holds {brief(tensor)}, which {INDEX} has in "
                    f"{places.get(tensor, 'no file')}: they are of different checkpoints"
                )
        yield file


def _adapted(path: Path, spec: str, endpoint: str | None) -> Checkpoint:
    """A folder without weights of its own: LoRA's changes to a base that it names."""
    found = hub.names_in(path)
    if ADAPTER not in found or ADAPTER_CONFIG not in found:
        raise UserError(
            f"{path} has neither {CONFIG} with weights nor {ADAPTER}: it is no checkpoint of "
            "OpenVLA-OFT; give the folder that holds them"
        )
    base = description.base_of(_json(path / ADAPTER_CONFIG), path / ADAPTER_CONFIG)
    base_path, _ = _located(base, _wanted_of_backbone, endpoint)
    checkpoint = _published(path, spec, base_path)
    adapter = _adapter(path, checkpoint.config)
    return replace(checkpoint, adapters=(adapter,), read=(*checkpoint.read, path / ADAPTER_CONFIG))


def _adapter(path: Path, config: OFTConfig) -> Adapter:
    told = description.adapter(_json(path / ADAPTER_CONFIG), path / ADAPTER_CONFIG)
    file = weight_file(path / ADAPTER)
    shapes = names.tensors(names.BACKBONE, config)
    pairs: dict[str, dict[str, str]] = {}
    for name, tensor in file.tensors.items():
        matched = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.(?:default\.)?weight", name)
        changed = f"{matched[1]}.weight" if matched else ""
        shape = shapes.get(changed, ())
        if not matched or len(shape) != 2:
            raise UserError(
                f"{file.path}: {brief(name)} changes nothing that this model has; merge it with "
                "the peft that wrote it"
            )
        rows, columns = tensor.shape if len(tensor.shape) == 2 else (-1, -1)
        fits = (rows, columns) == ((rows, shape[1]) if matched[2] == "A" else (shape[0], columns))
        if not fits or told.rank != (rows if matched[2] == "A" else columns):
            raise UserError(
                f"{file.path}: {name} is {tensor.shape}, which changes no {shape} by rank "
                f"{told.rank}: it is of another model"
            )
        pairs.setdefault(changed, {})[matched[2]] = name
    for changed, pair in pairs.items():
        if len(pair) != 2:
            raise UserError(f"{file.path}: half of the change to {changed} is missing")
    return Adapter(file, told.scale, {each: (p["A"], p["B"]) for each, p in pairs.items()})


def _trained(path: Path, spec: str, told: Trained, endpoint: str | None) -> Checkpoint:
    base = describe(told.base, endpoint)
    config = replace(
        base.config, tokeniser=told.tokeniser, draft=told.draft, step_width=told.step_width
    )
    found = hub.names_in(path)
    if HEADS not in found:
        raise UserError(f"{path} lacks {HEADS}; copy it, or train it again")
    adapters = [_adapter(path, config)] if ADAPTER in found else []
    own = [path / CONFIG, *(path / ADAPTER_CONFIG for _ in adapters)]
    return replace(
        base,
        spec=spec,
        config=config,
        adapters=(*base.adapters, *adapters),
        heads=weight_file(path / HEADS),
        read=(*base.read, *own),
        base=base,
        trained=told,
    )


def _check_tensors(part: str, files: Sequence[WeightFile], config: OFTConfig) -> None:
    """Raises UserError that names a tensor that is missing, left over, twice or misshapen."""
    expected = names.tensors(part, config)
    missing = dict(expected)
    for file in files:
        for name, tensor in file.tensors.items():
            plain = name.removeprefix(names.WRAPPED) if part != names.BACKBONE else name
            if names.COMPUTED.fullmatch(plain):
                continue
            if plain not in missing:
                raise UserError(
                    f"{file.path}: {brief(name)} "
                    + ("is there twice" if plain in expected else f"is nothing of a {part}")
                    + "; it is of another model, or was not saved whole"
                )
            if missing.pop(plain) != tensor.shape:
                raise UserError(
                    f"{file.path}: {name} is {tensor.shape}, but {CONFIG} makes it "
                    f"{expected[plain]}: the files are of different models"
                )
    if missing:
        first = next(iter(missing))
        more = f" and {len(missing) - 1} more tensors" if len(missing) > 1 else ""
        where = files[0].path if len(files) == 1 else files[0].path.parent
        raise UserError(f"{where} lacks {first}{more} of the {part}; copy or convert it again")


def _json(path: Path) -> dict[str, Any]:
    told = _said(path, lambda parsed: parsed)
    if not isinstance(told, dict):
        raise UserError(f"{path} is {brief(told)}, expected settings by name")
    return told


def _said(path: Path, meaning: Callable[[Any], Any]) -> Any:
    """What a file of JSON says."""
    try:
        return meaning(parse_json(read_bytes(path, MOST_BYTES)))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
