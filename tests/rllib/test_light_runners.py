"""What the processes of env runners load: no more than they need."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from tiny_runs import tiny_config

from maml_rl.envs.runner import TaskRunner
from maml_rl.rllib.env_runner import MAMLEnvRunner

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def trained(config: Any) -> tuple[dict[str, np.ndarray], list[set[str]], list[bool]]:
    """Parameters after an iteration; what the remote runners have loaded, and whether they are RLlib's."""
    algo = config.env_runners(num_env_runners=2).build_algo()
    algo.train()
    params = algo.meta_params()
    group = algo.env_runner_group
    # Functions without a name travel as they are: runners cannot import tests.
    asked = (
        lambda runner: {"torch", "ray.rllib"} & set(sys.modules),
        lambda runner: hasattr(runner, "metrics"),
    )
    found = [group.foreach_env_runner(ask, local_env_runner=False) for ask in asked]
    algo.stop()
    return params, found[0], found[1]


@pytest.mark.system
def test_runners_of_numpy_policies_load_neither_torch_nor_rllib() -> None:
    light, loads, rllibs = trained(tiny_config())
    assert loads == [set(), set()]
    assert rllibs == [False, False]
    followed, loads, rllibs = trained(tiny_config().callbacks(on_episode_end=lambda **kwargs: None))
    assert loads == [{"torch", "ray.rllib"}] * 2
    assert rllibs == [True, True]
    for name, value in light.items():
        np.testing.assert_array_equal(value, followed[name])


def test_runners_of_modules_load_torch_alone() -> None:
    _, loads, rllibs = trained(tiny_config(recurrent="gru", recurrent_size=4))
    assert loads == [{"torch"}] * 2
    assert rllibs == [False, False]


def test_the_drivers_own_runner_is_both() -> None:
    algo = tiny_config().build_algo()
    runner = algo.env_runner_group.local_env_runner
    assert isinstance(runner, MAMLEnvRunner)
    assert isinstance(runner, TaskRunner)
    algo.stop()
