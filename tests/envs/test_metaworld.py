"""Meta-World through the adapter, against the package itself; skipped where it is not installed."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from maml_rl.cli.app import main
from maml_rl.envs import GymTaskEnv, make_task_env
from maml_rl.envs.offscreen import RenderingError, choose_backend
from maml_rl.experiments.presets import get_experiment
from maml_rl.policies.policy_file import load_policy
from maml_rl.rllib.config import MAMLConfig

PRESETS = ("metaworld-ml1-reach", "metaworld-ml1-push", "metaworld-ml1-pick-place", "metaworld-ml10")


@pytest.fixture(scope="module")
def mw() -> Any:
    """The module under test."""
    pytest.importorskip("metaworld", reason="needs the extra: pip install 'maml-rl[metaworld]'")
    return importlib.import_module("maml_rl.envs.metaworld")


def make(task: str = "reach-v3", episodes: int = 2, horizon: int = 10) -> GymTaskEnv:
    env = make_task_env("maml_rl/MetaWorldML1-v0", episodes, horizon, {"task": task})
    assert isinstance(env, GymTaskEnv)
    return env


def make_ml10(episodes: int = 2, horizon: int = 10) -> GymTaskEnv:
    env = make_task_env("maml_rl/MetaWorldML10-v0", episodes, horizon)
    assert isinstance(env, GymTaskEnv)
    return env


def actions(steps: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (steps, *shape)).astype(np.float32)


def run(env: GymTaskEnv, task: np.ndarray, steps: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Observations ``[steps + 1, episodes, 39]`` and rewards ``[steps, episodes]``."""
    env.set_task(task)
    observations, rewards = [env.reset(seed=0)[0]], []
    for action in actions(steps, env.num_envs, 4):
        observation, reward, *_ = env.step(action)
        observations.append(observation)
        rewards.append(reward)
    return np.stack(observations), np.stack(rewards)


def rows(tasks: np.ndarray) -> set[tuple[float, ...]]:
    return set(map(tuple, tasks))


# --- without the package


@pytest.mark.parametrize("env", ["maml_rl/MetaWorldML1-v0", "maml_rl/MetaWorldML10-v0"])
def test_a_missing_package_is_named_with_its_extra(env: str, without_metaworld: None) -> None:
    with pytest.raises(ValueError, match=r"pip install 'maml-rl\[metaworld\]'"):
        MAMLConfig().environment(env).validate()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_missing_package_ends_the_command_before_anything_starts(
    preset: str, without_metaworld: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    running = ray.is_initialized()
    assert main(["train", preset, "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "pip install 'maml-rl[metaworld]'" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert ray.is_initialized() == running


@pytest.fixture
def without_metaworld(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the package were not installed."""
    monkeypatch.setitem(sys.modules, "metaworld", None)
    monkeypatch.delitem(sys.modules, "maml_rl.envs.metaworld", raising=False)


# --- the environments are the package's


@pytest.mark.parametrize("name", ["reach-v3", "push-v3"])
def test_a_task_equals_the_packages_own(mw: Any, name: str) -> None:
    benchmark = mw.metaworld.ML1(name, seed=mw.GOAL_SEED)
    theirs = benchmark.train_classes[name]()
    theirs.set_task(benchmark.train_tasks[3])
    start, _ = theirs.reset()
    expected = [theirs.step(action) for action in actions(20, 4)]

    ours = mw.MetaWorldEnv(mw.ml1(name))
    ours.set_task(mw._tasks(mw.ml1(name))[0][3])
    np.testing.assert_array_equal(ours.reset(seed=0)[0], start)
    for action, (observation, reward, *_, info) in zip(actions(20, 4), expected, strict=True):
        result = ours.step(action)
        np.testing.assert_array_equal(result[0], observation)
        assert result[1] == reward
        assert result[4]["success"] == info["success"]


@pytest.mark.filterwarnings("ignore:Constant:UserWarning")  # the experts' own, about their large actions
@pytest.mark.parametrize("name", ["reach-v3", "pick-place-v3", "door-open-v3"])
def test_the_packages_scripted_expert_succeeds(mw: Any, name: str) -> None:
    """The weld that moves the hand works on this MuJoCo: without it no object is ever grasped."""
    from metaworld.policies import ENV_POLICY_MAP

    expert = ENV_POLICY_MAP[name]()
    env = mw.MetaWorldEnv(mw.ml1(name))
    env.set_task(mw.held_out_tasks(mw.ml1(name), 1)[0])
    observation, _ = env.reset()
    for _ in range(mw.HORIZON):
        seen = np.concatenate([observation[:-3], env.unwrapped._target_pos])
        observation, *_, info = env.step(np.clip(expert.get_action(seen), -1, 1))
        if info["success"]:
            return
    pytest.fail("500 steps without success")


def test_the_horizon_is_the_packages(mw: Any) -> None:
    assert all(family.max_path_length == mw.HORIZON for family in mw.ALL_V3_ENVIRONMENTS.values())
    assert gymnasium.make_vec("maml_rl/MetaWorldML1-v0", num_envs=1).max_episode_steps == mw.HORIZON


# --- the meta-learning protocol


def test_conformance(mw: Any) -> None:
    env = gymnasium.make_vec("maml_rl/MetaWorldML1-v0", num_envs=2, task="push-v3", max_episode_steps=3)
    assert env.single_observation_space.shape == (39,)
    assert env.single_action_space == gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    first, _ = env.reset(seed=0)
    assert first.dtype == env.observation_space.dtype
    np.testing.assert_array_equal(env.reset(seed=1)[0], first, "a task has one initial state")
    for step, action in enumerate(actions(3, 2, 4)):
        observation, rewards, terminated, truncated, _ = env.step(action)
        assert observation.shape == first.shape
        assert rewards.dtype == np.float64
        assert not terminated.any()
        assert truncated.all() == (step == 2)


def test_the_goal_changes_the_reward_and_nothing_else(mw: Any) -> None:
    env = make("reach-v3")
    one, other = env.sample_tasks(2, np.random.default_rng(0))
    other[:4] = one[:4]  # the same object position
    observations, rewards = run(env, one)
    observations_other, rewards_other = run(env, other)
    np.testing.assert_array_equal(observations, observations_other)
    assert (rewards != rewards_other).all()
    assert (observations[..., -3:] == 0).all(), "the goal is hidden"


@pytest.mark.parametrize("factory", [make, make_ml10])
def test_a_rollout_does_not_depend_on_what_came_before(mw: Any, factory: Any) -> None:
    env = factory()
    tasks = env.sample_tasks(3, np.random.default_rng(0))
    fresh = run(env, tasks[0])
    for task in tasks[1:]:
        assert (run(env, task)[1] != fresh[1]).any()
    for again, before in zip(run(env, tasks[0]), fresh, strict=True):
        np.testing.assert_array_equal(again, before)
    for other, before in zip(run(factory(), tasks[0]), fresh, strict=True):
        np.testing.assert_array_equal(other, before)


def test_pictures(mw: Any) -> None:
    try:
        choose_backend()
    except RenderingError as error:
        pytest.skip(str(error))
    env = make_task_env("maml_rl/MetaWorldML10-v0", 1, 5, render_mode="rgb_array")
    env.render_size = (120, 90)
    pictures = []
    for task in env.sample_tasks(2, np.random.default_rng(0)):  # of two families
        env.set_task(task)
        env.reset(seed=0)
        pictures.extend(env.render() or ())
    env.close()
    assert [picture.shape for picture in pictures] == [(90, 120, 3)] * 2
    assert (pictures[0] != pictures[1]).any()


def test_a_task_is_described_by_family_and_goal(mw: Any) -> None:
    env = make_task_env("maml_rl/MetaWorldML10-v0", 1, 5, {})
    task = np.array([mw.FAMILIES.index("door-close-v3"), 0.008, 0.891, 0.15, 0, 0, 0])
    env.set_task(task[: 1 + mw.GOAL_SIZE])
    assert env.describe_task() == "door-close-v3 (0.01, 0.89, 0.15)"


def test_ml1_keeps_training_and_held_out_goals_apart(mw: Any) -> None:
    env = make("push-v3", episodes=1)
    seen = rows(env.sample_tasks(1000, np.random.default_rng(0)))
    held_out = mw.held_out_tasks(mw.ml1("push-v3"), 50)
    assert len(seen) == len(rows(held_out)) == 50
    assert not seen & rows(held_out)
    assert len(rows(env.sample_tasks(50, np.random.default_rng(1)))) == 50, "no goal twice before all"


def test_ml10_keeps_families_apart_and_deals_them_evenly(mw: Any) -> None:
    env = make_ml10(episodes=1)
    tasks = env.sample_tasks(20, np.random.default_rng(0))
    families, counts = np.unique(tasks[:, 0], return_counts=True)
    assert {mw.FAMILIES[int(family)] for family in families} == set(mw.ML10_V3["train"])
    assert (counts == 2).all()
    assert len(np.unique(env.sample_tasks(7, np.random.default_rng(0))[:, 0])) == 7
    held_out = mw.held_out_tasks(mw.ML10, 10)
    families, counts = np.unique(held_out[:, 0], return_counts=True)
    assert {mw.FAMILIES[int(family)] for family in families} == set(mw.ML10_V3["test"])
    assert (counts == 10).all()
    assert len(rows(held_out)) == 50
    for task in (*tasks[:10], *held_out[::10]):
        env.set_task(task)
    assert env.sample_tasks(0, np.random.default_rng(0)).shape == (0, 7)


def test_families_of_ones_own_choice(mw: Any) -> None:
    given = {"train": ["reach-v3", "push-v3"], "test": ["push-v3", "door-open-v3"]}
    env = make_task_env("maml_rl/MetaWorldFamilies-v0", 2, 5, given)
    benchmark = mw.benchmark_of("maml_rl/MetaWorldFamilies-v0", given)
    tasks = env.sample_tasks(100, np.random.default_rng(0))
    assert {mw.family_of(task) for task in tasks} == {"reach-v3", "push-v3"}
    held_out = mw.held_out_tasks(benchmark, 50)
    assert sorted({mw.family_of(task) for task in held_out}) == ["door-open-v3", "push-v3"]
    assert not rows(tasks) & rows(held_out), "of a family in both other goals are held out"
    starts = []
    for task in (tasks[0], held_out[0], tasks[0]):
        env.set_task(task)
        starts.append(env.reset(seed=0)[0])
    np.testing.assert_array_equal(starts[0], starts[2])
    assert (starts[0] != starts[1]).any()
    assert mw.benchmark_of("maml_rl/MetaWorldFamilies-v0", {"train": ["reach-v3"]}).test == ("reach-v3",)


@pytest.mark.slow
def test_ml45_keeps_families_apart(mw: Any) -> None:
    env = make_task_env("maml_rl/MetaWorldML45-v0", 1, 5)
    tasks = env.sample_tasks(90, np.random.default_rng(0))
    families, counts = np.unique(tasks[:, 0], return_counts=True)
    assert {mw.FAMILIES[int(family)] for family in families} == set(mw.ML45_V3["train"])
    assert (counts == 2).all()
    held_out = mw.held_out_tasks(mw.ML45, 10)
    assert {mw.family_of(task) for task in held_out} == set(mw.ML45_V3["test"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": []}, "train is \\[\\]; it must name at least one family"),
        ({"train": "reach-v3"}, "train is 'reach-v3'; it must be a list of families"),
        ({"train": 3}, "train is 3; it must be a list of families"),
        ({"train": [["reach-v3"]]}, "train holds \\['reach-v3'\\].*; it must be one of: assembly-v3"),
        (
            {"train": ["reach-v3"], "test": ["reach-v9"]},
            "test holds 'reach-v9' \\(did you mean 'reach-v3'\\?\\); it must be one of: assembly-v3",
        ),
    ],
)
def test_families_that_are_none_are_refused(mw: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task_env("maml_rl/MetaWorldFamilies-v0", 1, 5, given)


@pytest.mark.system
def test_success_is_told_by_family(mw: Any, tmp_path: Path) -> None:
    """Of reach the goal may be met by accident, of the other family never."""
    run = tmp_path / "run"
    tiny = ("--meta-batch-size", 2, "--episodes-per-task", 2, "--horizon", 20, "--cg-iterations", 2)
    families = ("--env-config", "train", '["reach-v3"]', "test", '["reach-v3", "push-v3"]')
    arguments = ("--num-env-runners", 0, "--iterations", 1, "--output", run)
    trained = maml_rl("train", "metaworld-families", *tiny, *families, *arguments)
    assert trained.returncode == 0, trained.stderr
    given = ("--episodes", 2, "--steps", 1, "--num-workers", 0)
    assert main(["evaluate", str(run), *map(str, given)]) == 0
    result = json.loads((run / "adaptation.json").read_text())
    assert sorted(set(result["groups"])) == ["push-v3", "reach-v3"]
    assert np.shape(result["success"]) == (2, 20)
    printed = maml_rl("evaluate", run, *given, "--deterministic")
    assert printed.returncode == 0, printed.stderr
    for line in (
        "| push-v3 success in percent | 0.00",
        "| reach-v3 | ",
        "2 episodes per step of mean actions",
    ):
        assert line in printed.stdout
    assert json.loads((run / "adaptation.json").read_text())["deterministic"]
    assert main(["plot", str(run)]) == 0
    assert (run / "success_by_family_maml.png").stat().st_size > 5000


def test_tasks_are_a_function_of_the_generator(mw: Any) -> None:
    first, again, other = (make().sample_tasks(20, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


# --- wrong input


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ([0] * 6, "it must be 7 numbers"),
        (["push-v3", 0, 0.6, 0.02, 0, 0.8, 0.1], r"the first one of {\d+: 'reach-v3'}"),
        ([0.5, 0, 0.6, 0.02, 0, 0.8, 0.1], r"the first one of {\d+: 'reach-v3'}"),
        (["reach-v3", 0, 0.6, 0.02, 0, 9.0, 0.1], r"goal of reach-v3 is .*; it must be in Box"),
        (["door-open-v3", 0.05, 0.9, 0.15, 0, 0, 1], "zeros behind it"),  # it places only the door
    ],
)
def test_a_task_of_no_benchmark_is_refused(mw: Any, task: list[Any], message: str) -> None:
    env = mw.MetaWorldEnv(mw.ml1("door-open-v3" if task[0] == "door-open-v3" else "reach-v3"))
    row = [mw.FAMILIES.index(task[0]) if isinstance(task[0], str) else task[0], *task[1:]]
    with pytest.raises(ValueError, match=message):
        env.set_task(np.array(row))


def test_an_unknown_family_is_refused(mw: Any) -> None:
    with pytest.raises(
        ValueError, match=r"task is 'reach-v9' \(did you mean 'reach-v3'\?\); it must be one of: "
    ):
        make("reach-v9")


# --- presets and command line


def maml_rl(*arguments: Any, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with a Ray of its own."""
    command = [sys.executable, "-m", "maml_rl", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_run_on_held_out_tasks(mw: Any, preset: str) -> None:
    experiment = get_experiment(preset)
    config = experiment.make_config()
    config.validate()
    env = make_task_env(config.env, 1, config.horizon, dict(config.env_config))
    assert experiment.test_tasks is not None
    tasks = experiment.test_tasks(config.env, config.env_config)
    assert len(rows(tasks)) == 50
    assert not rows(tasks) & rows(env.sample_tasks(500, np.random.default_rng(0)))
    for task in tasks[::10]:
        env.set_task(task)


@pytest.mark.system
def test_train_and_evaluate(mw: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny = ("--meta-batch-size", 2, "--episodes-per-task", 2, "--horizon", 10, "--cg-iterations", 2)
    arguments = ("--num-env-runners", 1, "--iterations", 1, "--output", run)
    trained = maml_rl("train", "metaworld-ml1-reach", *tiny, *arguments)
    assert trained.returncode == 0, trained.stderr
    assert "iteration 1/1: return" in trained.stderr
    evaluated = maml_rl("evaluate", run, "--episodes", 1, "--steps", 1, "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    result = json.loads(evaluated.stdout)
    assert result["tasks"] == 50
    assert all(0 < value < 10 * 10 for row in result["returns"] for value in row), "at most 10 a step"


@pytest.mark.system
@pytest.mark.usefixtures("local_ray")
def test_a_guided_policy_imitates_one_that_is_told_family_and_goal(mw: Any, tmp_path: Path) -> None:
    tiny = [
        "--meta-batch-size",
        "2",
        "--episodes-per-task",
        "2",
        "--horizon",
        "10",
        "--cg-iterations",
        "2",
        "--iterations",
        "1",
    ]
    for method, more in (("oracle", []), ("guided", ["--expert", str(tmp_path / "oracle")])):
        arguments = ["--method", method, *more, "--num-env-runners", "0", "--output", str(tmp_path / method)]
        assert main(["train", "metaworld-ml1-reach", *arguments, *tiny]) == 0
    policies = [load_policy(tmp_path / method / "policy.safetensors") for method in ("oracle", "guided")]
    assert [policy.spec.observation_size for policy in policies] == [39 + 7, 39]


@pytest.mark.slow
def test_reach_is_learned(mw: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = ("--meta-batch-size", 10, "--episodes-per-task", 5, "--horizon", 100)
    arguments = ("--iterations", 6, "--num-env-runners", 0, "--output", run)
    result = maml_rl("train", "metaworld-ml1-reach", *small, *arguments, timeout=1800)
    assert result.returncode == 0, result.stderr
    table = np.genfromtxt(run / "progress.csv", delimiter=",", names=True)
    for name in ("return_pre", "return_post"):
        assert table[name][-3:].mean() > 1.5 * table[name][0], name
    assert (table["return_post"] > table["return_pre"]).all(), "one gradient step finds the goal better"
