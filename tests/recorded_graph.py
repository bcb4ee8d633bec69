"""A recording of operations of torch on the CPU, which does them again in the same memory, as a graph of a GPU does.

What a GPU records is not done meanwhile, so results are full of nan until the first replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class RecordedGraph:
    """In place of torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self._recorder = _Recorder()

    @contextmanager
    def recording(self) -> Iterator[None]:
        with self._recorder:
            yield
        for _, arguments, result in self._recorder.calls:
            places = {tensor.untyped_storage().data_ptr() for tensor in _tensors(arguments)}
            for tensor in _tensors(result):
                if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in places:
                    tensor.data.fill_(torch.nan)  # behind the back of autograd, as a device does

    def replay(self) -> None:
        with torch.no_grad():
            for call, arguments, result in self._recorder.calls:
                again = call(*arguments[0], **arguments[1])
                for old, new in zip(_tensors(result), _tensors(again), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.data.copy_(new)


class EagerRecording:
    """A Recording on the CPU."""

    def warm_up(self, work: Callable[[], None]) -> None:
        work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = RecordedGraph()
        with graph.recording():
            work()
        return graph.replay


class _Recorder(TorchDispatchMode):
    """Notes every operation that is not a view, with its arguments and its result."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Callable[..., Any], tuple[Any, dict[str, Any]], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.calls.append((func, (args, kwargs or {}), result))
        return result


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
