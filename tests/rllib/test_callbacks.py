"""RLlib's callbacks are called where and as RLlib calls them, and what they log arrives."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from ray.rllib.callbacks.callbacks import RLlibCallback
from user_envs import Reach, log_length

from maml_rl import MAMLConfig

pytestmark = pytest.mark.usefixtures("local_ray")

TASKS, EPISODES, HORIZON = 3, 4, 6


def config(num_env_runners: int = 0, **callbacks: Any) -> MAMLConfig:
    return (
        MAMLConfig()
        .environment("user_envs:Reach")
        .env_runners(num_env_runners=num_env_runners)
        .training(
            meta_batch_size=TASKS,
            episodes_per_task=EPISODES,
            horizon=HORIZON,
            hidden_sizes=(8,),
            cg_iterations=2,
        )
        .callbacks(**callbacks)
    )


def trained(config: MAMLConfig) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    algo = config.build_algo()
    result = algo.train()
    params = algo.meta_params()
    algo.stop()
    return result, params


class Counting(RLlibCallback):
    """Counts calls by name, and checks what it is shown."""

    calls: Counter[str] = Counter()  # noqa: RUF012
    samples: list[Any] = []  # noqa: RUF012
    context: Any = None

    def on_environment_created(
        self, *, env_runner: Any, metrics_logger: Any, env: Any, env_context: Any, **kwargs: Any
    ) -> None:
        assert isinstance(env.envs[0], Reach)
        Counting.context = env_context

    def on_episode_created(self, *, episode: Any, **kwargs: Any) -> None:
        assert not episode.is_reset
        self.calls["created"] += 1

    def on_episode_start(self, *, episode: Any, env_index: int, **kwargs: Any) -> None:
        assert len(episode) == 0
        assert "distance" in episode.get_infos(-1)
        self.calls["start"] += 1

    def on_episode_step(self, *, episode: Any, env: Any, env_index: int, **kwargs: Any) -> None:
        assert episode.get_infos(-1) is env.infos[env_index]
        self.calls["step"] += 1

    def on_episode_end(
        self, *, episode: Any, metrics_logger: Any, env_runner: Any, rl_module: Any, **kwargs: Any
    ) -> None:
        assert episode.is_done
        self.calls["end"] += 1
        metrics_logger.log_value("last_distance", episode.get_infos(-1)["distance"], window=1000)

    def on_sample_end(self, *, samples: list[Any], **kwargs: Any) -> None:
        self.calls["sample_end"] += 1
        self.samples.extend(samples)


@pytest.fixture
def counted() -> Counter[str]:
    Counting.calls.clear()
    Counting.samples.clear()
    return Counting.calls


def test_each_event_is_told(counted: Counter[str]) -> None:
    result, _ = trained(config(callbacks_class=Counting))
    episodes = 2 * TASKS * EPISODES  # before and after adaptation
    assert counted["created"] == counted["start"] == counted["end"] == episodes
    assert counted["step"] == result["env_steps"] < episodes * HORIZON  # some reach the goal
    assert counted["sample_end"] == 2
    assert result["env_runners"]["num_episodes"] == episodes
    assert result["env_runners"]["episode_len_mean"] == result["env_steps"] / episodes


def test_the_samples_are_the_episodes_that_were_learned_from(counted: Counter[str]) -> None:
    result, _ = trained(config(callbacks_class=Counting))
    for inner_step, name in enumerate(("return_pre", "return_post")):
        chosen = [e for e in Counting.samples if e.custom_data["inner_step"] == inner_step]
        assert len(chosen) == TASKS * EPISODES
        assert np.mean([e.get_return() for e in chosen]) == pytest.approx(result[name], rel=1e-5)
    assert {float(e.custom_data["task"]) for e in Counting.samples} <= {-0.5, 0.5}
    episode = Counting.samples[0]
    actions = np.array(episode.get_actions())
    np.testing.assert_allclose(
        np.array(episode.get_extra_model_outputs("actions_for_env")), actions.clip(-1, 1), rtol=1e-6
    )
    moves = np.diff(np.array(episode.get_observations()), axis=0)
    np.testing.assert_allclose(moves, 0.3 * actions.clip(-1, 1), atol=1e-6)


def test_what_runners_log_arrives(counted: Counter[str]) -> None:
    result, _ = trained(config(callbacks_class=Counting))
    last = [e.get_infos(-1)["distance"] for e in Counting.samples]
    assert result["env_runners"]["last_distance"] == pytest.approx(np.mean(last))


@pytest.mark.parametrize("num_env_runners", [0, 2])
def test_functions_are_called_on_runners_too(num_env_runners: int) -> None:
    result, _ = trained(config(num_env_runners, on_episode_end=log_length))
    assert result["env_runners"]["longest"] == HORIZON


def test_several_callbacks_at_once() -> None:
    class First(RLlibCallback):
        def on_episode_end(self, *, metrics_logger: Any, **kwargs: Any) -> None:
            metrics_logger.log_value("first", 1.0, window=1)

    result, _ = trained(config(callbacks_class=[First, Counting], on_episode_end=[log_length]))
    assert {"first", "last_distance", "longest"} <= set(result["env_runners"])


def test_callbacks_change_nothing() -> None:
    result, params = trained(config())
    followed, same = trained(config(callbacks_class=Counting))
    assert all(np.array_equal(params[name], same[name]) for name in params)
    assert followed["return_post"] == result["return_post"]


def test_the_environment_is_shown_with_its_context() -> None:
    Counting.context = None
    algo = config(callbacks_class=Counting).environment(env_config={"scale": 2.0}).build_algo()
    algo.stop()
    assert Counting.context == {"scale": 2.0}
    assert Counting.context.worker_index == 0


@pytest.mark.parametrize("kind", ["discrete", "multi-discrete", "multi-binary"])
def test_episodes_of_other_actions_hold_elements_of_their_space(kind: str) -> None:
    seen = []

    def keep(*, samples: list[Any], **kwargs: Any) -> None:
        seen.extend(samples)

    chosen = config(on_sample_end=keep).environment("user_envs:Choice", env_config={"kind": kind})
    trained(chosen)
    assert len(seen) == 2 * TASKS * EPISODES
    space = seen[0].action_space
    actions = [action for episode in seen for action in np.asarray(episode.get_actions())]
    assert all(space.contains(action) for action in actions)
    assert len(np.unique(np.array(actions).reshape(len(actions), -1), axis=0)) > 1
