"""Each task's episodes are collected with its own parameters, its own task and random numbers of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray

from maml_rl import MAML, MAMLConfig
from maml_rl.envs import make_task_env, runner
from maml_rl.envs.rollout import Phase, rollout, stream
from maml_rl.learning.trajectories import Trajectories
from maml_rl.rllib.dispatch import Block, collect
from maml_rl.rllib.runner_pool import RunnerPool

pytestmark = pytest.mark.usefixtures("local_ray")

TASKS, EPISODES, HORIZON = 7, 3, 5
PHASE = (Phase.ROLLOUT, 4, 1)


def config(num_env_runners: int = 0, env: str = "maml_rl/PointNav-v0") -> MAMLConfig:
    return (
        MAMLConfig()
        .environment(env)
        .env_runners(num_env_runners=num_env_runners)
        .training(
            meta_batch_size=TASKS,
            episodes_per_task=EPISODES,
            horizon=HORIZON,
            hidden_sizes=(6,),
            cg_iterations=2,
        )
    )


@pytest.fixture(scope="module", params=[0, 1, 3])
def algo(request: pytest.FixtureRequest, local_ray: None) -> Iterator[MAML]:
    algo = config(request.param).build_algo()
    yield algo
    algo.stop()


def fetched(blocks: list[Block]) -> list[Trajectories]:
    local = (ray.get(block) if isinstance(block, ray.ObjectRef) else block for _, block in blocks)
    return [trajectories for block in local for trajectories in block]


@pytest.mark.parametrize("shared", [False, True], ids=["adapted parameters", "shared parameters"])
def test_collecting_equals_a_plain_loop_over_tasks(algo: MAML, shared: bool) -> None:
    env = make_task_env("maml_rl/PointNav-v0", EPISODES, HORIZON)
    spec = algo.config.policy_spec(env.single_observation_space, env.single_action_space)
    tasks = np.random.default_rng(0).uniform(-0.5, 0.5, (TASKS, 2))
    each = [{k: v.numpy() for k, v in spec.init_params(0 if shared else i).items()} for i in range(TASKS)]
    stacked = {k: np.stack([p[k] for p in each[: 1 if shared else TASKS]]) for k in each[0]}
    summaries, blocks = collect(
        RunnerPool(algo.env_runner_group), tasks, stacked, seed=9, phase=PHASE, timeout_s=60
    )
    expected = [
        rollout(env, task, spec, params, stream(9, *PHASE, i))
        for i, (task, params) in enumerate(zip(tasks, each, strict=True))
    ]
    found = fetched(blocks)
    assert len(found) == TASKS
    for mine, theirs in zip(found, expected, strict=True):
        for name in ("observations", "actions", "rewards", "lengths"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
    assert [r for s in summaries for (r,) in s.returns] == [t.mean_return for t in expected]
    assert sum(s.env_steps for s in summaries) == sum(t.env_steps for t in expected)


# --- random numbers


def recorded(monkeypatch: pytest.MonkeyPatch, env: str) -> list[tuple[np.ndarray, Trajectories]]:
    """Standardised action noise and episodes of every rollout of two iterations with two inner steps."""
    seen: list[tuple[np.ndarray, Trajectories]] = []
    original = runner.rollout

    def spy(env: Any, task: Any, spec: Any, params: Any, seed: Any, **normalizer: Any) -> Trajectories:
        episodes = original(env, task, spec, params, seed, **normalizer)
        policy = spec.actor(params, len(episodes.rewards))
        means = np.stack([policy(o).copy() for o in episodes.observations.swapaxes(0, 1)], axis=1)
        seen.append(((episodes.actions - means) / spec.head.std(params), episodes))
        return episodes

    monkeypatch.setattr(runner, "rollout", spy)
    algo = config(env=env).training(inner_steps=2, meta_batch_size=3).build_algo()
    for _ in range(2):
        algo.train()
    algo.stop()
    assert len(seen) == 2 * 3 * 3
    return seen


def assert_all_differ(values: np.ndarray) -> None:
    rounded = np.round(values.reshape(len(values), -1), 3)
    assert len(np.unique(rounded, axis=0)) == len(values)


def test_no_two_episodes_share_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over iterations, phases, tasks, and the episodes of a task; of the actions, and of the resets."""
    seen = recorded(monkeypatch, "maml_rl/HalfCheetahVel-v0")
    assert_all_differ(np.concatenate([noise for noise, _ in seen]))
    assert_all_differ(np.concatenate([episodes.observations[:, 0] for _, episodes in seen]))


def test_tasks_differ_between_iterations_and_within_them() -> None:
    algo = config().build_algo()
    drawn = []
    original = algo._collect

    def spy(trials: Any, tasks: np.ndarray, *arguments: Any) -> Any:
        drawn.append(tasks)
        return original(trials, tasks, *arguments)

    algo._collect = spy
    for _ in range(2):
        algo.train()
    algo.stop()
    first, again, second, _ = drawn
    np.testing.assert_array_equal(first, again)  # pre and post data of the same tasks
    assert_all_differ(np.concatenate([first, second]))


def test_resets_and_action_noise_have_random_numbers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_task_env("maml_rl/PointNav-v0", EPISODES, HORIZON)
    seeds: list[Any] = []
    original = env.reset

    def spy(*, seed: Any) -> Any:
        seeds.append(seed)
        return original(seed=seed)

    monkeypatch.setattr(env, "reset", spy)
    spec = config().policy_spec(env.single_observation_space, env.single_action_space)
    params = {name: value.numpy() * 0 for name, value in spec.init_params(0).items()}  # mean 0, deviation 1
    noise = rollout(env, [0.5, 0.5], spec, params, stream(0, 1)).actions
    (seed,) = seeds
    for k in range(EPISODES):
        of_resets = np.random.default_rng(seed + k).standard_normal(noise.shape, np.float32)
        assert not np.isin(np.round(noise, 5), np.round(of_resets, 5)).any()


def test_every_stream_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, over iterations and phases; two requests of one name would be the same numbers twice."""
    asked: list[tuple[Any, ...]] = []
    original = np.random.SeedSequence

    def spy(entropy: Any = None, **kwargs: Any) -> Any:
        if "spawn_key" in kwargs:
            asked.append((entropy, *kwargs["spawn_key"]))
        return original(entropy, **kwargs)

    monkeypatch.setattr(np.random, "SeedSequence", spy)
    algo = config().training(outer_update="ppo", meta_batch_size=3).build_algo()
    for _ in range(2):
        algo.train()
    algo.stop()
    kinds = {key[1] for key in asked}
    assert kinds == {Phase.TASKS, Phase.INIT, Phase.ROLLOUT, Phase.MINIBATCHES}
    assert len(asked) == len(set(asked))
    assert len(asked) == 1 + 2 * (1 + 2 * 3 + 1)


def test_purposes_do_not_share_a_stream() -> None:
    first = [stream(0, phase, 3, 1).generate_state(4) for phase in Phase]
    assert_all_differ(np.array(first))
    assert_all_differ(np.array([stream(seed, 1).generate_state(4) for seed in range(5)]))
    assert_all_differ(
        np.array([stream(0, 1, *key).generate_state(4) for key in ((), (0,), (1,), (0, 0), (0, 1))])
    )
