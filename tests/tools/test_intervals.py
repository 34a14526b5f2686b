"""The 95 % interval of every table, by hand, and that every table prints it."""

from __future__ import annotations

import numpy as np
import pytest

from maml_rl.experiments.evaluation import AdaptationResult
from maml_rl.tools.intervals import (
    bootstrap_interval,
    interquartile_mean,
    interval_95,
    mean,
    with_interval,
)
from maml_rl.views.figures import combine


def test_known_answer() -> None:
    # Mean 2.5, squares 2.25 + 0.25 + 0.25 + 2.25 = 5, s = sqrt(5 / 3), n = 4.
    assert interval_95(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(1.96 * np.sqrt(5 / 3) / 2)
    assert interval_95(np.array([0.0, 2.0])) == pytest.approx(1.96)  # s = sqrt(2)


def test_over_the_last_axis_and_unmoved_by_a_shift() -> None:
    values = np.array([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0], [7.0, 7.0, 7.0, 7.0]])
    one = 1.96 * np.sqrt(5 / 3) / 2
    np.testing.assert_allclose(interval_95(values), [one, 10 * one, 0])
    np.testing.assert_allclose(interval_95(values - 1000), interval_95(values), atol=1e-9)


def test_a_hundredfold_sample_has_a_tenth_of_the_interval() -> None:
    few = np.array([-1.0, 1.0] * 50)
    assert interval_95(np.tile(few, 100)) == pytest.approx(interval_95(few) / 10, rel=0.01)


def test_it_covers_the_mean_in_95_of_100_samples() -> None:
    samples = np.random.default_rng(0).normal(3, 2, (20_000, 40))
    covered = np.abs(samples.mean(1) - 3) < interval_95(samples)
    assert covered.mean() == pytest.approx(0.95, abs=0.012)  # 40 values: slightly below, as Student's t says


def test_of_a_single_value_it_is_not_known() -> None:
    assert np.isnan(interval_95(np.ones((3, 1)))).all()
    assert interval_95(np.ones((3, 1))).shape == (3,)


def test_printed() -> None:
    assert with_interval(-1.234, 0.5678, 2) == "-1.23 ± 0.57"
    assert with_interval(98.7654, 0.04, 1) == "98.8 ± 0.0"
    assert with_interval(3.0, None, 1) == "3.0"


def test_runs_of_a_method_are_averaged_task_by_task_before_the_interval() -> None:
    first, second = np.array([[1.0, 2.0, 3.0, 4.0]] * 2), np.array([[3.0, 4.0, 5.0, 6.0]] * 3)
    curve = combine([AdaptationResult(x).as_dict() for x in (first, second)])
    assert len(curve) == 2, "as many steps as all of them have"
    assert curve[0] == pytest.approx((3.5, 1.96 * np.sqrt(5 / 3) / 2))
    # Tasks on which the runs differ the other way have no spread left.
    assert combine([AdaptationResult(x).as_dict() for x in (first, 5 - first)])[0] == (2.5, 0.0)


def test_the_interquartile_mean_is_that_of_the_middle_half() -> None:
    scores = np.array([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 1000.0]])
    assert interquartile_mean(scores) == 3.5  # of 2, 3, 4, 5
    assert mean(scores) == 127.625
    several = np.stack([scores, scores + 1])
    assert interquartile_mean(several).tolist() == [3.5, 4.5]
    assert mean(several).tolist() == [127.625, 128.625]


def test_the_bootstrap_resamples_runs_within_each_task() -> None:
    tasks = np.array([10.0, 20.0, 30.0, 40.0])
    same = np.stack([tasks, tasks])  # tasks differ, runs do not: nothing is uncertain
    assert bootstrap_interval(same, mean) == (25.0, 25.0)
    low, high = bootstrap_interval(np.stack([tasks - 1, tasks + 1]), mean)
    # Of eight independent draws of -1 or 1 at most one is 1 with probability 9/256 = 3.5 %, none with 0.4 %.
    assert (low, high) == (24.25, 25.75)
    assert bootstrap_interval(np.stack([tasks - 1, tasks + 1]), mean) == (low, high)  # not by chance


def test_the_spread_over_a_single_run_is_not_known() -> None:
    assert np.isnan(bootstrap_interval(np.ones((1, 5)))).all()


def test_the_bootstraps_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        low, high = bootstrap_interval(rng.normal(size=(10, 20)), mean)
        hits += low < 0 < high
    assert 48 <= hits <= 60  # the percentile bootstrap of ten runs is a little narrow
