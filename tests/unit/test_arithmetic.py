"""The pinned arithmetic: that it is the recorded one, and that what would change it is found."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rsd import arithmetic
from rsd.errors import UserError

NAME = "import rsd; from rsd import arithmetic; print(arithmetic.name())"
CHECK = "from rsd import arithmetic; arithmetic.check(); print('fine')"


def in_a_process(code: str, **variables: str) -> str:
    """What a fresh interpreter prints, or says last; without the variables of this process."""
    inherited = {k: v for k, v in os.environ.items() if k not in arithmetic.PINNED}
    done = subprocess.run(
        [sys.executable, "-c", code], env=inherited | variables, capture_output=True, text=True
    )
    return (done.stdout or done.stderr).strip().splitlines()[-1]


def test_this_machine_computes_as_records_say() -> None:
    """On x86-64 with AVX2 and FMA; elsewhere the name says that it is another arithmetic."""
    assert arithmetic.name() == arithmetic.REFERENCE


@pytest.mark.parametrize(
    "variables",
    [
        {"OPENBLAS_NUM_THREADS": "1"},
        {"NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"},  # down to SSE4
        {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL"},
        {"MKL_CBWR": "COMPATIBLE"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_the_arithmetic_of_emulated_machines_is_the_same(variables: dict[str, str]) -> None:
    assert in_a_process(NAME, **variables) == arithmetic.REFERENCE


@pytest.mark.parametrize(
    "variables",
    [
        {"OPENBLAS_CORETYPE": "Sandybridge"},
        {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA"},  # a libm without fused multiply-add
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_negative_control_another_arithmetic_has_another_name(variables: dict[str, str]) -> None:
    assert in_a_process(NAME, **variables).startswith("other-")


def test_chosen_kernels_are_refused_by_name() -> None:
    said = in_a_process(CHECK, OPENBLAS_CORETYPE="SkylakeX")
    assert "OPENBLAS_CORETYPE=SkylakeX" in said and "'Haswell'" in said


def test_numpy_before_rsd_is_refused_and_the_way_out_named() -> None:
    said = in_a_process("import numpy; " + CHECK)
    assert "numpy was imported before rsd" in said and "OPENBLAS_CORETYPE='Haswell'" in said
    assert in_a_process("import numpy; " + CHECK, **arithmetic.PINNED) == "fine"


def test_importing_rsd_first_is_enough() -> None:
    assert in_a_process(f"import rsd, numpy; {CHECK}") == "fine"


def test_a_processor_without_fma_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "_cpu_features", lambda: frozenset({"avx2"}))
    with pytest.raises(UserError, match="this processor lacks fma"):
        arithmetic.check()
