"""Tasks shared out among learners: every task once, and sums that do not depend on their number."""

from __future__ import annotations

import pytest
import torch

from maml_rl.learning import task_tree
from maml_rl.learning.task_tree import share_out, total


@pytest.mark.parametrize("tasks", [1, 2, 3, 4, 5, 7, 10, 20, 40])
@pytest.mark.parametrize("learners", [1, 2, 3, 4, 8, 50])
def test_every_task_is_one_learners(tasks: int, learners: int) -> None:
    shares = share_out(tasks, learners)
    assert [task for share in shares for task in share.own] == list(range(tasks))
    assert all(share.own for share in shares)
    assert len(shares) == min(tasks, learners)
    sizes = [len(share.own) for share in shares]
    if learners in (1, 2, 4, 8):
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("samples", [10, 1000, 3000, 10**6])
@pytest.mark.parametrize("learners", [1, 2, 3, 4])
def test_chunks_make_up_a_share(learners: int, samples: int, at_once: bool) -> None:
    for share in share_out(20, learners):
        chunks = share.chunks(samples, at_once=at_once)
        assert [task for chunk in chunks for task in chunk] == list(share.own)
        if not at_once:
            assert max(map(len, chunks)) <= max(1, 4000 // samples)
        if at_once and learners != 3:
            assert chunks == [share.own]
        for chunk in chunks:
            assert list(share.own)[share.place(chunk)] == list(chunk)


@pytest.mark.parametrize("samples", [10, 1000, 3000])
@pytest.mark.parametrize("tasks", [5, 20, 37])
def test_chunks_and_sums_do_not_depend_on_the_number_of_learners(tasks: int, samples: int) -> None:
    values = torch.randn(tasks, 7, generator=torch.Generator().manual_seed(0))
    found = []
    for learners in (1, 2, 3, 4):
        shares = share_out(tasks, learners)
        sums: task_tree.Sums = {}
        for share in shares:
            told = share.summed({chunk: values[list(chunk)].sum(0) for chunk in share.chunks(samples)})
            if learners != 3:
                assert list(told) == [share.own]  # one vector
            sums |= told
        found.append((total(range(tasks), sums), [c for share in shares for c in share.chunks(samples)]))
    for value, chunks in found[1:]:
        assert torch.equal(value, found[0][0])
        assert chunks == found[0][1]
    torch.testing.assert_close(found[0][0], values.sum(0))


def test_the_order_of_a_sum_does_matter() -> None:
    """Negative control: added up one after the other, the same numbers give another last bit."""
    values = torch.randn(37, 100, generator=torch.Generator().manual_seed(0))
    one_by_one = torch.zeros(100)
    for value in values:
        one_by_one = one_by_one + value
    tree = total(range(37), {range(i, i + 1): value for i, value in enumerate(values)})
    assert not torch.equal(tree, one_by_one)


def test_more_learners_than_four_are_possible() -> None:
    values = torch.arange(16.0)[:, None]
    sums: task_tree.Sums = {}
    for share in share_out(16, 16):
        sums |= share.summed({chunk: values[list(chunk)].sum(0) for chunk in share.chunks(1)})
    assert len(sums) == 16
    assert total(range(16), sums) == 120
