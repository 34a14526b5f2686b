"""A user's own environment as a task family, and what is said when it breaks the interface."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from gymnasium.vector import AutoresetMode

from maml_rl.envs.gym_adapter import GymTaskEnv, UserEnvError


class HeavyPendulum(PendulumEnv):
    """Pendulum whose mass is the task; each episode starts hanging at a random angle."""

    task_space = gymnasium.spaces.Box(0.5, 2.0, (), np.float64)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(0.5, 2.0, n)

    def set_task(self, task: float) -> None:
        self.m = float(task)


class Toy(gymnasium.Env[Any, Any]):
    """Reward: action times the task's gain. ``replies`` overrides what a method returns, or raises it."""

    observation_space: Any = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space: Any = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    replies: ClassVar[dict[str, Any]] = {}

    def __init__(self, **replies: Any) -> None:
        self.replies = replies
        self.gain = 0.0
        for name in ("observation_space", "action_space", "task_space"):
            if name in replies:
                setattr(self, name, replies[name])

    def reply(self, method: str, usual: Any) -> Any:
        reply = self.replies.get(method, usual)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        return self.reply("sample_tasks", [{"gain": g} for g in rng.uniform(1, 2, n)])

    def set_task(self, task: dict[str, float]) -> None:
        self.gain = self.reply("set_task", task)["gain"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self.reply("reset", (np.full(2, self.np_random.uniform(), np.float32), {}))

    def step(self, action: np.ndarray) -> Any:
        self.time += 1
        usual = [np.full(2, self.time / 10, np.float32), self.gain * float(action[0]), False, False, {}]
        for i, name in enumerate(("observation", "reward", "terminated", "truncated")):
            usual[i] = self.replies.get(name, usual[i])
        return self.reply("step", tuple(usual))


def make(env: Any = Toy, num_envs: int = 2, **kwargs: Any) -> GymTaskEnv:
    mode = {"max_episode_steps": 5, "autoreset_mode": AutoresetMode.DISABLED}
    return GymTaskEnv(num_envs, env=env, **(mode | kwargs))


def toy(**replies: Any) -> GymTaskEnv:
    return make(env_kwargs=replies)


def run(env: GymTaskEnv, steps: int = 5) -> tuple[np.ndarray, ...]:
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, *env.action_space.shape))
    return tuple(np.stack(x) for x in zip(*(env.step(a)[:4] for a in actions), strict=True))


def reset_and_step(env: GymTaskEnv) -> None:
    env.reset(seed=0)
    env.step(np.zeros(env.action_space.shape))


# --- a good environment


def test_conformance() -> None:
    env = make(HeavyPendulum, 3)
    tasks = env.sample_tasks(4, np.random.default_rng(0))
    assert tasks.shape == (4,)
    results = []
    for task in (tasks[0], tasks[0], 2.0):
        env.set_task(task)
        start, _ = env.reset(seed=5)
        assert start in env.observation_space
        results.append([start, *run(env)])
    for first, second in zip(results[0], results[1], strict=True):
        np.testing.assert_array_equal(first, second)
    assert (results[0][1] != results[2][1]).any()
    truncated = results[0][4]
    assert not truncated[:4].any()
    assert truncated[4].all(), "an environment that never ends is truncated at the horizon"


def test_a_batch_equals_single_runs() -> None:
    batch = make(HeavyPendulum, 3)
    batch.set_task(1.5)
    start, _ = batch.reset(seed=5)
    observations, rewards, *_ = run(batch)
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 3, 1))
    for k in range(3):
        single = make(HeavyPendulum, 1)
        single.set_task(1.5)
        np.testing.assert_array_equal(single.reset(seed=5 + k)[0][0], start[k])
        for t in range(5):
            observation, reward, *_ = single.step(actions[t, k : k + 1])
            np.testing.assert_array_equal(observation[0], observations[t, k])
            assert reward[0] == rewards[t, k]


def test_tasks_may_be_any_objects() -> None:
    env = make()
    tasks = env.sample_tasks(3, np.random.default_rng(0))
    assert tasks.shape == (3,)
    env.set_task(tasks[1])
    env.reset(seed=0)
    _, rewards, *_ = env.step(np.ones((2, 1)))
    np.testing.assert_array_equal(rewards, tasks[1]["gain"])


@pytest.mark.parametrize("flag", ["terminated", "truncated"])
def test_an_ended_copy_is_left_alone(flag: str) -> None:
    env = toy(**{flag: True})
    env.reset(seed=0)
    observations, rewards, terminated, truncated = run(env, 3)
    assert terminated.all()
    assert not truncated.any()
    np.testing.assert_array_equal(observations[1:], observations[[0, 0]])
    assert (rewards[1:] == 0).all()


@pytest.mark.parametrize(
    "name", [f"{__name__}:HeavyPendulum", "HeavyPendulum-v0", f"{__name__}:HeavyPendulum-v0"]
)
def test_names(name: str) -> None:
    gymnasium.register("HeavyPendulum-v0", HeavyPendulum, max_episode_steps=2)
    try:
        env = make(name)
        env.set_task(1.0)
        env.reset(seed=0)
        assert not run(env, 4)[2].any(), "the horizon replaces the registered time limit"
    finally:
        del gymnasium.registry["HeavyPendulum-v0"]


def test_closes_its_instances() -> None:
    env = make()
    closed = []
    for instance in env._envs:
        instance.close = lambda instance=instance: closed.append(instance)  # type: ignore[method-assign,misc]
    env.close()
    assert closed == env._envs


# --- broken environments: the message names the environment and the method


@pytest.mark.parametrize("method", ["sample_tasks", "set_task"])
def test_missing_method(method: str) -> None:
    broken = type("Broken", (Toy,), {method: None})
    with pytest.raises(UserEnvError, match=rf"Broken\.{method}: is missing"):
        make(broken)


@pytest.mark.parametrize("name", ["no.such.module:Env", "faulty_envs:Missing", "Missing-v0"])
def test_unknown_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"environment is '{name}'"):
        make(name)


def test_something_else_than_an_environment() -> None:
    with pytest.raises(UserEnvError, match=r"dict\.__init__: made a dict, which is not a gymnasium\.Env"):
        make(dict)


def test_instances_with_different_spaces() -> None:
    sizes = iter((2, 3))

    def factory() -> Toy:
        return Toy(observation_space=gymnasium.spaces.Box(-1, 1, (next(sizes),)))

    with pytest.raises(UserEnvError, match=r"factory\.observation_space: differs between two instances"):
        make(factory)


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        (
            {"observation_space": gymnasium.spaces.Text(3)},
            "observation_space: is Text.* it must be a Box, Disc",
        ),
        (
            {"observation_space": gymnasium.spaces.Dict(a=gymnasium.spaces.Text(3))},
            r"observation_space: \['a'\] is Text",
        ),
        ({"observation_space": gymnasium.spaces.Dict()}, "observation_space: .* at least one space"),
        ({"action_space": gymnasium.spaces.Text(3)}, "action_space: is Text"),
        ({"action_space": gymnasium.spaces.Box(0, 3, (1,), np.int32)}, "action_space: .* Box of floating"),
        ({"task_space": 3}, "task_space: is 3; it must be a gymnasium.Space"),
    ],
)
def test_spaces_that_cannot_be_used(replies: dict[str, Any], message: str) -> None:
    with pytest.raises(UserEnvError, match=rf"Toy\.{message}" if ":" in message else message):
        toy(**replies)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ([1.0], "returned 1 tasks where 3 were asked for"),
        (np.zeros((2, 4)), "returned 2 tasks where 3 were asked for"),
        (None, "returned None, not a sequence"),
        (KeyError("boom"), "raised KeyError: 'boom'"),
    ],
)
def test_bad_tasks(reply: Any, message: str) -> None:
    with pytest.raises(UserEnvError, match=rf"Toy\.sample_tasks: {message}"):
        toy(sample_tasks=reply).sample_tasks(3, np.random.default_rng(0))


def test_a_task_outside_its_space() -> None:
    with pytest.raises(ValueError, match=r"task is 3\.0; allowed: Box"):
        make(HeavyPendulum).set_task(3.0)


@pytest.mark.parametrize("method", ["set_task", "reset", "step"])
def test_a_method_that_raises(method: str) -> None:
    env = toy(**{method: ZeroDivisionError("boom")})
    with pytest.raises(UserEnvError, match=rf"Toy\.{method}: raised ZeroDivisionError: boom") as caught:
        reset_and_step(env)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ({"reset": np.zeros(2)}, r"reset: returned array\(.*\), not \(observation, info\)"),
        ({"reset": (np.zeros(3), {})}, r"reset: observation has shape \(3,\); it must be \(2,\)"),
        ({"step": (np.zeros(2), 0.0, False, {})}, r"step: returned .*, not \(observation, reward, term"),
        ({"observation": np.zeros((1, 2))}, r"step: observation has shape \(1, 2\)"),
        ({"observation": [[0.0], [1.0, 2.0]]}, "step: observation .* is not an array"),
        ({"observation": np.array(["a", "b"])}, "step: observation has dtype <U1; it must be float32"),
        ({"observation": np.zeros(2, complex)}, "step: observation has dtype complex128"),
        ({"observation": np.array([0, np.nan])}, "step: observation .* is not finite"),
        ({"reward": np.zeros(1)}, "step: reward is .*; it must be a single number"),
        ({"reward": None}, "step: reward is None; it must be a single number"),
        ({"reward": "1"}, "step: reward is '1'; it must be a single number"),
        ({"reward": float("nan")}, "step: reward is nan; it must be finite"),
        ({"terminated": 2}, "step: terminated is 2; it must be a bool"),
        ({"truncated": None}, "step: truncated is None; it must be a bool"),
    ],
)
def test_wrong_results(replies: dict[str, Any], message: str) -> None:
    env = toy(**replies)
    with pytest.raises(UserEnvError, match=rf"Toy\.{message}"):
        reset_and_step(env)


@pytest.mark.parametrize("bad", [1.1, -3.0, np.nan])
def test_an_action_outside_the_box_is_refused(bad: float) -> None:
    env = make()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"Toy\.step: actions must lie in Box"):
        env.step(np.array([[0.0], [bad]]))
