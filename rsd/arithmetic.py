"""Arithmetic whose results are the same bits on every x86-64 machine with AVX2 and FMA (DESIGN 7).

numpy picks code by processor: OpenBLAS its kernels, numpy itself its elementary functions (with
AVX-512 those of Intel's SVML). They round differently, and the states of one episode on two
processors part within a step. `pin` fixes both, which must happen before numpy is loaded;
`rsd/__init__.py` calls it. `probe` computes with what simulator and experts compute with, so that a
machine whose arithmetic is another one is found out, whatever the reason. No numpy at load.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rsd.errors import UserError

if TYPE_CHECKING:
    import numpy as np

PINNED = {  # environment of every process that simulates
    "OPENBLAS_CORETYPE": "Haswell",  # OpenBLAS's name of its kernels for AVX2 and FMA
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # numpy's names, all with AVX-512
}
CPU_FEATURES = ("avx2", "fma")  # without them the kernels cannot run, and libm rounds differently

REFERENCE = "x86-64-v3"  # what records call the arithmetic of `REFERENCE_PROBE`
REFERENCE_PROBE = "7ad0398d46fb39e4e6632eb55d3c2e8fb2f718da5731361206d1d60298d150bf"


class _Loaded:
    """What numpy was loaded without, before it could be fixed."""

    too_early: ClassVar[dict[str, str | None]] = {}


def pin() -> None:
    """Fix what numpy computes with in this process and its children, unless the user has chosen
    otherwise.

    Without effect where numpy is loaded already; `check` then refuses.
    """
    if not _is_x86_64():
        return
    _Loaded.too_early = _unlike() if "numpy" in sys.modules else {}
    for variable, value in PINNED.items():
        os.environ.setdefault(variable, value)


def _unlike() -> dict[str, str | None]:
    """Variables of `PINNED` that this process has not, or otherwise."""
    return {
        variable: os.environ.get(variable)
        for variable, value in PINNED.items()
        if os.environ.get(variable) != value
    }


def name() -> str:
    """What records say of this process's arithmetic: `x86-64-v3`, or `other-` and a hash."""
    found = probe()
    return REFERENCE if found == REFERENCE_PROBE else f"other-{found[:8]}"


def check() -> None:
    """Raises UserError where this process would simulate other states than other machines do, for
    a reason that the user can mend. A machine of another kind is no such reason: `name` tells it
    apart, and its rows are never pooled with those of others."""
    if not _is_x86_64():
        return
    missing = [feature for feature in CPU_FEATURES if feature not in _cpu_features()]
    if missing:
        raise UserError(
            f"this processor lacks {' and '.join(missing)}: simulated states would differ from "
            "those of every other machine; use an x86-64-v3 processor (Intel since Haswell, AMD "
            "since Excavator)"
        )
    for variable, value in _unlike().items():
        raise UserError(
            f"{variable}={value}: numpy would compute other states than on other machines; unset "
            f"it, or set it to {PINNED[variable]!r}"
        )
    if _Loaded.too_early:
        settings = " ".join(f"{name}={PINNED[name]!r}" for name in _Loaded.too_early)
        raise UserError(
            "numpy was imported before rsd, and would compute other states than on other machines: "
            f"import rsd first, or start Python with {settings} in its environment"
        )


def _is_x86_64() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


@functools.cache
def _cpu_features() -> frozenset[str]:
    """Flags of the first processor; what cannot be read is taken for granted."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    for line in lines:
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset(CPU_FEATURES)


@functools.cache
def probe() -> str:
    """sha256 hex over matrix products, inverses, eigenvalues and elementary functions of fixed
    numbers, in numpy and in Python (libm): what robosuite's controllers compute with."""
    import numpy as np

    digest = hashlib.sha256()
    for size in range(2, 12):
        draws = _numbers(2 * size * size + size)
        a, b = draws[: 2 * size * size].reshape(2, size, size)
        x = draws[2 * size * size :]
        tall = a[:, : size // 2 + 1]
        symmetric = a @ a.T + np.eye(size)
        for value in (
            a @ b,
            a @ x,
            x @ x,
            tall.T @ b @ tall,
            np.linalg.inv(symmetric),
            np.linalg.pinv(tall),
            np.linalg.solve(symmetric, x),
            np.linalg.eigvalsh(symmetric),
            np.linalg.svd(a, compute_uv=False),
            np.linalg.norm(a),
        ):
            digest.update(np.ascontiguousarray(value).tobytes())
    draws = _numbers(257)
    for function in (np.sin, np.cos, np.tan, np.arcsin, np.arccos, np.arctan, np.exp):
        digest.update(function(draws).tobytes())
    digest.update(np.arctan2(draws[1:], draws[:-1]).tobytes())
    digest.update(np.power(np.abs(draws), 1.7).tobytes())
    digest.update(np.array([draws.sum(), draws.mean(), draws.var()]).tobytes())
    for scalar in (math.sin, math.cos, math.tan, math.asin, math.acos, math.atan, math.exp):
        digest.update(np.array([scalar(number) for number in draws]).tobytes())
    digest.update(np.array([math.log(abs(number)) for number in draws]).tobytes())
    digest.update(np.array([math.atan2(a, b) for a, b in itertools.pairwise(draws)]).tobytes())
    return digest.hexdigest()


def _numbers(count: int) -> np.ndarray:
    """float64 (count,) in (-1, 1), from whole numbers alone (Lehmer's generator, MINSTD)."""
    import numpy as np

    state, numbers = 1, []
    for _ in range(count):
        state = state * 48271 % 2147483647
        numbers.append(2 * state / 2147483647 - 1)
    return np.array(numbers)
