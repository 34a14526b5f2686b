"""Does it learn, and is it adaptation that helps: on real point navigation, through the whole stack."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maml_rl import MAML
from maml_rl.envs import make_task_env
from maml_rl.envs.rollout import rollout, stream
from maml_rl.experiments.presets import point_nav
from maml_rl.learning.adaptation import adapt_policy
from maml_rl.learning.batch import make_samples
from maml_rl.policies.policy import Params

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("local_ray")]

ITERATIONS = 12


@pytest.fixture(scope="module")
def trained(local_ray: None) -> tuple[MAML, list[dict[str, float]]]:
    config = point_nav().env_runners(num_env_runners=2).training(hidden_sizes=(32, 32), max_kl=0.02)
    algo = config.build_algo()
    results = [algo.train() for _ in range(ITERATIONS)]
    yield algo, results
    algo.stop()


def returns_after_adaptation(algo: MAML, adapt_on_own_task: bool) -> tuple[float, float]:
    """Mean return on 20 held-out goals before and after one step, on the goal's own data or on another's."""
    config = algo.config
    env = make_task_env(config.env, config.episodes_per_task, config.horizon)
    goals = np.random.RandomState(1).uniform(-0.5, 0.5, (20, 2))
    spec = config.policy_spec(env.single_observation_space, env.single_action_space)
    theta = {name: torch.from_numpy(value) for name, value in algo.meta_params().items()}

    def run(params: Params, i: int, phase: int):  # type: ignore[no-untyped-def]
        return rollout(env, goals[i], spec, {k: v.numpy() for k, v in params.items()}, stream(5, phase, i))

    before = [run(theta, i, 0) for i in range(len(goals))]
    # The negative control adapts to the opposite goal's trajectories: as much data, of the wrong task.
    order = np.arange(len(goals))
    if not adapt_on_own_task:
        order = np.array([int(np.argmin(((goals + goal) ** 2).sum(1))) for goal in goals])
    samples = make_samples([before[i] for i in order], gamma=config.gamma, gae_lambda=config.gae_lambda)
    adapted = adapt_policy(spec, theta, [samples], config.inner_lr, first_order=True)
    after = [run({k: v[i].detach() for k, v in adapted.items()}, i, 1) for i in range(len(goals))]
    return (
        float(np.mean([t.mean_return for t in before])),
        float(np.mean([t.mean_return for t in after])),
    )


def test_return_after_adaptation_improves(trained: tuple[MAML, list[dict[str, float]]]) -> None:
    _, results = trained
    assert results[0]["return_post"] < -50
    assert results[-1]["return_post"] > -35
    assert all(result["kl"] <= 0.02 for result in results)


def test_adaptation_helps_on_held_out_goals(trained: tuple[MAML, list[dict[str, float]]]) -> None:
    before, after = returns_after_adaptation(trained[0], adapt_on_own_task=True)
    assert after > before + 8


def test_adapting_on_another_tasks_data_does_not_help(
    trained: tuple[MAML, list[dict[str, float]]],
) -> None:
    before, after = returns_after_adaptation(trained[0], adapt_on_own_task=False)
    assert after < before
