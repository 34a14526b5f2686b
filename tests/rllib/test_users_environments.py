"""Environments by class, registered name, id and import path, in this process and on remote runners."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from ray import tune
from tiny_runs import Algorithms, NumpyParams, tiny_algorithms, tiny_config
from user_envs import Reach

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
ID = "tests/Reach-v0"
NAME = "reach_on_a_line"


@pytest.fixture(scope="module")
def algorithms(local_ray: None) -> Iterator[Algorithms]:
    with tiny_algorithms() as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register(ID, "user_envs:Reach")
    tune.register_env(NAME, lambda config: Reach(**config))
    yield
    del gymnasium.registry[ID]


def trained(algorithms: Algorithms, env: Any, runners: int, **env_config: Any) -> NumpyParams:
    config = tiny_config().environment(env, env_config=env_config).env_runners(num_env_runners=runners)
    algo = algorithms.build(config)
    algo.train()
    return algo.meta_params()


@pytest.fixture(scope="module")
def expected(algorithms: Algorithms) -> dict[float, NumpyParams]:
    return {scale: trained(algorithms, "user_envs:Reach", 0, scale=scale) for scale in (1.0, 3.0)}


@pytest.mark.parametrize("env", ["user_envs:Reach", Reach, NAME, ID, lambda scale: Reach(scale)])
@pytest.mark.parametrize("runners", [0, 1])
def test_every_way_to_name_an_environment_is_the_same_environment(
    env: Any, runners: int, expected: dict[float, NumpyParams], algorithms: Algorithms
) -> None:
    found = trained(algorithms, env, runners, scale=3.0)
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[3.0][name], err_msg=name)
    # The settings arrive: with others the result is another.
    assert not np.array_equal(found["mean.weight"], expected[1.0]["mean.weight"])


def test_an_environment_that_only_this_process_can_make_says_so() -> None:
    here = os.getpid()

    def make() -> Reach:
        if os.getpid() != here:
            raise ImportError("no module named mine")
        return Reach()

    config = tiny_config().environment(make).env_runners(num_env_runners=1)
    with pytest.raises(RuntimeError, match=r"no env runner could start; .*ImportError: no module named mine"):
        config.build_algo()


SCRIPT = """
import user_envs
from maml_rl import MAMLConfig
from maml_rl.tools.ray_start import start_ray

class Mine(user_envs.Reach):
    pass

if __name__ == "__main__":
    start_ray(None, 2)
    for env in (Mine, "__main__:Mine"):
        config = MAMLConfig().environment(env, env_config={"scale": 2.0}).env_runners(num_env_runners=1)
        config.training(meta_batch_size=2, episodes_per_task=2, horizon=5, hidden_sizes=(4,))
        algo = config.build_algo()
        print("return", algo.train()["return_post"])
        algo.stop()
"""


@pytest.mark.system
def test_classes_of_a_script_work_on_remote_runners_by_class_and_by_name(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    support = Path(__file__).parent.parent / "support"
    script.write_text(f"import sys; sys.path.append({str(support)!r})\n" + SCRIPT)
    result = subprocess.run(
        [sys.executable, str(script)], cwd=support, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    first, second = (float(line.split()[1]) for line in result.stdout.splitlines() if "return" in line)
    assert np.isfinite(first)
    assert first == second
