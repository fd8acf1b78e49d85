"""The GPU's work of a training step, recorded as CUDA graphs and replayed instead of launched kernel by kernel.

A graph repeats the same kernels on the same memory with the same numbers. So all that changes from step to step must
lie in tensors that stay where they are: weights, moments of optimizers, and inputs, into which each batch is copied.
No GPU has confirmed it yet; on a CPU, tests record operators in place of kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Protocol, TypeVar

import torch

from stylegan2_cond.errors import UserError, first_line
from stylegan2_cond.memory import is_out_of_memory

WARM_UP = 3  # steps of each kind before it is recorded, so that libraries, caches and moments have their memory
Content = TypeVar("Content")
Result = TypeVar("Result")


class Graph(Protocol):
    """Recorded work, such as a `torch.cuda.CUDAGraph`."""

    def replay(self) -> None:
        """Do the work again."""

    def pool(self) -> object:
        """Its memory, which another graph may share if only one of them runs at a time."""


class CudaRecorder:
    """Records work on a GPU.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)  # work of the default stream can't be recorded

    def warm_up(self, work: Callable[[], Result]) -> Result:
        """Do the work as usual, on the stream that records it later."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = work()
        current.wait_stream(self.stream)
        return result

    def record(self, work: Callable[[], Result], pool: object) -> tuple[Graph, Result]:
        """Record the work and do it once; returns its graph, and its result, which each replay overwrites.

        Raises:
            UserError: it cannot be recorded.
        """
        graph, mode = torch.cuda.CUDAGraph(), "thread_local"  # other threads may use the GPU meanwhile
        try:
            with torch.cuda.device(self.device):
                with torch.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode=mode):
                    result = work()
                graph.replay()
        except RuntimeError as error:
            cause = error.__context__ or error  # an error in the work breaks the end of the recording too
            if is_out_of_memory(cause):
                raise cause from None
            raise UserError(
                f"A training step can't be recorded as a CUDA graph on {self.device} ({first_line(cause)}). Leave out "
                f"--set cuda_graphs=true, or set cuda_graphs to false in plan.json."
            ) from error
        return graph, result


class StepGraphs:
    """Graphs of the kinds of steps: with and without penalties, and with each set of inputs.

    Args:
        recorder: records work.
    """

    def __init__(self, recorder: CudaRecorder):
        self._recorder = recorder
        self._inputs: dict[str, torch.Tensor] = {}
        self._steps: Counter[tuple] = Counter()
        self._graphs: dict[tuple, tuple[Graph, object]] = {}

    def run(self, kind: object, work: Callable[[Content], Result], batch: Content) -> Result:
        """`work(batch)`, replayed if this kind of work was recorded before.

        Args:
            kind: tells apart work that does different things with the same inputs.
            work: must depend on nothing that changes but tensors that stay where they are.
            batch: tensors in dataclasses and lists; those of a name have the same shape each time.

        Returns:
            The result, which the next call overwrites.
        """
        places = []

        def store(place: str, tensor: torch.Tensor) -> torch.Tensor:
            places.append(place)
            if place not in self._inputs:
                self._inputs[place] = torch.empty_like(tensor)
            return self._inputs[place].copy_(tensor)

        work, kind = partial(work, map_tensors(store, batch)), (kind, *places)
        if kind in self._graphs:
            graph, result = self._graphs[kind]
            graph.replay()
            return result
        self._steps[kind] += 1
        if self._steps[kind] <= WARM_UP:
            return self._recorder.warm_up(work)
        pool = next((graph.pool() for graph, _ in self._graphs.values()), None)
        self._graphs[kind] = self._recorder.record(work, pool)
        return self._graphs[kind][1]

    def clear(self) -> None:
        """Record all graphs again, since tensors moved or numbers changed."""
        self._steps.clear()
        self._graphs.clear()


def map_tensors(function: Callable[[str, torch.Tensor], torch.Tensor], content: Content, place: str = "") -> Content:
    """A copy of nested dataclasses and lists with `function(place, tensor)` instead of each tensor; None stays None."""
    if content is None:
        return None
    if isinstance(content, torch.Tensor):
        return function(place, content)
    if isinstance(content, list):
        return [map_tensors(function, part, f"{place}.{index}") for index, part in enumerate(content)]
    names = [field.name for field in fields(content)]
    return type(content)(*(map_tensors(function, getattr(content, name), f"{place}.{name}") for name in names))
