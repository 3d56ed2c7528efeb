"""Pictures to a video that every browser plays: H.264, yuv420p, its index first (faststart).

ffmpeg does it, as imageio-ffmpeg brings it, or the one that IMAGEIO_FFMPEG_EXE names.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np

from rsd.errors import UserError

_COLOURS = ("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709")
_ENCODER = ("-c:v", "libx264", "-preset", "fast", "-crf", "21", "-threads", "1")
_PIXELS = ("-vf", "scale=out_color_matrix=bt709:out_range=tv", "-pix_fmt", "yuv420p")


def check() -> None:
    """Raises UserError where no video can be made here; before anything is simulated."""
    encode([np.zeros((16, 16, 3), np.uint8)], 20)


def encode(pictures: Iterable[np.ndarray], hz: int) -> bytes:
    """An mp4 of pictures uint8 (H, W, 3) of one size, H and W even. The same bytes from the same
    pictures and the same ffmpeg. Raises UserError where ffmpeg is missing or cannot."""
    left = iter(pictures)
    first = next(left)
    height, width = first.shape[:2]
    with tempfile.TemporaryDirectory() as aside:
        made, told = Path(aside) / "video.mp4", Path(aside) / "told"
        command = [_ffmpeg(), "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        command += ["-s", f"{width}x{height}", "-r", str(hz), "-i", "-", "-an", *_PIXELS]
        command += [*_ENCODER, *_COLOURS, "-movflags", "+faststart", str(made)]
        with (
            told.open("wb") as errors,
            subprocess.Popen(  # out of reach of Ctrl-C, which is this process's business
                command, stdin=subprocess.PIPE, stderr=errors, process_group=0
            ) as ffmpeg,
        ):
            assert ffmpeg.stdin is not None
            try:
                for picture in chain([first], left):
                    ffmpeg.stdin.write(np.ascontiguousarray(picture).data)
                ffmpeg.stdin.close()
            except BrokenPipeError:  # it has told why
                pass
        if ffmpeg.returncode:
            why = " ".join(told.read_text(errors="replace").split()) or "it does not say why"
            raise UserError(
                f"{command[0]} makes no H.264 video: {why}; unset IMAGEIO_FFMPEG_EXE to take the "
                "one of imageio-ffmpeg, or name one that has libx264"
            )
        return made.read_bytes()


def _ffmpeg() -> str:
    """Raises UserError where there is none."""
    try:
        import imageio_ffmpeg

        path: str = imageio_ffmpeg.get_ffmpeg_exe()
        if shutil.which(path):
            return path
        why = f"{path} is no program"
    except (ImportError, RuntimeError) as error:
        why = " ".join(str(error).split())
    raise UserError(
        f"a video needs ffmpeg: {why}; pip install imageio-ffmpeg, or name one by "
        "IMAGEIO_FFMPEG_EXE"
    )
