"""The sinusoid tasks, the multi-task baseline, and that MAML learns where pretraining cannot."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from supervised.data.episodes import Purpose, stream
from supervised.data.sinusoid import SinusoidSampler, draw_sinusoids
from supervised.experiments.config import Method
from supervised.experiments.evaluation import STEP_SIZES, evaluate
from supervised.experiments.experiment import Experiment
from supervised.experiments.presets import get_preset
from supervised.learning.losses import mean_squared_error
from supervised.learning.meta_step import Learner, adaptation_curve
from supervised.learning.multi_task import PENALTIES, Penalty, RegressorAveraging
from supervised.models.networks import MLP


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_task_distribution_is_the_papers() -> None:
    tasks = draw_sinusoids(rng(), 20_000)
    assert 0.1 <= tasks.amplitude.min() < 0.11
    assert 4.99 < tasks.amplitude.max() <= 5
    assert tasks.phase.min() < 0.01
    assert math.pi - 0.01 < tasks.phase.max() <= math.pi
    support = SinusoidSampler(10, 10)(rng(), 2000).support
    assert -5 <= support.inputs.min() < -4.99
    assert 4.99 < support.inputs.max() <= 5


def test_targets_are_the_sinusoids_values() -> None:
    episodes = SinusoidSampler(4, 6, tell_task=True)(rng(), 3)
    assert episodes.support.inputs.shape == (3, 4, 3)
    assert episodes.query.inputs.shape == (3, 6, 3)
    for inputs, targets in episodes:
        x, amplitude, phase = inputs.unbind(-1)
        torch.testing.assert_close(targets[..., 0], amplitude * torch.sin(x - phase))
    hidden = SinusoidSampler(4, 6)(rng(), 3)
    assert torch.equal(hidden.query.inputs, episodes.query.inputs[..., :1])


def test_support_and_query_share_no_point() -> None:
    support, query = SinusoidSampler(10, 10)(rng(), 5)
    assert not (support.inputs == query.inputs.mT).any()


# --- methods


def trained(method: str, iterations: int, **settings: object) -> tuple[Experiment, dict[str, torch.Tensor]]:
    config = get_preset("sinusoid", method)  # type: ignore[arg-type]
    config = dataclasses.replace(config, iterations=iterations, **settings)  # type: ignore[arg-type]
    experiment = Experiment(config)
    trainer = experiment.trainer(torch.device("cpu"))
    for _ in range(iterations):
        trainer.step()
    return experiment, trainer.params


def five_shot(method: str, iterations: int, **settings: object) -> np.ndarray:
    experiment, params = trained(method, iterations, **settings)
    row = evaluate(experiment, params, steps=2, episodes=100, seed=0)[0]
    assert row.name == "5-shot"
    return row.values.mean(1)


def test_maml_learns_to_adapt_and_pretraining_does_not() -> None:
    maml, pretrained = (
        five_shot(method, 700, meta_lr=5e-3, inner_lr=0.01) for method in ("maml", "pretrained")
    )
    assert maml[1] < 0.6 * maml[0]
    assert pretrained[1] > 0.8 * pretrained[0]  # the control: the same network, data and updates
    assert maml[1] < 0.7 * pretrained[1]


def test_the_oracles_curve_is_flat_and_low() -> None:
    oracle = five_shot("oracle", 400, meta_lr=5e-3)
    assert oracle[0] == oracle[1] == oracle[2]
    assert oracle[0] < 2  # predicting zero gives 4.3


def test_pretrained_models_are_tested_with_the_best_step_size() -> None:
    experiment, params = trained("pretrained", 50, validation_episodes=200)
    rows = evaluate(experiment, params, steps=2, episodes=50, seed=0)
    assert [row.name for row in rows] == ["5-shot", "10-shot", "20-shot"]
    episodes = SinusoidSampler(5, 100)(stream(0, Purpose.TUNING), 200)
    losses = [
        adaptation_curve(
            dataclasses.replace(experiment.learner, inner_lr=size), params, episodes, 2, 25
        ).losses[1:]
        for size in STEP_SIZES
    ]
    best = np.argmin([float(loss.mean().nan_to_num(math.inf)) for loss in losses])
    assert rows[0].step_size == STEP_SIZES[best]


# --- multi-task


def averaging(
    penalty: Penalty, regularisation: float = 0.0, steps: int = 20, hidden: int = 5, attempts: int = 1
) -> RegressorAveraging:
    settings = dataclasses.replace(get_preset("sinusoid"), meta_batch_size=3, meta_lr=0.01)
    network = MLP((1, hidden, hidden, 1))
    return RegressorAveraging(
        network, mean_squared_error, settings, penalty, regularisation, steps, points=10, attempts=attempts
    )


def test_the_average_is_over_all_regressors() -> None:
    one, two = averaging("none"), averaging("none")
    groups = []
    for i in range(3):
        one.step()
        two.iteration = i
        groups.append(two._train_group()[0])
    for name, value in one.params.items():
        everyone = torch.cat([group[name] for group in groups])
        assert len(everyone) == 9
        torch.testing.assert_close(value, everyone.mean(0))


def test_regressors_learn_their_own_task() -> None:
    untrained = averaging("none", steps=1, hidden=40).step().query_loss
    assert averaging("none", steps=1500, hidden=40).step().query_loss < 0.2 * untrained


def test_regressors_that_failed_start_again_and_the_others_stay() -> None:
    once, often = (averaging("none", steps=150, hidden=40, attempts=n) for n in (1, 4))
    first, errors = once._train_group()
    # Between the errors of the first attempts: some fail, some do not.
    often.tolerance = float(errors.median())
    params, final = often._train_group()
    kept = errors <= often.tolerance
    assert kept.any()
    assert not kept.all()
    assert torch.equal(final[kept], errors[kept])
    assert (final[~kept] < errors[~kept]).all()
    for name, value in params.items():
        assert torch.equal(value[kept], first[name][kept])
        if "weight" in name:
            assert not torch.equal(value[~kept], first[name][~kept])


def test_penalties_pull_where_they_say() -> None:
    def spread(trainer: RegressorAveraging) -> tuple[float, float]:
        trainer.step()
        mean = trainer.params
        regressors, _ = trainer._train_group()
        distance = sum(((regressors[k] - mean[k]) ** 2).sum() for k in mean)
        size = sum((regressors[k] ** 2).sum() for k in mean)
        return float(distance), float(size)

    free, to_zero, to_mean = (spread(averaging(penalty, 1.0, steps=300)) for penalty in PENALTIES.values())
    assert to_zero[1] < 0.2 * free[1]
    assert to_mean[0] < 0.2 * free[0]
    assert to_mean[1] > 2 * to_zero[1]


@pytest.mark.parametrize("method", PENALTIES)
def test_no_average_of_fewer_regressors_can_be_the_best_model(method: Method) -> None:
    config = get_preset("sinusoid", method)
    assert config.validate_every == config.iterations


def test_regressor_averaging_resumes_exactly() -> None:
    whole, first, second = (averaging("to the mean", 0.01) for _ in range(3))
    for _ in range(3):
        whole.step()
    first.step()
    second.load(first.params, first.state(), first.iteration)
    second.step()
    second.step()
    assert all(torch.equal(whole.params[k], second.params[k]) for k in whole.params)


def test_context_vector_changes_nothing_but_the_context() -> None:
    experiment, params = trained("context-vector", 1, context_size=3)
    assert isinstance(experiment.learner, Learner)
    assert params["context"].shape == (3,)
    assert params["dense.0.weight"].shape == (4, 40)


@pytest.mark.slow
def test_maml_reaches_the_papers_error() -> None:
    """Paper, Table 2: 0.67 after one gradient step on five points, after 70,000 iterations."""
    assert five_shot("maml", 20_000)[1] < 0.85
