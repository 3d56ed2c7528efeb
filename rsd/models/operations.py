"""Operations that a call of torch dispatches: counted, and timed one by one to know what this
machine takes for FLOP, bytes and a dispatch (rsd/models/costs.py)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from rsd.models.costs import Cost, Device

_OF_OTHERS = torch._C.DispatchKey.CompositeImplicitAutograd

Kind = tuple[Any, ...]  # which operation, and shapes and types of its tensors


@dataclass(frozen=True)
class Operation:
    """A dispatched one, with what it was called on."""

    cost: Cost
    again: Callable[[], object]  # the same once more


class Operations(TorchDispatchMode):
    """Counts, while it is entered, what is dispatched: `kinds` in order, and of each kind its first
    `operation`.

    What torch puts together of other operations is taken apart as far as those that compute; views
    count as dispatches of no work. FLOP are torch's own formulas (`torch.utils.flop_counter`), in
    double precision two of each; bytes are those of all tensors read and written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kinds: list[Kind] = []
        self.operations: dict[Kind, Operation] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _OF_OTHERS):
            with self:  # not by `decompose`, whose dropout copies where torch's own does nothing
                return func._op_dk(_OF_OTHERS, *args, **kwargs)
        kept = _copied(func, args, kwargs)
        result = func(*args, **kwargs)
        tensors = [each for each in pytree.tree_leaves((args, kwargs, result)) if _is(each)]
        kind = (func, *((tuple(each.shape), each.dtype) for each in tensors))
        self.kinds.append(kind)
        if kind not in self.operations:
            cost = _cost(func, args, kwargs, result, tensors)
            self.operations[kind] = Operation(cost, lambda: func(*kept[0], **kept[1]))
        return result


def _is(value: object) -> bool:
    return isinstance(value, Tensor)


def _copied(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Arguments to call it with later: what it changes is not the model's."""
    if not func._schema.is_mutable:
        return args, kwargs
    copies: Any = pytree.tree_map_only(Tensor, lambda each: each.clone(), (args, kwargs))
    return copies


def _cost(func: Any, args: Any, kwargs: Any, result: Any, tensors: Sequence[Tensor]) -> Cost:
    if func.is_view:
        return Cost(dispatches=1)
    formula = flop_registry.get(func._overloadpacket)
    flops = formula(*args, **kwargs, out_val=result) if formula else 0
    double = any(each.dtype == torch.float64 for each in tensors)
    nbytes = sum(each.numel() * each.element_size() for each in tensors)
    return Cost((1 + double) * flops, nbytes, 1)


class Primitives:
    """The operations of some calls by themselves: `take_turn` times each once, between other things
    that are timed, so that a noisy machine hits both alike; `device` is what came out. Processor
    time: short calls are seldom interrupted, long ones on a busy machine always."""

    def __init__(self, operations: Mapping[Kind, Operation], kinds: Iterable[Kind]) -> None:
        """`kinds` weigh as often as they are named."""
        count = Counter(kinds)
        self._operations = [operations[kind] for kind in count]
        self._weights = np.array([count[kind] for kind in count], float)
        self._turns: list[list[float]] = []  # seconds of nothing, then of each operation

    @torch.inference_mode()
    def take_turn(self) -> None:
        """Once each."""
        seconds = []
        for again in (_nothing, *(each.again for each in self._operations)):
            started = time.process_time()
            again()
            seconds.append(time.process_time() - started)
        self._turns.append(seconds)

    def device(self, name: str) -> Device:
        """Raises ValueError before the first turn."""
        if not self._turns:
            raise ValueError("nothing was timed yet")
        nothing, *medians = np.median(self._turns, axis=0)  # the clock takes a microsecond, too
        costs = [operation.cost for operation in self._operations]
        return fitted(name, costs, np.maximum(np.array(medians) - nothing, 0), self._weights)


def _nothing() -> None:
    """Takes the time of a clock."""


def fitted(name: str, costs: Sequence[Cost], seconds: np.ndarray, weights: np.ndarray) -> Device:
    """The rates by which calls of these costs take those seconds, as nearly as three numbers can.

    Poisson deviance: errors count in proportion, and the weighted sum of all seconds is met.
    """
    flops, nbytes, dispatches = (
        np.array([getattr(cost, field) for cost in costs])
        for field in ("flops", "bytes", "dispatches")
    )
    scale = float(weights @ seconds)

    def predicted(logs: np.ndarray) -> np.ndarray:
        rate, bandwidth, dispatch_s = np.exp(logs)
        return np.maximum(flops / rate, nbytes / bandwidth) + dispatches * dispatch_s

    def deviance(logs: np.ndarray) -> float:
        found = predicted(logs)
        return float(weights @ (found - seconds * np.log(found))) / scale

    start = np.log([5e10, 1e10, float(np.median(seconds))])
    found = minimize(deviance, start, method="Nelder-Mead", options={"maxiter": 2000})
    return Device(name, *np.exp(found.x).tolist())
