"""A run's evaluation as a result to be published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maml_rl.experiments.evaluation import AdaptationResult
from maml_rl.experiments.held_out import HeldOut
from maml_rl.experiments.methods import configure
from maml_rl.experiments.presets import get_experiment
from maml_rl.experiments.run import Run
from maml_rl.experiments.training import result_fields
from maml_rl.policies.policy_file import PolicyFile
from maml_rl.tools.command_line import option_words, shell_line
from maml_rl.tools.published import RUN, Published, evaluation_now, training_of

_NOT_IN_COMMANDS = ("start_from", "iterations")


def published(
    policy: PolicyFile,
    held_out: HeldOut,
    result: AdaptationResult,
    run: Run | None,
    options: Mapping[str, Any],
) -> Published:
    """The record of an evaluation.

    Args:
        run: None for a policy that comes with the package.
        options: of the evaluation, where they differ from their defaults.
    """
    info = policy.info
    preset, method = info["preset"], info["method"]
    seed = int(info.get("seed", 0))
    training: dict[str, Any] = {"policy": "comes with the package"}
    settings: dict[str, Any] = {"policy": "shipped"}
    if run is not None:
        training = training_of(run)
        settings = _settings(run, preset, method, training["iterations"])
    protocol = {name: value for name, value in options.items() if name != "steps"}
    train = ["maml-rl", "train", preset, "--method", method, "--seed", seed, "--output", RUN]
    train += option_words({k: v for k, v in settings.items() if k not in _NOT_IN_COMMANDS})
    if "iterations" in settings:
        train += ["--iterations", settings["iterations"]]
    if "start_from" in settings:
        train += ["--start-from", f"policy-{settings['start_from']}"]
    measured = [RUN] if run else [preset, "--pretrained"]
    switches = {name: None if value is True else value for name, value in options.items()}
    evaluate = ["maml-rl", "evaluate", *measured, *option_words(switches)]
    return Published(
        program="maml-rl",
        preset=preset,
        method=method,
        settings=settings,
        protocol=protocol,
        seed=seed,
        commands=[shell_line(*words) for words in ([train, evaluate] if run else [evaluate])],
        model={
            "which": options.get("policy", "best"),
            "iteration": info["iteration"],
            "sha256": policy.sha256,
        },
        training=training,
        evaluation=evaluation_now(**held_out.description()),
        rows={"return": result.returns, **result.infos},
        groups=result.groups,
    )


def _settings(run: Run, preset: str, method: Any, finished: int) -> dict[str, Any]:
    """Fields in which a run differs from its preset; its iterations are those that it has ``finished``."""
    told = run.description()
    config, iterations = configure(get_experiment(preset), method)
    usual = result_fields(config) | {"iterations": iterations}
    there = {**told["config"], "iterations": finished}
    found = {k: there[k] for k, value in usual.items() if k != "seed" and k in there and there[k] != value}
    if "start_from" in told:
        found["start_from"] = str(told["start_from"].get("sha256", ""))[:8]
    return found
