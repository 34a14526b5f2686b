"""A function of episodes as a CUDA graph: recorded once, then replayed without Python between its kernels.

For models so small that a GPU waits for its next kernel most of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

from supervised.data.episodes import Episodes, Examples

Result = TypeVar("Result")
Record = Callable[[Callable[[], Result]], tuple[Callable[[], None], Result]]
"""Records a function's kernels; returns what replays them and the tensors that every replay overwrites."""

WARM_UPS = 3
"""Calls before the recording, in which libraries choose algorithms and get their memory."""


def record_cuda_graph(function: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
    """Record ``function`` as https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs asks."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()
    return graph.replay, result


class Replayed(Generic[Result]):
    """The same function, recorded at the first call.

    Its results are good until the next call, and episodes must all have the shapes of the first.

    Args:
        function: launches the same kernels at every call and never waits for a number from the device. Parameters
            that it reads may change in place.
    """

    def __init__(
        self, function: Callable[[Episodes], Result], record: Record[Result] = record_cuda_graph
    ) -> None:
        self._function, self._record = function, record
        self._episodes: Episodes | None = None

    def __call__(self, episodes: Episodes) -> Result:
        """The function's result for ``episodes``."""
        if self._episodes is None:
            self._episodes = recorded = Episodes(*(Examples(*(x.clone() for x in part)) for part in episodes))
            self._replay, self._result = self._record(lambda: self._function(recorded))
        for part, new in zip(self._episodes, episodes, strict=True):
            for old, value in zip(part, new, strict=True):
                if old.shape != value.shape:
                    raise ValueError(
                        f"episodes have a tensor {list(value.shape)} where those recorded had {list(old.shape)}; "
                        "with capture_graph all must have the same shapes"
                    )
                old.copy_(value)
        self._replay()
        return self._result
