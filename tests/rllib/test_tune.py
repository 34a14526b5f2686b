"""Searches with Ray Tune: what is tried, what fails, and that a failure is one trial's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining
from tiny_runs import tiny_config

from maml_rl import MAML

pytestmark = [pytest.mark.system, pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def search(
    config: Any, folder: Path, trainable: Any = MAML, iterations: int = 1, **settings: Any
) -> tune.ResultGrid:
    tuner = tune.Tuner(
        trainable,
        param_space=config,
        tune_config=tune.TuneConfig(**settings),
        run_config=tune.RunConfig(
            stop={"training_iteration": iterations}, storage_path=str(folder), name="search", verbose=0
        ),
    )
    return tuner.fit()


@pytest.mark.parametrize("trainable", [MAML, "MAML"])
def test_a_search_tries_what_it_was_given(trainable: Any, tmp_path: Path) -> None:
    config = tiny_config().env_runners(num_env_runners=1)
    config.inner_lr = tune.grid_search([0.05, 0.2])
    results = search(config, tmp_path, trainable)
    assert not results.errors
    assert {r.config["inner_lr"] for r in results} == {0.05, 0.2}
    assert all(np.isfinite(r.metrics["return_post"]) for r in results)
    assert results.get_best_result("return_post", "max").metrics["return_post"] == max(
        r.metrics["return_post"] for r in results
    )


@pytest.mark.parametrize(
    ("field", "impossible", "message"),
    [
        ("inner_lr", -2.0, "inner_lr is -2.0; it must be a positive number"),
        ("horizon", 10**13, "alone need"),
        ("num_env_runners", 500, "asks for 500 CPUs"),
    ],
)
def test_an_impossible_sample_fails_alone_and_says_why(
    field: str, impossible: Any, message: str, tmp_path: Path
) -> None:
    config = tiny_config()
    setattr(config, field, tune.grid_search([impossible, getattr(config, field)]))
    results = search(config, tmp_path)
    assert len(results.errors) == 1
    assert message in str(results.errors[0])
    assert [r.metrics["training_iteration"] for r in results if r.error is None] == [1]
    best = results.get_best_result("return_post", "max")
    assert best.config[field] != impossible


def test_a_diverging_sample_keeps_its_rows_and_all_their_keys(tmp_path: Path) -> None:
    config = tiny_config(inner_lr=tune.grid_search([0.1, 1e38]))
    results = search(config, tmp_path, iterations=2)
    assert not results.errors
    diverged = next(r for r in results if r.config["inner_lr"] == 1e38)
    sound = next(r for r in results if r.config["inner_lr"] == 0.1)
    assert set(diverged.metrics) == set(sound.metrics)
    assert np.isnan(diverged.metrics["return_post"])
    assert np.isfinite(sound.metrics["return_post"])
    assert results.get_best_result("return_post", "max").config["inner_lr"] == 0.1


def test_population_based_training_in_actors_that_are_used_again(tmp_path: Path) -> None:
    """Trials take over others' parameters and change their step sizes, without new processes."""
    schedule = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=1,
        hyperparam_mutations={"inner_lr": [0.05, 0.1, 0.2, 0.4]},
        quantile_fraction=0.5,
        synch=True,  # else a trial may have ended before the other has begun
    )
    config = tiny_config(inner_lr=tune.grid_search([0.05, 0.4]))
    results = search(
        config,
        tmp_path,
        iterations=4,
        scheduler=schedule,
        metric="return_post",
        mode="max",
        reuse_actors=True,
    )
    assert not results.errors
    assert [r.metrics["training_iteration"] for r in results] == [4, 4]
    used = {row for r in results for row in r.metrics_dataframe["config/inner_lr"]}
    assert len(used) > 2 or schedule._num_perturbations > 0


def test_successive_halving_stops_what_falls_behind(tmp_path: Path) -> None:
    config = tiny_config(inner_lr=tune.grid_search([1e-6, 0.05, 0.1, 0.2]))
    schedule = ASHAScheduler("training_iteration", max_t=4, grace_period=1, reduction_factor=2)
    results = search(
        config,
        tmp_path,
        iterations=4,
        scheduler=schedule,
        metric="return_post",
        mode="max",
        reuse_actors=True,
    )
    assert not results.errors
    iterations = {r.metrics["training_iteration"] for r in results}
    # Which of them depends on the order in which they report, but where it is decided does not.
    assert 4 in iterations
    assert iterations <= {1, 2, 4}


def test_a_search_is_restored_in_mid_run_to_the_same_parameters(tmp_path: Path) -> None:
    class Broken(MAML):
        """Breaks down after two iterations, where a file says so."""

        def training_step(self) -> None:
            if self.iteration == 2 and (tmp_path / "break").exists():
                raise RuntimeError("as planned")
            super().training_step()

    (tmp_path / "break").touch()
    run_config = tune.RunConfig(
        stop={"training_iteration": 4},
        storage_path=str(tmp_path),
        name="broken",
        verbose=0,
        checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
    )
    tuner = tune.Tuner(Broken, param_space=tiny_config(), run_config=run_config)
    assert len(tuner.fit().errors) == 1
    (tmp_path / "break").unlink()
    restored = tune.Tuner.restore(str(tmp_path / "broken"), Broken, resume_errored=True).fit()
    assert not restored.errors
    whole = search(tiny_config(), tmp_path, iterations=4)
    assert restored[0].metrics["training_iteration"] == 4
    assert restored[0].metrics["return_post"] == whole[0].metrics["return_post"]


def test_mlflow_and_wandb_log_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.air.integrations.wandb import WandbLoggerCallback

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlflow").as_uri()
    tuner = tune.Tuner(
        "MAML",
        param_space=tiny_config(),
        run_config=tune.RunConfig(
            stop={"training_iteration": 2},
            storage_path=str(tmp_path),
            name="logged",
            verbose=0,
            callbacks=[
                MLflowLoggerCallback(tracking_uri=uri, experiment_name="maml"),
                WandbLoggerCallback(project="maml", mode="offline", dir=str(tmp_path)),
            ],
        ),
    )
    result = tuner.fit()[0]
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("maml")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["return_post"] == pytest.approx(result.metrics["return_post"])
    assert list(tmp_path.rglob("*.wandb"))
