"""The paper's baselines: what sets each of them apart, and that each is trained and measured end to end."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from maml_rl.cli.app import main
from maml_rl.envs import TaskInObservation, make_task_env
from maml_rl.envs.rollout import rollout, stream
from maml_rl.experiments.held_out import HeldOut
from maml_rl.experiments.methods import METHODS, MethodName, configure
from maml_rl.experiments.presets import EXPERIMENTS, get_experiment
from maml_rl.learning.batch import make_samples
from maml_rl.learning.trajectories import pool
from maml_rl.policies.policy_file import load_policy
from maml_rl.rllib.config import MAMLConfig

TINY = ["--horizon", "10", "--cg-iterations", "2", "--hidden-sizes", "8", "--num-env-runners", "0"]
FAMILIES = ("PointNav", "HalfCheetahVel", "HalfCheetahDir", "AntVel", "AntDir")


def test_every_name_is_a_method() -> None:
    assert tuple(METHODS) == get_args(MethodName)
    with pytest.raises(ValueError, match="method is 'none'; it must be one of: maml, first-order"):
        configure(get_experiment("point-nav"), "none")  # type: ignore[arg-type]


@pytest.mark.parametrize("preset", [name for name in EXPERIMENTS if not name.startswith("metaworld")])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_every_preset_is_a_valid_configuration(preset: str, method: MethodName) -> None:
    config, iterations = configure(get_experiment(preset), method)
    config.validate()
    assert iterations >= 0


def test_step_sizes_of_the_baselines_are_the_papers() -> None:
    expected = {
        "point-nav": (0.1, 0.05, 0.5),  # the paper's 0.5 is too long for our pretrained policy
        "half-cheetah-vel": (0.1, 0.02, 0.1),
        "half-cheetah-dir": (0.1, 0.2, 0.5),
        "ant-vel": (0.1, 0.2, 1.0),
        "ant-dir": (0.1, 0.2, 1.0),
    }
    for preset, values in expected.items():
        experiment = get_experiment(preset)
        found = [configure(experiment, name)[0].inner_lr for name in ("maml", "pretrained", "random")]
        assert tuple(found) == values


# --- the oracle's observation


@pytest.mark.parametrize("family", FAMILIES)
def test_an_oracle_sees_the_task_and_everything_else_is_as_before(family: str) -> None:
    name = f"maml_rl/{family}-v0"
    plain = make_task_env(name, 3, 8)
    oracle = make_task_env(name, 3, 8, {"task_in_observation": True})
    assert isinstance(oracle, TaskInObservation)
    first, second = plain.sample_tasks(2, np.random.default_rng(0))
    np.testing.assert_array_equal(oracle.sample_tasks(2, np.random.default_rng(0))[0], first)
    rng = np.random.default_rng(1)
    for task in (first, second):
        for env in (plain, oracle):
            env.set_task(task)
        features = plain.task_features(task)
        expected, found = plain.reset(seed=5)[0], oracle.reset(seed=5)[0]
        for _ in range(8):
            np.testing.assert_array_equal(
                found, np.c_[expected, np.tile(features, (3, 1))].astype(found.dtype)
            )
            assert oracle.observation_space.contains(found)
            low, high = plain.single_action_space.low, plain.single_action_space.high
            actions = rng.uniform(low, high, (3, len(low))).astype(np.float32)
            expected, *rest = plain.step(actions)
            found, *same = oracle.step(actions)
            for a, b in zip(rest, same, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("family", "task", "features"),
    [
        ("PointNav", [0.1, -0.2], [0.1, -0.2]),
        ("HalfCheetahVel", 1.3, [1.3]),
        ("HalfCheetahDir", 0.9, [-1]),
        ("HalfCheetahDir", 1.1, [1]),
        ("AntDir", 1.4, [-1]),
        ("AntDir", 1.6, [1]),
    ],
)
def test_task_features_are_what_the_reward_depends_on(family: str, task: Any, features: list[float]) -> None:
    env = make_task_env(f"maml_rl/{family}-v0", 1, 5)
    np.testing.assert_array_equal(env.task_features(task), features)


def test_wrong_use_of_task_in_observation() -> None:
    with pytest.raises(ValueError, match="task_in_observation is 'yes'; it must be True or False"):
        make_task_env("maml_rl/PointNav-v0", 1, 5, {"task_in_observation": "yes"})
    with pytest.raises(ValueError, match=r"PointNav.task_features: task is 'north', not numbers"):
        make_task_env("maml_rl/PointNav-v0", 1, 5).task_features("north")


# --- one policy for all tasks


def test_pooled_episodes_share_one_baseline_and_one_standardisation() -> None:
    config = MAMLConfig().environment("maml_rl/PointNav-v0")
    env = make_task_env("maml_rl/PointNav-v0", 2, 20)
    spec = config.policy_spec(env.single_observation_space, env.single_action_space)
    params = {k: v.numpy() for k, v in spec.init_params(0).items()}
    tasks = env.sample_tasks(6, np.random.default_rng(0))
    separate = [rollout(env, task, spec, params, stream(0, i)) for i, task in enumerate(tasks)]
    together = pool(separate)
    assert together.rewards.shape == (12, 20)
    np.testing.assert_array_equal(together.lengths[2:4], separate[1].lengths)
    advantages = make_samples([together], gamma=0.99, gae_lambda=1.0).advantages[0]
    assert advantages.mean().item() == pytest.approx(0, abs=1e-5)
    of_tasks = advantages.view(6, -1).mean(-1)
    # A task that is harder than the others has lower advantages: not so when each task is standardised alone.
    assert of_tasks.abs().max() > 0.3
    alone = make_samples(separate, gamma=0.99, gae_lambda=1.0).advantages.mean(-1)
    assert alone.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inner_steps": 0, "first_order": True}, "first_order is True, but inner_steps is 0"),
        (
            {"inner_steps": 0, "inner_loss": "likelihood_ratio"},
            "inner_loss is 'likelihood_ratio', but inner_steps",
        ),
        ({"inner_steps": 0, "learn_inner_lr": True}, "learn_inner_lr is True, but inner_steps is 0"),
        ({"inner_steps": 0, "context_size": 3}, "context_size is 3, but inner_steps is 0"),
        ({"learn_inner_lr": True, "context_size": 3}, "learn_inner_lr is True, but context_size is 3"),
        ({"context_size": -1}, "context_size is -1; it must be an integer >= 0"),
        ({"inner_steps": True}, "inner_steps is True; it must be an integer >= 0"),
    ],
)
def test_contradicting_settings(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MAMLConfig().environment("maml_rl/PointNav-v0").training(**fields).validate()


# --- end to end


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> dict[str, Path]:
    """A tiny run of each method, evaluated on the paper's goals."""
    found = {}
    for method in METHODS:
        path = tmp_path_factory.mktemp("methods") / method
        size = ["--meta-batch-size", "4", "--episodes-per-task", "3"]
        iterations = "0" if method == "random" else "2"
        arguments = ["--method", method, "--iterations", iterations, "--output", str(path)]
        if method == "guided":
            arguments += ["--expert", str(found["oracle"])]
        assert main(["train", "point-nav", *TINY, *size, *arguments]) == 0
        evaluation = ["--episodes", "3", "--num-workers", "0"]
        assert main(["evaluate", str(path), *evaluation]) == 0
        found[method] = path
    return found


def test_every_method_is_trained_and_evaluated(runs: dict[str, Path]) -> None:
    for method, path in runs.items():
        assert json.loads((path / "config.json").read_text())["method"] == method
        result = json.loads((path / "adaptation.json").read_text())
        steps = 0 if method in ("oracle", "rl2") else 3
        assert len(result["mean"]) == (2 if method == "rl2" else steps + 1)  # a trial has two episodes
        assert result["tasks"] == 40
        assert result["standard_tasks"]
        first = {"pretrained": 0.05, "random": 0.5, "context-vector": 0.5}.get(method, 0.1)
        assert result["step_sizes"] == [first, first / 2, first / 2][:steps]
        if steps:
            assert result["returns"][0] != result["returns"][1]


def test_training_moves_every_policy_but_the_random_one(runs: dict[str, Path]) -> None:
    initial = load_policy(runs["random"] / "policy.safetensors").params
    for method in ("maml", "first-order", "pretrained"):
        latest = load_policy(runs[method] / "checkpoint.safetensors").params
        assert not torch.equal(latest["mean.weight"], initial["mean.weight"])
    assert not (runs["random"] / "progress.csv").exists()


def test_first_order_is_not_second_order(runs: dict[str, Path]) -> None:
    maml, first = (
        load_policy(runs[name] / "checkpoint.safetensors").params for name in ("maml", "first-order")
    )
    assert not torch.equal(maml["mean.weight"], first["mean.weight"])


def test_an_oracle_takes_no_steps(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(runs["oracle"]), "--steps", "1"]) == 2
    assert "steps is 1, but a policy of method 'oracle' is not adapted" in capsys.readouterr().err


def test_a_resumed_run_keeps_its_method(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(runs["maml"]), "--method", "oracle"]) == 2
    assert "method is 'oracle', but" in capsys.readouterr().err


def test_zero_iterations_are_for_fresh_weights_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "point-nav", "--iterations", "0"]) == 2
    assert "iterations is 0" in capsys.readouterr().err


def test_tune_names_the_best_step_size(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["tune-inner-lr", str(runs["maml"]), "--tasks", "3", "--num-workers", "0", "--inner-lr"]
    assert main([*command, "0.05", "0.1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["mean"].keys() == {"0.05", "0.1"}
    assert result["best"] == max((0.05, 0.1), key=lambda lr: result["mean"][str(lr)][-1])
    assert main([*command, "0.1", "-1"]) == 2
    assert "inner_lr is -1" in capsys.readouterr().err
    assert main([*command, "0.1", "--steps", "0"]) == 2


def test_held_out_tasks_of_tuning_are_not_the_test_tasks(runs: dict[str, Path]) -> None:
    policy = load_policy(runs["maml"] / "policy.safetensors")
    test, tuning = HeldOut(policy).tasks, HeldOut(policy, tasks=20, seed=1).tasks
    assert not {tuple(t) for t in test} & {tuple(t) for t in tuning}


# --- beginning with a trained policy


def test_start_from_a_trained_policy(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "point-nav", *TINY, "--meta-batch-size", "2", "--iterations", "1"]
    begun = tmp_path / "begun"
    assert main([*command, "--start-from", str(runs["maml"]), "--output", str(begun)]) == 0
    # The best policy of a single iteration is the one it began with.
    first = load_policy(begun / "policy.safetensors").params
    expected = load_policy(runs["maml"] / "policy.safetensors")
    for name, value in expected.params.items():
        assert torch.equal(first[name], value)
    assert json.loads((begun / "config.json").read_text())["start_from"]["sha256"] == expected.sha256

    assert main([*command, "--start-from", str(runs["oracle"]), "--output", str(tmp_path / "x")]) == 2
    assert "observation_size=4" in capsys.readouterr().err
    assert main([*command, "--start-from", str(tmp_path / "none.safetensors")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    learned = tmp_path / "learned"
    assert main([*command, "--learn-inner-lr", "True", "--output", str(learned)]) == 0
    capsys.readouterr()
    assert main([*command, "--start-from", str(learned), "--output", str(tmp_path / "y")]) == 2
    assert "holds learned step sizes; it needs --learn-inner-lr True" in capsys.readouterr().err
    assert main(["train", "--resume", str(begun), "--start-from", str(runs["maml"])]) == 2
    assert "is resumed: it has a policy" in capsys.readouterr().err


# --- figures


def test_figures_of_all_methods_equal_their_csv(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    assert main(["plot", *map(str, runs.values()), "--output", str(tmp_path)]) == 0
    files = {Path(line) for line in capsys.readouterr().out.split()}
    names = ("learning_curve", "adaptation_curve", "trajectories")
    pictures = {tmp_path / (name + suffix) for name in names for suffix in (".png", ".svg", ".pdf")}
    assert files == pictures | {tmp_path / "adaptation_curve.csv"}
    for picture in pictures:
        if picture.suffix == ".png":
            colors = set(Image.open(picture).convert("L").get_flattened_data())
            assert len(colors) > 10, f"{picture} is blank"
        elif picture.suffix == ".svg":
            assert picture.read_text().rstrip().endswith("</svg>")
        else:
            content = picture.read_bytes()
            assert content.startswith(b"%PDF")
            assert b"/Type3" not in content  # fonts that journals refuse
    with (tmp_path / "adaptation_curve.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "maml_rl"]
    for method, path in runs.items():
        mean = [float(row["mean"]) for row in rows if row["method"] == method]
        assert mean == pytest.approx(json.loads((path / "adaptation.json").read_text())["mean"])


def test_curves_hold_the_numbers_they_were_given() -> None:
    from maml_rl.views.plots import Panel, adaptation_curves, learning_curves

    panel = Panel(
        "p", {"maml": [(1.0, 0.5), (2.0, None)], "oracle": [(3.0, 0.1)]}, {"maml": [(0.0, None)] * 2}
    )
    (axes,) = adaptation_curves([panel]).axes
    drawn = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
    assert drawn == {"maml": [1, 2], "oracle": [3, 3], "maml (paper)": [0, 0]}
    of_maml, of_the_oracle = (shade.get_paths()[0].vertices[:, 1] for shade in axes.collections)
    assert (of_maml.min(), of_maml.max()) == (0.5, 2)  # 1 ± 0.5, then 2 without an interval
    assert (of_the_oracle.min(), of_the_oracle.max()) == (2.9, 3.1)

    rows = [[{"iteration": i, "return_post": r * i} for i in range(4)] for r in (1.0, 3.0)]
    (axes,) = learning_curves({"maml": [rows[0], rows[1][:3]]}).axes
    (line,) = axes.lines
    assert line.get_ydata().tolist() == [0, 2, 4]
    # Two runs: s = |difference| / sqrt(2), the half width 1.96 s / sqrt(2).
    upper = axes.collections[0].get_paths()[0].vertices[:, 1].max()
    assert upper == pytest.approx(4 + 1.96 * 4 / 2)


def test_runs_that_do_not_belong_together(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "adaptation.json", "progress.csv"):
        (other / name).write_text((runs["maml"] / name).read_text())
    both = [str(runs["maml"]), str(other), "--output", str(tmp_path / "plots")]

    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "config": {**config["config"], "horizon": 7}}))
    assert main(["plot", *both]) == 2
    assert "do not belong together: horizon of their settings is 7 and 10" in capsys.readouterr().err
    (other / "config.json").write_text(json.dumps(config))

    result = json.loads((other / "adaptation.json").read_text())
    (other / "adaptation.json").write_text(json.dumps({**result, "tasks": 3}))
    assert main(["plot", *both]) == 2
    assert "tasks of their evaluation is 3 and 40" in capsys.readouterr().err
    (other / "adaptation.json").write_text("{")
    assert main(["plot", *both]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert not os.path.exists(tmp_path / "plots")


def test_plot_needs_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot"]) == 2
    assert "runs is empty" in capsys.readouterr().err
    assert main(["plot", str(tmp_path)]) == 2
    assert "is not a run" in capsys.readouterr().err
