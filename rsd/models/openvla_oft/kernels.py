# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: N803
"""Elementwise work between the matrix products of a Llama layer, fused.

Triton on a GPU, plain torch elsewhere and where Triton does not compile. Both compute in float32
and round once, where transformers' own code rounds after every step; in float32 they agree with it
to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # no GPU build of torch
    triton = None


class Backend:
    """Which implementation runs: `use_triton` is set once, by `probe`."""

    use_triton = False
    reason = "not probed"


def rope_and_store_torch(
    qkv: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, start: int
) -> Tensor:
    """See `rope_and_store`."""
    batch, length = qkv.shape[:2]
    q, k, v = qkv.unbind(2)
    c, s = cos.float()[:, :, None], sin.float()[:, :, None]

    def rotated(x: Tensor) -> Tensor:
        x = x.float()
        first, second = x.chunk(2, dim=-1)
        return (x * c + torch.cat([-second, first], dim=-1) * s).to(qkv.dtype)

    keys[:batch, start : start + length] = rotated(k)
    values[:batch, start : start + length] = v
    return rotated(q)


def silu_mul_torch(gate_up: Tensor) -> Tensor:
    """See `silu_mul`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return (torch.nn.functional.silu(gate.float()) * up.float()).to(gate_up.dtype)


if triton is not None:

    @triton.jit
    def _rope_kernel(
        qkv,
        cos,
        sin,
        out,
        keys,
        values,
        length,
        start,
        cos_batch,
        kv_batch,
        HEADS: tl.constexpr,
        HALF: tl.constexpr,
        GROUP: tl.constexpr,
    ):
        # One program: one position, GROUP heads. Row of qkv: q, k, v, each HEADS x 2 HALF.
        token = tl.program_id(0)
        head = tl.program_id(1) * GROUP + tl.arange(0, GROUP)
        row = (token // length).to(tl.int64)
        position = token % length
        half = tl.arange(0, HALF)
        within = head[:, None] * (2 * HALF) + half[None, :]
        width = HEADS * 2 * HALF
        angle = row * cos_batch + position * 2 * HALF + half
        c = tl.load(cos + angle).to(tl.float32)[None, :]
        s = tl.load(sin + angle).to(tl.float32)[None, :]
        source = qkv + token.to(tl.int64) * 3 * width
        q1 = tl.load(source + within).to(tl.float32)
        q2 = tl.load(source + within + HALF).to(tl.float32)
        target = out + token.to(tl.int64) * width
        kind = out.dtype.element_ty
        tl.store(target + within, (q1 * c - q2 * s).to(kind))
        tl.store(target + within + HALF, (q2 * c + q1 * s).to(kind))
        k1 = tl.load(source + width + within).to(tl.float32)
        k2 = tl.load(source + width + within + HALF).to(tl.float32)
        slot = row * kv_batch + (start + position).to(tl.int64) * width
        tl.store(keys + slot + within, (k1 * c - k2 * s).to(kind))
        tl.store(keys + slot + within + HALF, (k2 * c + k1 * s).to(kind))
        v1 = tl.load(source + 2 * width + within)
        v2 = tl.load(source + 2 * width + within + HALF)
        tl.store(values + slot + within, v1)
        tl.store(values + slot + within + HALF, v2)

    @triton.jit
    def _rms_norm_kernel(x, weight, out, width, epsilon, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        column = tl.arange(0, BLOCK)
        inside = column < width
        value = tl.load(x + row * width + column, mask=inside, other=0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(value * value, axis=0) / width + epsilon)
        w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(
            out + row * width + column, (value * scale * w).to(out.dtype.element_ty), mask=inside
        )

    @triton.jit
    def _silu_mul_kernel(gate_up, out, width, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = column < width
        gate = tl.load(gate_up + row * 2 * width + column, mask=inside).to(tl.float32)
        up = tl.load(gate_up + row * 2 * width + width + column, mask=inside).to(tl.float32)
        value = gate / (1.0 + tl.exp(-gate)) * up
        tl.store(out + row * width + column, value.to(out.dtype.element_ty), mask=inside)


def rope_and_store_triton(
    qkv: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, start: int
) -> Tensor:
    """See `rope_and_store`."""
    batch, length, _, heads, width = qkv.shape
    assert qkv.is_contiguous() and cos.is_contiguous() and sin.is_contiguous()
    assert keys.stride() == values.stride() and keys.stride(1) == heads * width
    out = qkv.new_empty(batch, length, heads, width)
    group = min(8, heads)
    _rope_kernel[(batch * length, heads // group)](
        qkv,
        cos,
        sin,
        out,
        keys,
        values,
        length,
        start,
        0 if len(cos) == 1 else length * width,
        keys.stride(0),
        HEADS=heads,
        HALF=width // 2,
        GROUP=group,
        num_warps=2,
    )
    return out


def silu_mul_triton(gate_up: Tensor) -> Tensor:
    """See `silu_mul`."""
    assert gate_up.is_contiguous()
    width = gate_up.shape[-1] // 2
    out = gate_up.new_empty(*gate_up.shape[:-1], width)
    rows = out.numel() // width
    block = 1024
    _silu_mul_kernel[(rows, triton.cdiv(width, block))](
        gate_up, out, width, BLOCK=block, num_warps=4
    )
    return out


def rms_norm_triton(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """See `rms_norm`."""
    assert x.is_contiguous()
    out, width = torch.empty_like(x), x.shape[-1]
    block = triton.next_power_of_2(width)
    _rms_norm_kernel[(x.numel() // width,)](
        x, weight, out, width, epsilon, BLOCK=block, num_warps=8
    )
    return out


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """(..., W) over its root mean square, times weight (W,)."""
    if Backend.use_triton and x.is_cuda:
        return rms_norm_triton(x, weight, epsilon)
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, epsilon)


def rope_and_store(
    qkv: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, start: int
) -> Tensor:
    """Rotate queries and keys (B, N, 3, heads, E) by cos and sin (B or 1, N, E), whose two halves
    are equal; write keys and values into slots start.. of (B, slots, heads, E); return the queries
    (B, N, heads, E)."""
    if Backend.use_triton and qkv.is_cuda:
        return rope_and_store_triton(qkv, cos, sin, keys, values, start)
    return rope_and_store_torch(qkv, cos, sin, keys, values, start)


def silu_mul(gate_up: Tensor) -> Tensor:
    """(..., 2 I), gate and up side by side -> SiLU(gate) up (..., I)."""
    if Backend.use_triton and gate_up.is_cuda:
        return silu_mul_triton(gate_up)
    return silu_mul_torch(gate_up)


def difference(device: torch.device | str, dtype: torch.dtype) -> float:
    """Largest error of the Triton kernels relative to the largest value, on random numbers."""
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(dtype)

    worst = 0.0
    qkv, angle = random(2, 5, 3, 16, 128), random(1, 5, 64).float().repeat(1, 1, 2)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    stores = [torch.zeros(2, 2, 16, 16, 128, device=device, dtype=dtype) for _ in range(2)]
    ours = rope_and_store_triton(qkv, cos, sin, stores[0][0], stores[0][1], 7)
    theirs = rope_and_store_torch(qkv, cos, sin, stores[1][0], stores[1][1], 7)
    gate_up, x, weight = random(3, 7, 2 * 1500), random(3, 7, 320), random(320)
    pairs = [
        (ours, theirs),
        (stores[0], stores[1]),
        (silu_mul_triton(gate_up), silu_mul_torch(gate_up)),
        (rms_norm_triton(x, weight, 1e-6), torch.nn.functional.rms_norm(x, (320,), weight, 1e-6)),
    ]
    for a, b in pairs:
        gap = (a.float() - b.float()).abs().max() / b.float().abs().max()
        worst = max(worst, float(gap))
    return worst


def probe(device: torch.device | str) -> str:
    """Use Triton where it compiles and computes the same; what was found, in words."""
    Backend.use_triton = False
    if torch.device(device).type != "cuda":
        Backend.reason = "torch: no GPU"
    elif triton is None:
        Backend.reason = "torch: no triton"
    else:
        try:
            gap = difference(device, torch.bfloat16)
        except Exception as error:  # whatever a compiler throws: slower code runs instead
            Backend.reason = f"torch: Triton failed: {type(error).__name__}: {str(error)[:300]}"
        else:
            Backend.use_triton = gap < 0.02
            Backend.reason = f"{'triton' if Backend.use_triton else 'torch'}: error {gap:.1e}"
    return Backend.reason
