"""Sums over tasks whose last bit does not depend on which learner computes which part.

A sum of floating-point numbers depends on its order. Here the tasks are the leaves of a binary tree, and the sum of
a node is that of its first half plus that of its second. A learner that holds all tasks of a node hands on one
vector for all of them; chunks, which are computed at once, are nodes, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

Sums = dict[range, Tensor]
"""Sums over the tasks of nodes."""

SHARES = 4
"""No chunk is larger than a quarter of the tasks, so that up to four learners compute what one would."""
SAMPLES_PER_CHUNK = 4000
"""As many as keep the work arrays near a processor's cache."""


@dataclass(frozen=True)
class Share:
    """The tasks of one of several learners.

    Attributes:
        tasks: of all learners.
        own: consecutive ones among them.
        depth: of the nodes that were shared out.
    """

    tasks: range
    own: range
    depth: int

    def chunks(self, samples_per_task: int, *, at_once: bool = False) -> list[range]:
        """The nodes that are computed at once.

        Args:
            samples_per_task: of the task that has most, in all shares. Their number decides, and not the number of
                threads or learners, or results would depend on it.
            at_once: as few as possible: on a GPU.
        """
        if at_once:
            return _nodes(self.tasks, self.own)
        size = max(1, SAMPLES_PER_CHUNK // samples_per_task)
        return [node for node in _split(self.tasks, size, self.depth) if node.start in self.own]

    def summed(self, sums: Mapping[range, Tensor]) -> Sums:
        """From the sums of chunks those of the fewest nodes that make up the share."""
        return {node: total(node, sums) for node in _nodes(self.tasks, self.own)}

    def place(self, node: range) -> slice:
        """Where the tasks of a node lie among the share's own."""
        return slice(node.start - self.own.start, node.stop - self.own.start)


def share_out(tasks: int, learners: int = 1) -> list[Share]:
    """A share for each learner that a task is left for; of the same size if their number is a power of two."""
    everything = range(tasks)
    depth = math.ceil(math.log2(max(SHARES, learners)))
    nodes = _split(everything, tasks, depth)
    learners = min(learners, len(nodes))
    bounds = [nodes[i * len(nodes) // learners].start for i in range(learners)] + [tasks]
    return [Share(everything, range(a, b), depth) for a, b in pairwise(bounds)]


def total(tasks: range, sums: Mapping[range, Tensor]) -> Tensor:
    """The sum over ``tasks``, a node, from the sums of nodes below it."""
    if tasks in sums:
        return sums[tasks]
    first, second = _halves(tasks)
    return total(first, sums) + total(second, sums)


def _halves(node: range) -> tuple[range, range]:
    middle = (node.start + node.stop) // 2
    return range(node.start, middle), range(middle, node.stop)


def _split(node: range, size: int, depth: int) -> list[range]:
    """The nodes below at ``depth``, or further down until they have at most ``size`` tasks."""
    if len(node) == 1 or (depth <= 0 and len(node) <= size):
        return [node]
    first, second = _halves(node)
    return _split(first, size, depth - 1) + _split(second, size, depth - 1)


def _nodes(node: range, part: range) -> list[range]:
    """The largest nodes that make up ``part``."""
    if node.stop <= part.start or part.stop <= node.start:
        return []
    if part.start <= node.start and node.stop <= part.stop:
        return [node]
    first, second = _halves(node)
    return _nodes(first, part) + _nodes(second, part)
