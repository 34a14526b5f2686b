"""Training runs: exact resume, the best model, failures; and that few-shot learning learns what it should."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from supervised_helpers import (
    NETWORKS,
    draw_glyph,
    glyph,
    make_episodes,
    make_learner,
    to_float32,
    with_permuted_support_labels,
)
from torch import Tensor

from maml_rl.learning.meta_learner import Params
from maml_rl.tools.run_directory import RunDirectory, RunError
from supervised.data.episodes import Episodes, Examples, Purpose, stream
from supervised.data.image_data import ImageClasses
from supervised.data.image_tasks import FewShotSampler
from supervised.data.sinusoid import SinusoidSampler
from supervised.experiments.config import ExperimentConfig
from supervised.experiments.experiment import Experiment
from supervised.experiments.presets import PRESETS, get_preset
from supervised.experiments.training import TrainingRun
from supervised.learning.classifier import nearest_neighbour
from supervised.learning.losses import (
    accuracy,
    cross_entropy,
    cross_entropy_summed_over_classes,
    mean_squared_error,
)
from supervised.learning.meta_step import Learner, Measurement, adaptation_curve
from supervised.learning.problem import validation_after_adaptation
from supervised.learning.settings import ConfigError, TrainingSettings
from supervised.learning.trainer import MetaTrainer, NonFiniteLossError
from supervised.models.model_file import ModelFileError, load, save
from supervised.models.networks import MLP, ConvNet

SETTINGS = TrainingSettings(
    iterations=12, meta_batch_size=4, report_every=2, validate_every=4, validation_episodes=5, seed=3
)
LEARNER = Learner(MLP((1, 8, 8, 1)), mean_squared_error, mean_squared_error, 0.05, learn_inner_lr="parameter")
SAMPLER = SinusoidSampler(5, 5)
CPU = torch.device("cpu")


class Stop(Exception):
    """Ends a run from outside, as an interrupt does."""


class Interrupted(MetaTrainer):
    """Raises ``Stop`` instead of the iteration after ``stop_after``."""

    stop_after = 0

    def step(self):  # type: ignore[no-untyped-def]
        if self.iteration == self.stop_after:
            raise Stop
        return super().step()


def make_run(
    path: Path,
    settings: TrainingSettings = SETTINGS,
    stop_after: int | None = None,
    resume: bool = False,
    sampler: SinusoidSampler = SAMPLER,
) -> TrainingRun:
    trainer = (MetaTrainer if stop_after is None else Interrupted)(LEARNER, sampler, settings, CPU)
    if isinstance(trainer, Interrupted):
        trainer.stop_after = stop_after or 0
    validate = validation_after_adaptation(LEARNER, SAMPLER, settings, 1)
    directory = RunDirectory.open(path) if resume else RunDirectory.create(path, {"config": {}})
    return TrainingRun(trainer, validate, settings, directory, resume, Console(quiet=True))


def progress_without_times(path: Path) -> list[dict[str, str]]:
    with (path / "progress.csv").open(newline="") as file:
        return [{k: str(float(v)) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    "changes", [{}, {"meta_lr_decay": True}, {"precision": "bfloat16"}], ids=["", "decay", "bfloat16"]
)
@pytest.mark.parametrize("stop_after", [3, 4, 7])
def test_resume_is_exact(tmp_path: Path, stop_after: int, changes: dict[str, Any]) -> None:
    settings = dataclasses.replace(SETTINGS, **changes)
    whole = make_run(tmp_path / "whole", settings)
    whole()
    with pytest.raises(Stop):
        make_run(tmp_path / "parts", settings, stop_after)()
    resumed = make_run(tmp_path / "parts", settings, resume=True)
    resumed()
    for name, value in whole.trainer.params.items():
        assert torch.equal(value, resumed.trainer.params[name]), name
    assert whole.trainer.state().keys() == resumed.trainer.state().keys()
    for name, moment in whole.trainer.state().items():
        np.testing.assert_array_equal(moment, resumed.trainer.state()[name])
    assert progress_without_times(tmp_path / "parts") == progress_without_times(tmp_path / "whole")
    for run in (whole, resumed):
        assert load(run.run.path / "model.safetensors").info["iteration"] in (4, 8, 12)  # type: ignore[union-attr]
    one, two = (load(tmp_path / name / "model.safetensors").params for name in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_rounds_the_products_only(name: str) -> None:
    """The meta-gradient points where that of float32 does, and everything that is kept is float32.

    Rounding moves some units of these small networks across the kinks of ReLU and maximum, hence 0.9.
    """
    learner = make_learner(name, first_order=False)
    episodes = to_float32(make_episodes(name, tasks=8))
    gradients = {}
    for precision in ("float32", "bfloat16"):
        settings = dataclasses.replace(SETTINGS, precision=precision, meta_batch_size=8)
        trainer = MetaTrainer(learner, lambda rng, tasks: episodes, settings, CPU)
        trainer.step()
        assert {value.dtype for value in trainer.params.values()} == {torch.float32}
        assert {value.dtype for value in trainer.state().values()} == {np.dtype(np.float32)}
        moments = [value for key, value in trainer.state().items() if key.startswith("exp_avg/")]
        gradients[precision] = torch.from_numpy(np.concatenate([value.ravel() for value in moments]))
    assert not torch.equal(gradients["bfloat16"], gradients["float32"])
    assert torch.cosine_similarity(gradients["bfloat16"], gradients["float32"], dim=0) > 0.9


def test_the_best_model_has_the_lowest_validation_loss(tmp_path: Path) -> None:
    make_run(tmp_path / "run")()
    rows = [row for row in progress_without_times(tmp_path / "run") if row["validation_loss"] != "nan"]
    assert [row["iteration"] for row in rows] == ["4.0", "8.0", "12.0"]
    best = min(rows, key=lambda row: float(row["validation_loss"]))
    model = load(tmp_path / "run" / "model.safetensors")
    assert model.info["iteration"] == float(best["iteration"])
    validate = validation_after_adaptation(LEARNER, SAMPLER, SETTINGS, 1)
    assert float(validate(model.params).losses.mean()) == pytest.approx(float(best["validation_loss"]))


def test_accuracy_decides_where_there_is_one() -> None:
    accuracies = iter([0.5, 0.7, 0.6])
    losses = iter([3.0, 2.0, 1.0])

    def validate(params: Params) -> Measurement:
        return Measurement(torch.tensor([next(losses)]), torch.tensor([next(accuracies)]))

    trainer = MetaTrainer(LEARNER, SAMPLER, SETTINGS, CPU)
    run = TrainingRun(trainer, validate, SETTINGS, console=Console(quiet=True))
    run()
    assert run.best_score == pytest.approx(0.7)


def test_runs_differ_by_seed_and_agree_by_seed() -> None:
    def params(seed: int) -> Params:
        trainer = MetaTrainer(LEARNER, SAMPLER, dataclasses.replace(SETTINGS, seed=seed), CPU)
        trainer.step()
        return trainer.params

    one, same, other = params(0), params(0), params(1)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one if name.startswith("dense"))


@dataclasses.dataclass(frozen=True)
class SpoiltSampler(SinusoidSampler):
    """Has an infinite target from the seventh batch on."""

    def __call__(self, rng: np.random.Generator, tasks: int) -> Episodes:
        support, query = super().__call__(rng, tasks)
        seventh = stream(SETTINGS.seed, Purpose.TRAINING, 6)
        if rng.bit_generator.seed_seq.spawn_key == seventh.bit_generator.seed_seq.spawn_key:  # type: ignore[attr-defined]
            query.targets[1, 2] = math.inf
        return Episodes(support, query)


def test_a_non_finite_loss_names_the_iteration_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", sampler=SpoiltSampler(5, 5))
    with pytest.raises(NonFiniteLossError, match="iteration 7: the query loss is inf"):
        run()
    checkpoint = load(tmp_path / "run" / "checkpoint.safetensors")
    assert checkpoint.info["iteration"] == 6
    assert all(np.isfinite(value).all() for value in checkpoint.state.values())
    resumed = make_run(tmp_path / "run", resume=True)  # with sound data it goes on
    resumed()
    assert resumed.trainer.iteration == 12


def test_a_state_is_loaded_to_the_device_as_a_whole(tmp_path: Path) -> None:
    """The fused Adam of a GPU reads its step count there, too: an ordinary one keeps it on the CPU."""
    run = make_run(tmp_path / "run")
    run()
    device = torch.device("meta")
    trainer = MetaTrainer(LEARNER, SAMPLER, SETTINGS, device)
    trainer.load(run.trainer.params, run.trainer.state(), 12)
    state = [value for of_param in trainer._adam.state.values() for value in of_param.values()]
    assert len(state) == 3 * len(trainer.params)
    assert {value.device for value in (*state, *trainer.params.values())} == {device}


def test_parameter_averaging_refuses_a_device_that_it_would_not_use() -> None:
    with pytest.raises(ConfigError, match="device is 'meta', but multi-task trains on the CPU"):
        Experiment(get_preset("sinusoid", "multi-task")).trainer(torch.device("meta"))


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "run")()
    state = tmp_path / "run" / "checkpoint.safetensors"
    whole = state.read_bytes()
    state.write_bytes(whole[:-10])
    with pytest.raises(ModelFileError, match=r"checkpoint\.safetensors: truncated"):
        make_run(tmp_path / "run", resume=True)()
    state.write_bytes(whole)
    info = load(state).info
    save(state, {"other": torch.zeros(2)}, info)
    with pytest.raises(RunError, match="does not fit this run"):
        make_run(tmp_path / "run", resume=True)()
    state.write_bytes(whole)
    make_run(tmp_path / "run", resume=True)()


def test_a_run_goes_on_with_the_settings_it_was_trained_with(tmp_path: Path) -> None:
    make_run(tmp_path / "run")()
    changed = dataclasses.replace(SETTINGS, meta_lr=0.5)
    with pytest.raises(RunError, match=r"meta_lr is 0\.5 in .*config\.json, but .* was trained with 0\.001"):
        make_run(tmp_path / "run", changed, resume=True)()


# --- configuration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meta_batch_size": 0}, "meta_batch_size is 0; it must be a positive integer"),
        ({"inner_lr": -1.0}, "inner_lr is -1.0; it must be a positive number"),
        ({"inner_lr": math.nan}, "inner_lr is nan; it must be a positive number"),
        ({"logit_scale": 0.0}, "logit_scale is 0.0; it must be a positive number"),
        ({"logit_scale": 2.0}, "logit_scale is 2.0, but sinusoid with method maml does not use it"),
        ({"precision": "float16"}, "precision is 'float16'; it must be one of: float32, bfloat16"),
        ({"validate_every": 750}, "validate_every is 750; it must be a multiple of report_every, 500"),
        ({"method": "classifier"}, "method is 'classifier'; it must be one of: maml, first-order"),
        ({"ways": 5}, "ways is 5, but sinusoid with method maml does not use it"),
        ({"regularisation": 0.1}, "regularisation is 0.1, but sinusoid with method maml does not use it"),
        ({"hidden_sizes": ()}, r"hidden_sizes is \(\)"),
        ({"problem": "omniglot", "ways": 1}, "ways is 1; it must be an integer of at least 2"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(get_preset("sinusoid"), **changes)  # type: ignore[arg-type]


def test_the_logit_scale_is_the_outer_losss_only() -> None:
    plain = Experiment(get_preset("omniglot-5w1s")).learner
    scaled = Experiment(dataclasses.replace(get_preset("omniglot-5w1s"), logit_scale=4.0)).learner
    logits, labels = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64), torch.tensor([[0]])
    assert float(scaled.outer_loss(logits, labels)) == pytest.approx(math.log(1 + math.exp(-4)))
    assert float(plain.outer_loss(logits, labels)) == pytest.approx(math.log(1 + math.exp(-1)))
    assert torch.equal(scaled.inner_loss(logits, labels), plain.inner_loss(logits, labels))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    config = get_preset(name)
    assert ExperimentConfig.from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config


# --- learning


def glyph_classes(count: int, drawings: int, seed: int) -> ImageClasses:
    """Generated characters of 14x14 pixels."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        points = glyph(rng, 14)
        drawn = [
            255 - np.asarray(draw_glyph(points, 14, "L", rng.uniform(-0.7, 0.7, points.shape)))
            for _ in range(drawings)
        ]
        images.append(np.stack(drawn)[..., None])
    return ImageClasses(tuple(f"{seed}-{i}" for i in range(count)), tuple(images))


@pytest.fixture(scope="module")
def trained() -> tuple[Learner, Params]:
    """A few-shot classifier after a short training."""
    learner = Learner(
        ConvNet(1, 14, 8, 4, pool=False),
        cross_entropy_summed_over_classes,
        cross_entropy,
        0.2,
        accuracy=accuracy,
        prepare=lambda images: images / 255,
    )
    sampler = FewShotSampler(glyph_classes(60, 6, seed=0), 4, 1, 2)
    settings = TrainingSettings(iterations=250, meta_batch_size=8, meta_lr=5e-3)
    trainer = MetaTrainer(learner, sampler, settings, CPU)
    for _ in range(settings.iterations):
        trainer.step()
    return learner, trainer.params


def held_out() -> Episodes:
    return FewShotSampler(glyph_classes(20, 6, seed=1), 4, 1, 4)(np.random.default_rng(0), 100)


def accuracy_after(learner: Learner, params: Params, episodes: Episodes, steps: int) -> float:
    curve = adaptation_curve(learner, params, episodes, steps, 50)
    assert curve.accuracies is not None
    return float(curve.accuracies[steps].mean())


def test_few_shot_classification_learns_new_classes(trained: tuple[Learner, Params]) -> None:
    assert accuracy_after(*trained, held_out(), 0) < 0.35  # chance is 0.25
    assert accuracy_after(*trained, held_out(), 1) > 0.6


def test_with_permuted_support_labels_accuracy_is_at_chance(trained: tuple[Learner, Params]) -> None:
    """The control: what is learned comes from the support labels, not from a leak of the query's."""
    wrong = with_permuted_support_labels(held_out())
    assert abs(accuracy_after(*trained, wrong, 1) - 0.25) < 0.07


def test_nearest_neighbour_needs_the_right_labels_too(trained: tuple[Learner, Params]) -> None:
    def measured(episodes: Episodes) -> float:
        result = nearest_neighbour(*trained, episodes, 50)
        assert result.accuracies is not None
        return float(result.accuracies.mean())

    episodes = held_out()
    assert measured(episodes) > 0.5
    shifted: Tensor = (episodes.support.targets + 1) % 4
    wrong = episodes._replace(support=Examples(episodes.support.inputs, shifted))
    assert measured(wrong) < 0.25
    itself = Episodes(episodes.support, episodes.support)
    assert measured(itself) == 1


HOSTILE = (math.nan, math.inf, -math.inf, -1, -0.5, "3", None, [], {}, b"1", 1j, np.float64("nan"))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(ExperimentConfig)])
def test_no_field_takes_what_it_cannot_mean(name: str) -> None:
    for value in HOSTILE:
        with pytest.raises(ConfigError, match=rf"^{name} is "):
            ExperimentConfig(**{name: value})


def test_numbers_of_numpy_are_numbers() -> None:
    config = ExperimentConfig(
        inner_lr=np.float32(0.5),  # type: ignore[arg-type]
        shots=np.int64(3),  # type: ignore[arg-type]
        hidden_sizes=np.array([8, 9]),  # type: ignore[arg-type]
        meta_lr_decay=np.bool_(True),  # type: ignore[arg-type]
    )
    assert config == ExperimentConfig(inner_lr=0.5, shots=3, hidden_sizes=(8, 9), meta_lr_decay=True)
    assert type(config.shots) is int
    json.dumps(dataclasses.asdict(config))
