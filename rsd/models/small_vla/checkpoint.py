"""Checkpoints: a folder with `model.safetensors` and `config.json`. Checked here without torch.

config.json holds what decides what the tensors mean: sizes, image settings, conventions, and where
the policy comes from (data, code, training). A hash binds it to the weights, among which are the
statistics of normalisation.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsd.errors import UserError, brief, reading, unknown, using
from rsd.foreign import MOST_BYTES, expanded, from_json, parse_json, read_bytes
from rsd.models.safetensors_file import StoredTensor, contents, tensors_of
from rsd.models.small_vla.architecture import SmallVLAConfig, check_images, tensors
from rsd.types import ImageSpec

FORMAT = 4
ARCHITECTURE = "small_vla"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CONVENTIONS = {  # what a policy trained elsewhere may do otherwise; compared word for word
    "action": "libero: dxyz, daxis-angle, gripper -1 open +1 close, all in [-1, 1]",
    "image": "agentview and robot0_eye_in_hand, rotated by 180 degrees, uint8 RGB",
    "proprio": "eef_pos m, axis-angle rad without antipodal flip, gripper_qpos m",
}
_BUNDLED = Path(__file__).parents[2] / "checkpoints"


@dataclass(frozen=True)
class CheckpointInfo:
    """A checked checkpoint."""

    path: Path
    sha256: str  # over both files
    model: SmallVLAConfig
    images: ImageSpec
    origin: dict[str, Any]  # data, code and training that made it

    @property
    def suites(self) -> tuple[str, ...]:
        """LIBERO suites of the demonstrations; empty where the description does not say."""
        return _suites(self.origin)

    @property
    def chunk_steps(self) -> int:
        """T."""
        return self.model.tokeniser.steps

    @property
    def layers(self) -> int:
        """L."""
        return self.model.tokeniser.layers


def bundled() -> tuple[str, ...]:
    """Names of the checkpoints that come with this package."""
    return tuple(sorted(path.parent.name for path in _BUNDLED.glob(f"*/{CONFIG_FILE}")))


def for_suites(suites: Collection[str]) -> str:
    """The bundled checkpoint that was trained on these suites and on the fewest others.

    Raises UserError where there is none.
    """
    described = {name: _read_config(_BUNDLED / name / CONFIG_FILE) for name in bundled()}
    trained = {name: _suites(config["origin"]) for name, config in described.items()}
    fitting = [name for name, known in trained.items() if set(suites) <= set(known)]
    if not fitting:
        known = "; ".join(f"{name}: {', '.join(on)}" for name, on in trained.items())
        raise UserError(
            f"no bundled policy was trained on all of {', '.join(suites)}; name one with --policy "
            f"(bundled: {known})"
        )
    return min(fitting, key=lambda name: (len(trained[name]), name))


def _suites(origin: dict[str, Any]) -> tuple[str, ...]:
    while isinstance(origin.get("target"), dict):  # its draft was trained again, on other data
        origin = origin["target"]
    data = origin.get("data", {})
    return tuple(data.get("suites", ())) if isinstance(data, dict) else ()


def inspect(spec: str) -> CheckpointInfo:
    """Check the checkpoint in folder `spec`, or the bundled one of that name: files, sizes,
    architecture, tensors.

    Raises UserError that says what is wrong. Nothing of the size that the files claim is made.
    """
    with using(f"the checkpoint {spec!r}", "mend that, or choose another"):
        return _inspect(spec)


def _inspect(spec: str) -> CheckpointInfo:
    path = _BUNDLED / spec if spec in bundled() else expanded(spec)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        with reading(path / name):
            there = (path / name).is_file()
        if not there:
            raise UserError(
                f"no checkpoint at {spec!r}: {path / name} is missing; give a folder that "
                f"`rsd train` wrote, or a bundled one: {', '.join(bundled())}"
            )
    config = _read_config(path / CONFIG_FILE)
    model, images = config["model"], config["images"]
    with reading(path / WEIGHTS_FILE), (path / WEIGHTS_FILE).open("rb") as stream:
        stored = tensors_of(stream, path / WEIGHTS_FILE)
        unfit = _unfit(stored, model, images)
        described, digest = _sizes_digest(model, images), hashlib.sha256(config["content"])
        broken = ""
        for name, content in contents(stream, stored):
            described.update(content)
            digest.update(content)
            if name and not broken and not stored[name].finite(content):
                broken = name
    if unfit or config["description_sha256"] != described.hexdigest():
        raise UserError(
            f"{path / WEIGHTS_FILE} does not hold the model that {CONFIG_FILE} describes{unfit}: "
            "the two files were not written together, or changed since; copy both anew or train "
            "it again"
        )
    if broken:
        raise UserError(f"{path}: {broken} holds NaN or infinity; copy or train it again")
    return CheckpointInfo(path, digest.hexdigest(), model, images, config["origin"])


def described(
    model: SmallVLAConfig, images: ImageSpec, origin: dict[str, Any], weights: bytes
) -> bytes:
    """The content of config.json beside these `weights`."""
    content = {
        "format": FORMAT,
        "architecture": ARCHITECTURE,
        "conventions": CONVENTIONS,
        "model": dataclasses.asdict(model),
        "images": dataclasses.asdict(images),
        "description_sha256": _description(model, images, weights),
        "origin": origin,
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def _read_config(path: Path) -> dict[str, Any]:
    """What a description says, checked; `content` are its bytes."""
    written = read_bytes(path, MOST_BYTES)
    try:
        content = parse_json(written)
        architecture = content["architecture"]
        if architecture != ARCHITECTURE:
            raise unknown("architecture", str(architecture), [ARCHITECTURE])
        if content["format"] != FORMAT:
            raise UserError(
                f"format {brief(content['format'])}, this version reads {FORMAT}; train it again, "
                "or use the code that wrote it"
            )
        for name, wanted in CONVENTIONS.items():
            found = content["conventions"].get(name)
            if found != wanted:
                raise UserError(
                    f"its {name} convention is {brief(found)}, this code's is {wanted!r}"
                )
        model = from_json(SmallVLAConfig, content["model"])
        images = from_json(ImageSpec, content["images"])
        check_images(images)
        origin = content.get("origin", {})
        _check_origin(origin)
        described = str(content["description_sha256"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a checkpoint description: {error!r}") from error
    except ValueError as error:  # JSON's, from_json's, and those raised above
        raise UserError(f"{path}: {error}") from error
    return {
        "content": written,
        "model": model,
        "images": images,
        "origin": origin,
        "description_sha256": described,
    }


def _check_origin(origin: Any) -> None:
    """Raises ValueError where what is read of a checkpoint's past, and of that of those it started
    from, has another form than `rsd train` gives it."""
    asked = [("origin", origin)]
    while asked:
        name, each = asked.pop()
        if not isinstance(each, dict):
            raise ValueError(f"{name} is {brief(each)}, expected what made the checkpoint, by name")
        data, training = each.get("data", {}), each.get("training", {})
        suites = data.get("suites", []) if isinstance(data, dict) else []
        if not isinstance(suites, list) or not all(map(_names_a_suite, suites)):
            raise ValueError(f"{name}.data.suites is {brief(suites)}, expected names of suites")
        if not isinstance(training, dict):
            raise ValueError(f"{name}.training is {brief(training)}, expected settings by name")
        share = training.get("held_out", 0.5)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise ValueError(f"{name}.training.held_out is {brief(share)}, expected a share")
        asked += [(f"{name}.{e}", each[e]) for e in ("target", "started_from") if e in each]


def _names_a_suite(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[A-Za-z0-9_.+-]{1,100}", value))


def _unfit(stored: Mapping[str, StoredTensor], model: SmallVLAConfig, images: ImageSpec) -> str:
    """In which tensor the stored ones first differ from the described ones; empty: in none."""
    left = set(stored)
    for name, shape in tensors(model, images):
        found = stored[name].shape if name in stored else "missing"
        if found != shape:
            return f" ({name} is {found}, described as {brief(shape)})"
        left.discard(name)
    return f" ({brief(min(left))} is not described)" if left else ""


def _description(model: SmallVLAConfig, images: ImageSpec, weights: bytes) -> str:
    """sha256 over sizes, image settings and the content of the weights' file."""
    digest = _sizes_digest(model, images)
    digest.update(weights)
    return digest.hexdigest()


def _sizes_digest(model: SmallVLAConfig, images: ImageSpec) -> hashlib._Hash:
    """The same before the weights."""
    sizes = [dataclasses.asdict(model), dataclasses.asdict(images)]
    return hashlib.sha256(json.dumps(sizes, sort_keys=True).encode())
