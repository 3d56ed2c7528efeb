"""The input and output path of OpenVLA-OFT, against TensorFlow's own numbers, references written
here element by element, and Pillow and torch where these agree."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from openvla_oft import published
from PIL import Image

from rsd.errors import UserError
from rsd.models.openvla_oft import folder, inputs
from rsd.models.openvla_oft.description import Normalisation
from rsd.models.openvla_oft.inputs import ImagePath, Preparation, Units
from rsd.models.openvla_oft.prompts import Prompts
from rsd.models.openvla_oft.statistics import statistics, suite_of
from rsd.types import ImageSpec, Observation

pytest.importorskip("simplejpeg", reason="JPEG as TensorFlow reads it needs simplejpeg")

NORMALISATIONS = (
    Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
)
# Every fourth row and column of what TensorFlow 2.21 makes of `picture(0, ...)`, by the calls of
# openvla_utils.py: jpeg (encode_jpeg, decode_image), resized (resize to 224 by lanczos3 with
# antialias, round, clip), cropped (center_crop_image).
TENSORFLOW = np.load(Path(__file__).with_name("tensorflow.npz"))
SIZES = {"square": (256, 256), "small": (128, 128), "oblong": (300, 200)}


def picture(seed: int, height: int = 256, width: int = 256) -> np.ndarray:
    """uint8 (H, W, 3) of integers alone, the same everywhere: slopes, edges and noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    planes = []
    for _ in range(3):
        a, b, c, size = generator.integers(1, 40, 4)
        slope = (a * x + b * y) // 16
        boxes = 60 * ((x // (size + 3) + y // (c + 3)) % 2)
        planes.append(slope + boxes + generator.integers(0, 12, (height, width)))
    return (np.stack(planes, axis=-1) % 256).astype(np.uint8)


@pytest.fixture(scope="module")
def path() -> ImagePath:
    return ImagePath(224, NORMALISATIONS)


@pytest.mark.parametrize("name", SIZES)
def test_a_frame_comes_out_of_jpeg_as_tensorflow_has_it(name: str) -> None:
    found = inputs.jpeg_round_trips(picture(0, *SIZES[name])[None])[0]
    assert np.array_equal(found[::4, ::4], TENSORFLOW[f"{name}_jpeg"])


def test_without_the_decoder_nothing_is_read_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs simplejpeg: install what requirements\.txt names"):
        ImagePath(224, NORMALISATIONS)


def test_pillow_reads_a_jpeg_otherwise() -> None:
    """Negative control: with the accurate transform three values of four would differ."""
    written = io.BytesIO()
    Image.fromarray(picture(0)).save(written, "JPEG", quality=95, subsampling="4:2:0")
    other = np.asarray(Image.open(written))[::4, ::4].astype(int)
    different = other != TENSORFLOW["square_jpeg"]
    assert different.mean() > 0.5
    assert np.abs(other - TENSORFLOW["square_jpeg"]).max() < 20


@pytest.mark.parametrize("name", SIZES)
def test_a_frame_is_resized_and_cropped_as_tensorflow_does_it(path: ImagePath, name: str) -> None:
    frames = inputs.jpeg_round_trips(picture(0, *SIZES[name])[None])
    resized = path.resized(torch.from_numpy(frames))
    assert np.array_equal(resized[0, ::4, ::4].numpy(), TENSORFLOW[f"{name}_resized"])
    cropped = path.cropped(resized)
    assert np.array_equal(cropped[0, ::4, ::4].numpy(), TENSORFLOW[f"{name}_cropped"])


def lanczos3(x: float) -> float:
    if x == 0:
        return 1.0
    if abs(x) >= 3:
        return 0.0
    return 3 * math.sin(math.pi * x) * math.sin(math.pi * x / 3) / (math.pi * x) ** 2


def resized_line(line: np.ndarray, outputs: int) -> np.ndarray:
    """One line of numbers, by the textbook: output j sits at (j + 1/2) n/m - 1/2."""
    scale = len(line) / outputs
    made = []
    for j in range(outputs):
        centre = (j + 0.5) * scale
        weights = [lanczos3((i + 0.5 - centre) / max(scale, 1)) for i in range(len(line))]
        made.append(sum(w * v for w, v in zip(weights, line, strict=True)) / sum(weights))
    return np.array(made)


@pytest.mark.parametrize("side", [256, 300, 128])
def test_lanczos_is_that_of_the_textbook_in_both_directions(side: int, path: ImagePath) -> None:
    line = picture(1, 1, side)[0, :, 0]
    expected = np.round(np.clip(resized_line(line.astype(float), 224), 0, 255))
    across = torch.from_numpy(np.tile(line[None, None, :, None], (1, side, 1, 3)))
    along = path.resized(across)[0, 100, :, 0]
    down = path.resized(across.transpose(1, 2))[0, :, 100, 0]
    assert torch.equal(along, down)
    assert np.abs(along.numpy() - expected).max() <= 1  # a sum near a half, in float32
    assert (along.numpy() != expected).mean() < 0.02


def test_lanczos_agrees_with_pillow_but_for_its_fixed_point(path: ImagePath) -> None:
    """Which rounds, and cuts off, between the two directions: so nothing may swing out of range."""
    image = 64 + picture(2) // 2
    pillow = Image.fromarray(image).resize((224, 224), Image.Resampling.LANCZOS)
    found = path.resized(torch.from_numpy(image)[None])[0].numpy().astype(int)
    assert np.abs(found - np.asarray(pillow)).max() <= 2  # it rounds between the two directions


def test_the_crop_is_the_middle_tenths_of_the_area_stretched(path: ImagePath) -> None:
    """Against torch's bilinear sampling with corners on corners, in [0, 1] and cut to bytes."""
    image = torch.from_numpy(picture(3, 224, 224))[None]
    reach = math.sqrt(0.9)
    at = torch.linspace(-reach, reach, 224, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), dim=-1)[None]
    sampled = torch.nn.functional.grid_sample(
        image.permute(0, 3, 1, 2).double() / 255, grid, mode="bilinear", align_corners=True
    )
    expected = (sampled * 255.5).floor().permute(0, 2, 3, 1)
    found = path.cropped(image)
    assert (found - expected).abs().max() <= 1
    assert (found != expected).double().mean() < 1e-3


def test_without_the_crop_the_image_is_another(path: ImagePath) -> None:
    image = torch.from_numpy(picture(4, 224, 224))[None]
    assert (path.cropped(image) != image).double().mean() > 0.5


def test_pixels_are_normalised_once_a_tower_image_by_image(path: ImagePath) -> None:
    frames = np.stack([[picture(5), picture(6)], [picture(7), picture(8)]])
    pixels = path(frames)
    assert pixels.shape == (2, 12, 224, 224)
    assert pixels.dtype == torch.float32
    for row, image, tower, colour in np.ndindex(2, 2, 2, 3):
        cropped = path.cropped(
            path.resized(torch.from_numpy(inputs.jpeg_round_trips(frames[row, image][None])))
        )
        told = NORMALISATIONS[tower]
        expected = (cropped[0, ..., colour].double() / 255 - told.mean[colour]) / told.deviation[
            colour
        ]
        found = pixels[row, 6 * image + 3 * tower + colour]
        assert torch.allclose(found.double(), expected, atol=1e-6)


def test_a_batch_is_what_its_rows_are_alone(path: ImagePath) -> None:
    frames = np.stack([[picture(seed), picture(seed + 1)] for seed in (10, 20, 30)])
    together = path(frames)
    assert all(torch.equal(path(frames[row : row + 1])[0], together[row]) for row in range(3))


def test_frames_of_the_models_own_size_are_neither_compressed_nor_resized(path: ImagePath) -> None:
    frame = picture(9, 224, 224)
    pixels = path(frame[None, None])
    expected = path.normalised(path.cropped(torch.from_numpy(frame)[None]))
    assert torch.equal(pixels, expected)


@pytest.fixture(scope="module")
def tokeniser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokeniser") / "tokenizer.json"
    published.write_tokeniser(path)
    return path


def test_a_prompt_is_the_published_sentence_and_ends_in_llamas_empty_piece(tokeniser: Path) -> None:
    from tokenizers import Tokenizer

    known = Tokenizer.from_file(str(tokeniser))
    known.no_padding()
    known.no_truncation()
    tokens, valid = Prompts(tokeniser, 100, 512)(["Pick up the Bowl"])
    assert valid is None
    assert tokens[0, -1] == known.token_to_id("▁")
    expected = known.encode(
        "In: What action should the robot take to pick up the bowl?\nOut:"
    ).ids  # with BOS, which the model adds
    assert tokens[0, :-1].tolist() == expected[1:]
    assert known.decode(tokens[0, :-1].tolist()).endswith("pick up the bowl?\nOut:")


def test_shorter_prompts_are_padded_on_the_left(tokeniser: Path) -> None:
    prompts = Prompts(tokeniser, 100, 512)
    short, long = "pick", "pick up the bowl"
    tokens, valid = prompts([short, long])
    assert valid is not None
    assert valid[1].all()
    assert tokens[0][valid[0]].tolist() == prompts([short])[0][0].tolist()
    assert not valid[0, 0]
    assert valid[0, -1]


def test_an_instruction_longer_than_the_context_is_refused(tokeniser: Path) -> None:
    with pytest.raises(UserError, match=r"its prompt is \d+ tokens, .* has 50 left"):
        Prompts(tokeniser, 50, 512)(["pick up the bowl and " * 5])


def test_a_tokeniser_of_another_model_is_refused(tokeniser: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another model's"):
        Prompts(tokeniser, 100, 64)
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{}")
    with pytest.raises(UserError, match="no tokeniser"):
        Prompts(broken, 100, 512)


TWO = statistics(published.statistics(["libero_spatial", "libero_goal"]))


def test_proprioception_is_mapped_by_quantiles_and_clipped() -> None:
    units = Units(TWO)
    values = np.array([[-0.4, 0.37, 0.3, 9.0, -9.0, 0.1, 0.02, -0.01], [0.0] * 8], dtype=np.float32)
    found = units.proprio(values, np.array([0, 1]))
    assert found.dtype == np.float32
    for row, entry in np.ndindex(2, 8):
        low, high = published.PROPRIO["q01"][entry], published.PROPRIO["q99"][entry]
        value = 2 * (float(values[row, entry]) - low) / (high - low + 1e-8) - 1
        assert found[row, entry] == np.float32(min(1.0, max(-1.0, value)))
    assert found[0, 3] == 1
    assert found[0, 4] == -1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_actions_are_mapped_back_and_the_gripper_opens_or_closes(dtype: torch.dtype) -> None:
    units = Units(TWO)
    said = torch.linspace(-1.2, 1.2, 2 * 8 * 7).reshape(2, 8, 7).to(dtype)
    found = units.actions(said, torch.tensor([0, 1]))
    assert found.dtype == torch.float32
    for row, step, entry in np.ndindex(2, 8, 6):
        low = published.ACTION["q01"][entry]
        high = published.ACTION["q99"][entry] * (1 + 0.1 * row)
        x = float(said[row, step, entry])
        expected = min(1.0, max(-1.0, 0.5 * (x + 1) * (high - low + 1e-8) + low))
        assert float(found[row, step, entry]) == pytest.approx(expected, abs=1e-6)
    opened = said[..., 6].double() > 0.5  # 1 is open there
    assert torch.equal(found[..., 6], torch.where(opened, -1.0, 1.0))


def test_a_gripper_in_the_middle_closes_and_nan_stays() -> None:
    said = torch.tensor([0.5, torch.nan, 0.51, 0.49])[None, :, None].expand(1, 4, 7).clone()
    said[..., :6] = 0
    found = Units(TWO).actions(said, torch.tensor([0]))[0, :, 6]
    assert found[[0, 2, 3]].tolist() == [1, -1, 1]
    assert bool(found[1].isnan())


def test_an_instruction_goes_by_the_statistics_of_its_own_suite() -> None:
    spatial = "pick up the black bowl between the plate and the ramekin and place it on the plate"
    assert suite_of(spatial, TWO) == "libero_spatial"
    assert suite_of("put the bowl on the stove", TWO) == "libero_goal"
    assert suite_of("anything", {"only": TWO["libero_goal"]}) == "only"
    with pytest.raises(UserError, match="no task of theirs"):
        suite_of("make me a coffee", TWO)


def test_observations_become_what_the_model_reads(tmp_path: Path) -> None:
    published.make(tmp_path, shards=1)
    prepare = Preparation(folder.describe(str(tmp_path)), ImageSpec())
    seen = [
        Observation(picture(i), picture(i + 5), np.zeros(8, np.float32), words)
        for i, words in enumerate(["pick up the bowl", "pick"])
    ]
    both = prepare(seen)
    assert both.pixels.shape == (2, 12, published.CONFIG.image_size, published.CONFIG.image_size)
    assert both.suites.tolist() == [0, 0]
    assert both.valid is not None
    alone = prepare(seen[1:])
    assert alone.valid is None
    assert torch.equal(both.prompt[1][both.valid[1]], alone.prompt[0])
    assert torch.equal(both.pixels[1:], alone.pixels)
    swapped = prepare([Observation(picture(5), picture(0), seen[0].proprio, "pick")])
    assert torch.equal(swapped.pixels[0, :6], both.pixels[0, 6:])
    small = Observation(picture(0, 64, 64), picture(1), seen[0].proprio, "pick")
    with pytest.raises(UserError, match=r"frames of \(64, 64, 3\).*reads \(256, 256, 3\)"):
        prepare([small])
