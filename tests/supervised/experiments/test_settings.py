"""Every setting of an experiment reaches what it is a setting of: changed alone, it changes a small run."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from supervised_helpers import encoded_splits

from maml_rl.tools.run_directory import RunDirectory
from supervised.data.episodes import Purpose, stream
from supervised.experiments.config import METHODS, ConfigError, ExperimentConfig
from supervised.experiments.evaluation import evaluate
from supervised.experiments.experiment import Experiment
from supervised.experiments.training import TrainingRun
from supervised.learning.trainer import MetaTrainer

TRAINED, VALIDATED, EVALUATED = "trained", "validated", "evaluated"
SMALL: dict[str, Any] = {
    "iterations": 3,
    "meta_batch_size": 3,
    "report_every": 1,
    "validate_every": 3,
    "validation_episodes": 4,
    "test_episodes": 5,
    "test_steps": 2,
}
SINUSOID = SMALL | {"problem": "sinusoid", "hidden_sizes": (6,), "shots": 3, "query": 4}
IMAGES = SMALL | {
    "problem": "omniglot",
    "ways": 3,
    "shots": 1,
    "query": 2,
    "hidden_sizes": (),
    "filters": 3,
    "inner_lr": 0.2,
}
DENSE = {name: value for name, value in IMAGES.items() if name != "filters"} | {"hidden_sizes": (6,)}
CONTEXT = {"method": "context-vector"}
LEARNED = {"learn_inner_lr": "layer"}
MULTI_TASK = {"iterations": 2, "validate_every": 2, "method": "multi-task-l2", "regularisation": 0.1}


@dataclass(frozen=True)
class Case:
    """One setting changed, among others that make it matter, and what that changes."""

    name: str
    value: Any
    changes: str = TRAINED
    among: dict[str, Any] = field(default_factory=lambda: SINUSOID)


CASES = [
    *(Case("method", method) for method in METHODS["sinusoid"] if method not in ("maml", "multi-task")),
    *(Case("method", method, TRAINED, IMAGES) for method in METHODS["omniglot"] if method != "maml"),
    Case("method", "multi-task-l2-mean", TRAINED, SINUSOID | MULTI_TASK),
    Case("iterations", 6),
    Case("meta_batch_size", 4),
    Case("meta_lr", 0.01),
    Case("meta_lr", 0.02, TRAINED, SINUSOID | MULTI_TASK),
    Case("meta_lr_decay", True),
    Case("gradient_clip", 1e-3),
    Case("gradient_clip", 1e-3, TRAINED, IMAGES),
    Case("validation_episodes", 5, VALIDATED),
    Case("validation_episodes", 5, VALIDATED, IMAGES),
    Case("validation_episodes", 5, VALIDATED, IMAGES | {"method": "classifier"}),
    Case("test_steps", 3, VALIDATED),
    Case("test_steps", 3, VALIDATED, IMAGES),
    Case("test_steps", 3, EVALUATED),
    Case("test_episodes", 6, EVALUATED),
    Case("test_episodes", 6, EVALUATED, IMAGES),
    Case("precision", "bfloat16"),
    Case("precision", "bfloat16", TRAINED, IMAGES),
    Case("seed", 1),
    Case("seed", 1, VALIDATED),
    Case("seed", 1, TRAINED, SINUSOID | MULTI_TASK),
    Case("ways", 4, TRAINED, IMAGES),
    Case("ways", 4, EVALUATED, IMAGES),
    Case("shots", 4),
    Case("shots", 2, TRAINED, IMAGES),
    Case("shots", 2, EVALUATED, IMAGES),
    Case("query", 5),
    Case("query", 3, TRAINED, IMAGES),
    Case("query", 3, EVALUATED, IMAGES),
    Case("query", 3, TRAINED, IMAGES | {"method": "classifier"}),
    Case("inner_lr", 0.1),
    Case("inner_lr", 0.1, VALIDATED),
    Case("inner_lr", 0.1, EVALUATED),
    Case("inner_lr", 0.4, TRAINED, IMAGES),
    Case("inner_lr", 0.1, TRAINED, SINUSOID | LEARNED),
    Case("inner_steps", 2),
    Case("inner_steps", 2, TRAINED, IMAGES),
    Case("inner_steps", 2, TRAINED, IMAGES | {"method": "anil"}),
    *(Case("learn_inner_lr", kind) for kind in ("scalar", "layer", "parameter")),
    Case("learn_inner_lr", "layer", TRAINED, IMAGES),
    Case("logit_scale", 3.0, TRAINED, IMAGES),
    Case("hidden_sizes", (7,)),
    Case("hidden_sizes", (6, 6)),
    Case("hidden_sizes", (8,), TRAINED, DENSE),
    Case("filters", 4, TRAINED, IMAGES),
    Case("adapt_norm", True, TRAINED, IMAGES),
    Case("adapt_norm", True, TRAINED, DENSE),
    Case("context_size", 2, TRAINED, SINUSOID | CONTEXT),
    Case("context_size", 2, TRAINED, IMAGES | CONTEXT),
    Case("regularisation", 1.0, TRAINED, SINUSOID | MULTI_TASK),
]
ELSEWHERE = {
    "image_size",
    "validation_fraction",
    "test_fraction",
    "problem",
    "report_every",
    "validate_every",
    "tasks_per_chunk",
    "capture_graph",
}
"""Settings with tests of their own below."""


def test_every_setting_has_a_case() -> None:
    assert {case.name for case in CASES} | ELSEWHERE == {f.name for f in dataclasses.fields(ExperimentConfig)}


def experiment_with(settings: dict[str, Any]) -> Experiment:
    experiment = Experiment(ExperimentConfig(**settings))
    experiment.__dict__["images"] = encoded_splits()  # in place of a data set on disk
    return experiment


@functools.cache
def outcome(settings: tuple[tuple[str, Any], ...]) -> dict[str, list[np.ndarray]]:
    """What a short run trains to, and what validation and evaluation then say."""
    experiment = experiment_with(dict(settings))
    config = experiment.config
    trainer = experiment.trainer(torch.device("cpu"))
    if config.method.startswith("multi-task"):
        trainer.steps = 5  # type: ignore[attr-defined]  # of each regressor
    for _ in range(config.iterations):
        trainer.step()
    params = trainer.params
    rows = evaluate(experiment, params, steps=config.test_steps, episodes=config.test_episodes, seed=3)
    return {
        TRAINED: [value.numpy() for _, value in sorted(params.items())],
        VALIDATED: [experiment.problem.validate(params).losses.numpy()],
        EVALUATED: [row.values for row in rows],
    }


def differ(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return len(some) != len(others) or any(
        a.shape != b.shape or not np.array_equal(a, b) for a, b in zip(some, others, strict=True)
    )


@pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c.name}-{c.value}-{c.among.get('problem')}-{c.changes}"
)
def test_a_changed_setting_changes_the_result(case: Case) -> None:
    as_it_was = outcome(tuple(sorted(case.among.items())))
    changed = outcome(tuple(sorted((case.among | {case.name: case.value}).items())))
    assert differ(as_it_was[case.changes], changed[case.changes])


# --- settings with tests of their own


def test_the_problem_decides_network_tasks_and_loss() -> None:
    sinusoid, images = experiment_with(SINUSOID), experiment_with(IMAGES)
    assert (type(sinusoid.learner.network).__name__, type(images.learner.network).__name__) == (
        "MLP",
        "ConvNet",
    )
    shapes = [e.training_sampler(stream(0, Purpose.TEST), 2).support.inputs.shape for e in (sinusoid, images)]
    assert shapes == [(2, 3, 1), (2, 3, 28, 28, 1)]
    assert (sinusoid.learner.accuracy, images.learner.accuracy is None) == (None, False)


def test_a_users_folder_is_sized_and_split_as_configured(tmp_path: Path) -> None:
    for i in range(10):
        (tmp_path / f"c{i}").mkdir()
        for j in range(3):
            Image.new("RGB", (20, 20), (i, j, 0)).save(tmp_path / f"c{i}" / f"{j}.png")
    sizes = {"image_size": 18, "validation_fraction": 0.3, "test_fraction": 0.4}
    experiment = Experiment(
        ExperimentConfig(**(IMAGES | {"problem": "images", "query": 1} | sizes)), tmp_path
    )
    images = experiment.images
    assert [len(part) for part in (images.train, images.validation, images.test)] == [3, 3, 4]
    assert experiment.training_sampler(stream(0, Purpose.TEST), 2).support.inputs.shape == (2, 3, 18, 18, 3)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"meta_batch_size": 10**12}, "meta_batch_size 1000000000000"),
        ({"validation_episodes": 10**12}, "validation_episodes 1000000000000"),
        ({"test_episodes": 10**12}, "test_episodes 1000000000000"),
        ({"shots": 10**12}, "shots 1000000000000"),
        ({"query": 10**12}, "query 1000000000000"),
        ({"hidden_sizes": (10**9, 10**9)}, r"hidden_sizes \(1000000000, 1000000000\)"),
        ({"hidden_sizes": (10**12,)}, r"hidden_sizes \(1000000000000,\)"),
        ({"inner_steps": 10**12}, "inner_steps 1000000000000"),
        ({"context_size": 10**12, "method": "context-vector"}, "context_size 1000000000000"),
        (IMAGES | {"filters": 10**9}, "filters 1000000000"),
        (IMAGES | {"ways": 10**12}, "ways 1000000000000"),
        (IMAGES | {"problem": "images", "image_size": 10**8}, "query 2: the inputs"),
    ],
)
def test_what_fits_into_no_memory_is_refused_before_anything_is_made(
    changes: dict[str, Any], fields: str
) -> None:
    experiment = Experiment(ExperimentConfig(**(SINUSOID | changes)))
    with pytest.raises(ValueError, match=rf"{fields}.* alone need .* of memory"):
        experiment.trainer(torch.device("cpu"))


@pytest.mark.parametrize("settings", [SINUSOID, IMAGES])
def test_chunks_of_tasks_change_rounding_alone(settings: dict[str, Any]) -> None:
    whole, parts = (outcome(tuple(sorted((settings | {"tasks_per_chunk": n}).items()))) for n in (0, 2))
    for a, b in zip(whole[EVALUATED], parts[EVALUATED], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    experiment = experiment_with(settings | {"tasks_per_chunk": 2})
    sizes: list[int] = []
    network = experiment.learner.network

    def spy(params: Any, inputs: torch.Tensor) -> torch.Tensor:
        sizes.append(len(inputs))
        return network(params, inputs)

    spied = dataclasses.replace(experiment.learner, network=network)
    object.__setattr__(spied, "outputs", lambda params, inputs: spy(params, spied.features(params, inputs)))
    trainer = MetaTrainer(spied, experiment.training_sampler, experiment.config, torch.device("cpu"))
    trainer.step()
    assert max(sizes) == 2


def test_reports_and_validations_come_as_often_as_asked(tmp_path: Path) -> None:
    settings = SINUSOID | {"iterations": 12, "report_every": 2, "validate_every": 4}
    experiment = experiment_with(settings)
    run = RunDirectory.create(tmp_path / "run", {"config": {}})
    trainer = experiment.trainer(torch.device("cpu"))
    TrainingRun(trainer, experiment.problem.validate, experiment.config, run, console=Console(quiet=True))()
    rows = run.progress()
    assert [row["iteration"] for row in rows] == [2, 4, 6, 8, 10, 12]
    validated = [row["iteration"] for row in rows if not np.isnan(row["validation_loss"])]
    assert validated == [4, 8, 12]


def test_a_graph_cannot_be_captured_without_a_gpu() -> None:
    with pytest.raises(ConfigError, match="capture_graph is True"):
        experiment_with(SINUSOID | {"capture_graph": True}).trainer(torch.device("cpu"))


# --- in the right direction


def trainer_with(**settings: Any) -> MetaTrainer:
    trainer = experiment_with(SINUSOID | settings).trainer(torch.device("cpu"))
    assert isinstance(trainer, MetaTrainer)
    return trainer


def test_the_meta_gradient_is_clipped_by_value_on_both_sides() -> None:
    trainer = trainer_with(gradient_clip=0.5)
    gradients = {name: torch.full_like(value, 3.0) for name, value in trainer.params.items()}
    gradients["dense.0.weight"] = torch.linspace(-3, 3, gradients["dense.0.weight"].numel()).view_as(
        gradients["dense.0.weight"]
    )
    expected = gradients["dense.0.weight"].clamp(-0.5, 0.5).clone()
    trainer._update(gradients)
    torch.testing.assert_close(trainer._params["dense.0.weight"].grad, expected)
    assert float(expected.min()) == -0.5
    assert float(expected.max()) == 0.5


def test_without_a_clip_gradients_are_left_alone() -> None:
    trainer = trainer_with()
    gradients = {name: torch.full_like(value, 300.0) for name, value in trainer.params.items()}
    trainer._update(gradients)
    assert all(
        float(value.grad.max()) == 300.0 for value in trainer._params.values() if value.grad is not None
    )


def test_the_step_size_falls_along_half_a_cosine_to_zero() -> None:
    trainer = trainer_with(meta_lr_decay=True, meta_lr=0.1, iterations=4)
    used = []
    for _ in range(4):
        trainer.step()
        used.append(trainer._adam.param_groups[0]["lr"])
    np.testing.assert_allclose(used, 0.05 * (1 + np.cos(np.pi * np.arange(4) / 4)))
    assert used == sorted(used, reverse=True)


def test_the_step_size_stays_where_it_is_not_asked_to_fall() -> None:
    trainer = trainer_with(meta_lr=0.1)
    for _ in range(3):
        trainer.step()
    assert trainer._adam.param_groups[0]["lr"] == 0.1


def test_adam_is_the_published_one() -> None:
    group = trainer_with()._adam.param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"], group["amsgrad"]) == (
        (0.9, 0.999),
        1e-8,
        0,
        False,
    )


@pytest.mark.parametrize(
    ("method", "first_order", "inner_steps"),
    [("maml", False, 2), ("first-order", True, 2), ("anil", False, 2), ("context-vector", False, 2)],
)
def test_what_a_method_means(method: str, first_order: bool, inner_steps: int) -> None:
    for settings in (SINUSOID, IMAGES):
        learner = experiment_with(settings | {"method": method, "inner_steps": 2}).learner
        assert (learner.first_order, learner.inner_steps) == (first_order, inner_steps)
        names = learner.network.init_params(np.random.default_rng(0))
        adapted = {name for name in names if learner.network.adapted(name)}
        if method == "anil":
            assert {name.rpartition(".")[0] for name in adapted} == {getattr(learner.network, "head", None)}
        if method == "context-vector":
            assert adapted == {"context"}


@pytest.mark.parametrize("method", ["pretrained", "oracle"])
def test_baselines_have_no_inner_loop(method: str) -> None:
    assert experiment_with(SINUSOID | {"method": method, "inner_steps": 3}).learner.inner_steps == 0


def test_the_oracle_is_told_the_task_and_others_are_not() -> None:
    rng = stream(0, Purpose.TEST)
    told = experiment_with(SINUSOID | {"method": "oracle"}).test_sampler(rng, 2)
    assert told.query.inputs.shape[-1] == 3
    assert experiment_with(SINUSOID).test_sampler(rng, 2).query.inputs.shape[-1] == 1
