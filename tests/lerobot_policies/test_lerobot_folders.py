"""What is read of a LeRobot checkpoint before LeRobot is asked for."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from lerobot_policies.made_up_checkpoints import EXECUTED, PIXELS, described

from rsd.errors import UserError
from rsd.models import inspect_policy, lerobot
from rsd.models.lerobot import folder as folders

FRAME = {"type": "VISUAL", "shape": [3, 64, 64]}
OTHER = {"type": "VISUAL", "shape": [3, 32, 64]}


def features(**inputs: Any) -> dict[str, Any]:
    return {"input_features": {f"observation.{name}": told for name, told in inputs.items()}}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "check_installed", lambda: None)


def test_a_checkpoint_tells_what_it_wants_and_is(tmp_path: Path) -> None:
    info = inspect_policy(f"lerobot://{described(tmp_path / 'act')}")
    assert (info.modes, info.chunk_steps, info.layers) == (("native",), EXECUTED, 0)
    assert (info.images.height, info.images.width) == (PIXELS, PIXELS)
    assert info.clips and not info.batches and not info.elsewhere


def test_the_identity_is_that_of_all_that_decides_and_not_of_the_place(tmp_path: Path) -> None:
    def identity(folder: Path, words: str = "") -> str:
        return inspect_policy(f"lerobot://{folder}{words}").sha256

    first = described(tmp_path / "a")
    assert identity(first) == identity(described(tmp_path / "b"))
    described(tmp_path / "c")
    (tmp_path / "c" / "policy_preprocessor_step_3_normalizer.safetensors").write_bytes(b"other")
    described(tmp_path / "d", n_action_steps=4)
    described(tmp_path / "e")
    (tmp_path / "e" / "model.safetensors").write_bytes(b"trained on")
    swapped = "?agentview=image2&wrist=image"
    found = {identity(first), identity(first, swapped)} | {identity(tmp_path / x) for x in "cde"}
    assert len(found) == 5


def test_cameras_that_are_called_otherwise_are_named_in_the_spec(tmp_path: Path) -> None:
    inputs = {"images.front": FRAME, "images.hand": FRAME, "images.empty_camera_0": OTHER}
    folder = described(tmp_path, **features(**inputs))
    with pytest.raises(UserError, match=r"wants a frame 'observation.images.front'; .*agentview="):
        inspect_policy(f"lerobot://{folder}")
    found = folders.read(f"lerobot://{folder}?agentview=front&wrist=observation.images.hand")
    assert found.cameras["agentview"] == "observation.images.front"
    assert found.cameras["wrist"] == "observation.images.hand"


def test_cameras_that_the_preprocessor_renames_need_no_name(tmp_path: Path) -> None:
    folder = described(tmp_path, **features(**{"images.front": FRAME}))
    renames = {"observation.images.image": "observation.images.front"}
    step = {"registry_name": "rename_observations_processor", "config": {"rename_map": renames}}
    (folder / "policy_preprocessor.json").write_text(json.dumps({"steps": [step]}))
    assert folders.read(f"lerobot://{folder}").cameras == folders.CAMERAS


@pytest.mark.parametrize("steps", [None, [3]])
def test_a_preprocessor_of_another_shape_is_told_as_the_files_fault(
    tmp_path: Path, steps: Any
) -> None:
    folder = described(tmp_path)
    (folder / "policy_preprocessor.json").write_text(json.dumps({"steps": steps}))
    with pytest.raises(UserError, match=r"policy_preprocessor.json, does not describe its feat"):
        inspect_policy(f"lerobot://{folder}")


STATE_9 = features(state={"type": "STATE", "shape": [9]}, **{"images.image": FRAME})
ENVIRONMENT = features(environment_state={"type": "ENV", "shape": [4]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": None}, "names no `type`"),
        ({"n_obs_steps": 2}, r"act looks at 2 observations \(n_obs_steps\)"),
        ({"temporal_ensemble_coeff": 0.01}, "mixes the chunks of earlier steps"),
        ({"type": "lingbot_va"}, "keeps what it has seen since the episode began"),
        (STATE_9, r"wants 'observation.state' of shape \(9,\); LIBERO has .* \(8,\)"),
        (ENVIRONMENT, r"wants 'observation.environment_state' of shape \(4,\)"),
        (
            features(**{"images.image": FRAME, "images.image2": OTHER}),
            "frames of these sizes: 32 x 64, 64 x 64; both cameras are drawn in one",
        ),
        ({"input_features": {}}, "frames of these sizes: none"),
        (
            {"output_features": {"action": {"type": "ACTION", "shape": [14]}}},
            r"gives {'action': \(14,\)}; LIBERO takes 'action' of shape \(7,\)",
        ),
        ({"input_features": None}, "does not describe its features as LeRobot 0.6 does"),
    ],
)
def test_a_policy_that_does_not_fit_libero_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        inspect_policy(f"lerobot://{described(tmp_path, **changes)}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "config.json is missing"),
        ("model.safetensors", "model.safetensors is missing"),
        ("policy_preprocessor.json", "migrate_policy_normalization --pretrained-path"),
        ("policy_postprocessor.json", "without its processors nobody knows how it normalises"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused(tmp_path: Path, name: str, message: str) -> None:
    folder = described(tmp_path)
    (folder / name).unlink()
    with pytest.raises(UserError, match=message):
        inspect_policy(f"lerobot://{folder}")


def test_specs_that_name_no_folder_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hf download lerobot/pi05_libero --local-dir FOLDER"):
        inspect_policy("lerobot://lerobot/pi05_libero")
    described(tmp_path / "last" / "pretrained_model")
    with pytest.raises(UserError, match=r"the folder within: .*last/pretrained_model"):
        inspect_policy(f"lerobot://{tmp_path / 'last'}")
    with pytest.raises(UserError, match=r"unknown setting of .* 'agentveiw'; did you mean 'agent"):
        inspect_policy(f"lerobot://{tmp_path}?agentveiw=x")


def test_without_lerobot_the_way_to_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--no-deps -r requirements-lerobot.txt"):
        inspect_policy(f"lerobot://{described(tmp_path)}")
    assert lerobot.FAMILY.forms.startswith("lerobot://FOLDER")
