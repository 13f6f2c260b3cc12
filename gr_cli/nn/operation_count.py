"""Floating-point operations of training, counted from the operations that torch executes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class OperationCount:
    """Counts the floating-point operations of a run by phase of training.

    Steps of one kind have the same shapes within a task: the first is counted, all others cost what it did. Work at the
    beginning and the end of a task is counted as it is done.

    What counts: matrix products and convolutions, forward and backward, at two operations per multiplication, and
    decompositions of matrices by their leading term. What does not: element-wise operations, sums, comparisons,
    optimizer steps and random numbers.

        >>> count, layer = OperationCount(), torch.nn.Linear(3, 5)
        >>> for _ in range(10):
        ...     with count.step("solver"):
        ...         _ = layer(torch.zeros(2, 3))
        >>> count.by_phase() == {"solver": 10 * 2 * (2 * 3 * 5)}
        True
    """

    def __init__(self) -> None:
        self._per_step: dict[str, int] = {}  # by kind, in the current task
        self._shared: dict[str, int] = {}  # per step, by phase and name, in the current task; see `shared_work`
        self._totals: dict[str, int] = {}  # by phase, since the beginning of the run

    def begin_task(self) -> None:
        """Count the first step of each kind anew."""
        self._per_step.clear()
        self._shared.clear()

    def step(self, kind: str) -> AbstractContextManager[None]:
        """Count the block, a step of training.

        Args:
            kind: `<phase>` or `<phase>.<variant>`; all steps of a kind cost the same within a task.
        """
        if (operations := self._per_step.get(kind)) is None:
            return self._first_step(kind)
        phase = _phase(kind)
        self._totals[phase] += operations + self._shared.get(phase, 0)
        return nullcontext()

    @contextmanager
    def _first_step(self, kind: str) -> Iterator[None]:
        phase = _phase(kind)
        with _Counter() as counter:
            yield
        self._per_step[kind] = counter.operations
        operations = counter.operations
        for name, (work, steps) in counter.shared.items():
            # Steps of another kind may have done it, before or in the run that this one continues.
            shares = [share for key, share in self._shared.items() if key.partition(".")[2] == name]
            if not shares and steps is None:
                operations += work
            if f"{phase}.{name}" not in self._shared:
                share = shares[0] if shares else work // steps if steps else 0
                self._shared[f"{phase}.{name}"] = share
                self._shared[phase] = self._shared.get(phase, 0) + share
        self._add(phase, operations + self._shared.get(phase, 0))

    @contextmanager
    def once(self, phase: str) -> Iterator[None]:
        """Count the block, which is not repeated."""
        with _Counter() as counter:
            yield
        self._add(phase, counter.operations + sum(work for work, _ in counter.shared.values()))

    def _add(self, phase: str, operations: int) -> None:
        self._totals[phase] = self._totals.get(phase, 0) + operations

    def by_phase(self) -> dict[str, int]:
        """Operations since the beginning of the run, by phase."""
        return dict(self._totals)

    def state_dict(self, run: int = 0, num_runs: int = 1) -> dict[str, dict[str, int]]:
        """The part of one of `num_runs` runs that are trained together, for a checkpoint; the sum of all is exact."""
        return {
            name: {key: (number + run) // num_runs for key, number in counts.items()}
            for name, counts in self._counts.items()
        }

    def load_state_dicts(self, states: Sequence[Mapping[str, Mapping[str, int]]]) -> None:
        """Restore the count from the parts of all runs that are trained together."""
        for name, counts in self._counts.items():
            counts.clear()
            for state in states:
                for key, number in state[name].items():
                    counts[key] = counts.get(key, 0) + number

    @property
    def _counts(self) -> dict[str, dict[str, int]]:
        return {"per_step": self._per_step, "shared": self._shared, "totals": self._totals}


@contextmanager
def shared_work(name: str, steps: int | None) -> Iterator[None]:
    """Mark a block within a step that does work, or uses its result, which other steps use, too.

    Args:
        name: Name of the work, which may be repeated within a task.
        steps: Number of steps that share the work: each step is charged its part. None: all steps of the task, which
            is charged once.
    """
    counter = _active_counter.get()
    if counter is None:
        yield
        return
    before, counter.operations = counter.operations, 0
    yield
    work, _ = counter.shared.get(name, (0, steps))
    counter.shared[name] = work + counter.operations, steps
    counter.operations = before


def _phase(kind: str) -> str:
    return kind.partition(".")[0]


# --- counting

_active_counter: ContextVar[_Counter | None] = ContextVar("active_counter", default=None)


class _Counter(TorchDispatchMode):
    """Sums the operations of what is executed inside its block.

    `torch.utils.flop_counter` does the same for products and convolutions; its import alone takes as long as a hundred
    training steps.

    Attributes:
        operations: Operations of the block, without shared work.
        shared: Operations of shared work, and the number of steps that share it, by name.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler for every mode, which takes a second

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True  # count what a compiled network executes, not its compilation

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0
        self.shared: dict[str, tuple[int, int | None]] = {}

    def __enter__(self) -> _Counter:
        if "torch._dynamo" in sys.modules:
            _exclude_from_compilation()
        self._token = _active_counter.set(self)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        _active_counter.reset(self._token)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if (formula := _formulas().get(function.overloadpacket)) is not None:
            self.operations += formula(result, *args)
        return result


@cache
def _exclude_from_compilation() -> None:
    """Keep the compiler from compiling the counter, where a network is compiled."""
    dispatch = _Counter.__torch_dispatch__
    _Counter.__torch_dispatch__ = torch.compiler.disable(dispatch)  # type: ignore[method-assign]


@cache
def _formulas() -> dict[Any, Callable[..., int]]:
    """Operations by operator, from its result and its arguments."""
    aten = torch.ops.aten
    formulas: dict[Any, Callable[..., int]] = {
        aten.mm: lambda result, a, b: _product(a, b),
        aten.bmm: lambda result, a, b: _product(a, b),
        aten.addmm: lambda result, bias, a, b: _product(a, b),
        aten.baddbmm: lambda result, bias, a, b: _product(a, b),
        aten.convolution: _convolution,
        aten.convolution_backward: _convolution_backward,
        aten._cdist_forward: lambda result, a, b, *_: _distances(a, b),
        aten._euclidean_dist: lambda result, a, b: _distances(a, b),
        aten.linalg_cholesky_ex: lambda result, a, *_: _cubes(a) // 3,
        aten._linalg_eigh: lambda result, a, *_: 9 * _cubes(a),  # to tridiagonal form, and back
        aten._linalg_solve_ex: lambda result, a, b, *_: 2 * _cubes(a) // 3 + 2 * a.shape[-1] * b.numel(),
        aten.linalg_solve_triangular: lambda result, a, b, *_: a.shape[-1] * b.numel(),
        aten.linalg_qr: lambda result, a, *_: 4 * a.numel() * min(a.shape[-2:]) - 4 * _cubes_of_smaller(a) // 3,
        aten._linalg_svd: lambda result, a, *_: 4 * a.numel() * min(a.shape[-2:]) + 22 * _cubes_of_smaller(a),
    }
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        formulas[torch.ops.mkldnn._linear_pointwise] = lambda result, x, weight, *_: 2 * x.numel() * len(weight)
    return formulas


def _product(a: Tensor, b: Tensor) -> int:
    """Operations of a (..., M, K) by b (..., K, N)."""
    return 2 * a.numel() * int(b.shape[-1])


def _distances(a: Tensor, b: Tensor) -> int:
    """Operations of the distances between a (..., M, K) and b (..., N, K)."""
    return 2 * a.numel() * int(b.shape[-2])


def _convolution(result: Tensor, x: Tensor, weight: Tensor, *arguments: Any) -> int:
    """Operations of a convolution of x (B, C, ...) with weights (O, C / groups, ...), or the transposed one."""
    transposed = arguments[4]
    positions = x if transposed else result  # each is multiplied with all weights of its channel
    return 2 * len(positions) * prod(positions.shape[2:]) * weight.numel()


def _convolution_backward(result: object, gradient: Tensor, x: Tensor, weight: Tensor, *arguments: Any) -> int:
    """Operations of the gradients of input and weights, each as many as those of the convolution."""
    transposed, needed = arguments[4], list[bool](arguments[-1])
    return sum(needed[:2]) * _convolution(gradient, x, weight, None, None, None, None, transposed)


def _cubes(a: Tensor) -> int:
    """n^3 of each of the square matrices (..., n, n)."""
    return a.numel() * int(a.shape[-1])


def _cubes_of_smaller(a: Tensor) -> int:
    """min(m, n)^3 of each of the matrices (..., m, n)."""
    cubes: int = prod(a.shape[:-2]) * min(a.shape[-2:]) ** 3
    return cubes
