"""The command line: ``maml-rl train | evaluate | tune | plot | video | report``."""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
import os
import re
import sys
import time
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from maml_rl.cli.results import evaluate, plot, print_json, report, tune, video
from maml_rl.envs import TaskVectorEnv, make_task_env
from maml_rl.experiments.methods import GUIDED, MethodName, configure
from maml_rl.experiments.presets import EXPERIMENTS, get_experiment
from maml_rl.rllib.config import TRAINING_FIELDS, MAMLConfig
from maml_rl.rllib.resources import check_resources

if TYPE_CHECKING:
    from maml_rl.policies.policy_file import PolicyFile


def _config_fields() -> type:
    """A dataclass with one optional field per config field, from ``MAMLConfig.training`` and its docstring."""
    help_texts = dict(re.findall(r"^ +(\w+): (.+?)$", inspect.getdoc(MAMLConfig.training) or "", re.M))
    hints = typing.get_type_hints(MAMLConfig.training)
    fields = [
        (
            name,
            Annotated[hints[name] | None, tyro.conf.arg(help=f"{help_texts[name]} (default: the preset's)")],
            dataclasses.field(default=None),
        )
        for name in TRAINING_FIELDS
    ]
    return dataclasses.make_dataclass("ConfigFields", fields)


ConfigFields = _config_fields()


def train(
    preset: Positional[str | None] = None,
    *,
    method: MethodName | None = None,
    fields: OmitArgPrefixes[ConfigFields] = ConfigFields(),  # type: ignore[valid-type]  # noqa: B008
    env_config: dict[str, str] | None = None,
    num_env_runners: int | None = None,
    gpus: Literal[0, 1] | None = None,
    iterations: int | None = None,
    seed: int | None = None,
    output: Path | None = None,
    resume: Path | None = None,
    start_from: Path | None = None,
    checkpoint_every: int = 10,
    address: str | None = None,
    json: bool = False,
) -> None:
    """Meta-train a policy. Ctrl-C ends after the present iteration, with a checkpoint.

    Args:
        preset: the experiment to run, or module:Class for an environment of your own; not needed with
            --resume.
        method: maml (default), a baseline of the paper, or guided, which imitates an --expert.
        env_config: further arguments of the environment, as NAME VALUE pairs.
        num_env_runners: rollout worker processes; 0 collects in this process. Default: one per core of the
            machine, at most 8.
        gpus: 1 runs the learner as an actor on a GPU.
        iterations: meta-updates in total; default: the preset's.
        seed: the run is a function of its configuration and this number.
        output: run directory; default: runs/PRESET-DATE-TIME.
        resume: continue the run in this directory.
        start_from: begin with the trained policy of this run directory or *.safetensors file.
        checkpoint_every: iterations between checkpoints.
        address: Ray cluster to connect to; default: RAY_ADDRESS, else a local Ray.
        json: print the last iteration's metrics as JSON.
    """
    from maml_rl.experiments.run import Run
    from maml_rl.experiments.training import TrainingRun, describe
    from maml_rl.rllib.expert import load_expert
    from maml_rl.tools.ray_start import start_ray

    run = None
    if resume is not None:
        run = Run.open(resume)
        config, preset, method, stored_iterations = _stored_config(run, preset, method)
    elif preset is None:
        raise ValueError(f"preset is missing; it must be one of: {', '.join(EXPERIMENTS)}")
    else:
        method = method or "maml"
        config, stored_iterations = configure(get_experiment(preset), method)
        config.num_env_runners = _default_env_runners()
    given = {k: v for k, v in vars(fields).items() if v is not None}
    if env_config is not None:
        given["env_config"] = {**config.env_config, **{k: _literal(v) for k, v in env_config.items()}}
    if seed is not None:
        given["seed"] = seed
    _apply(config, given, frozen=run)
    if num_env_runners is not None:
        config.num_env_runners = num_env_runners
    if gpus is not None:
        config.learners(num_learners=gpus, num_gpus_per_learner=gpus)
    total = stored_iterations if iterations is None else iterations
    least = 0 if method == "random" else 1  # fresh weights are not trained
    if total < least or checkpoint_every < 1:
        raise ValueError(
            f"iterations is {total}, checkpoint_every is {checkpoint_every}; "
            f"they must be at least {least} and 1"
        )
    if (method == GUIDED) != (config.expert is not None):
        raise ValueError(
            f"expert is {config.expert!r}, but method is {method!r}; {GUIDED} and no other method takes one, "
            "the run directory or policy file of --method oracle"
        )
    config.validate()
    if run is not None and output is not None:
        raise ValueError(f"output is {output}, but a resumed run stays in its directory {run.path}")
    if run is not None and start_from is not None:
        raise ValueError(f"start_from is {start_from}, but the run in {run.path} is resumed: it has a policy")
    # What is wrong with environment, expert or policy is said here, before anything starts.
    env = make_task_env(config.env, 1, config.horizon, config.env_config)
    if config.expert is not None:
        load_expert(Path(config.expert), env)
    initial = None if start_from is None else _initial_policy(config, env, start_from)
    env.close()
    description = None
    start_ray(address)
    check_resources(config)
    if run is None:
        name = preset if method == "maml" else f"{preset}-{method}"
        output = output or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        description = describe(config, preset, method, total, checkpoint_every)
        if initial is not None:
            description["start_from"] = {"path": str(start_from), **initial.info}
        run = Run.free(output)
    started = time.monotonic()
    row = TrainingRun(
        config,
        run,
        preset,
        method,
        total,
        description,
        checkpoint_every,
        start_from=None if initial is None else {k: v.numpy() for k, v in initial.params.items()},
    )()
    if json:
        print_json({**row, "run": str(run.path)})
    else:
        print(f"{run.path}: {time.monotonic() - started:.0f} s; next: maml-rl evaluate {run.path}")


# --- helpers


def _stored_config(
    run: Any, preset: str | None, method: str | None
) -> tuple[MAMLConfig, str, MethodName, int]:
    stored = run.description()
    for name, value in (("preset", preset), ("method", method)):
        if value not in (None, stored[name]):
            raise ValueError(f"{name} is {value!r}, but {run.path} holds a run of {stored[name]!r}")
    config = MAMLConfig()
    for name, value in stored["config"].items():
        setattr(config, name, value)
    config.hidden_sizes = tuple(config.hidden_sizes)
    return config, stored["preset"], stored["method"], stored["iterations"]


def _initial_policy(config: MAMLConfig, env: TaskVectorEnv, source: Path) -> PolicyFile:
    """The policy to begin with; it must be of the shape that ``config`` trains on its environment ``env``."""
    from maml_rl.policies.policy_file import PolicyFileError, load_policy, policy_file_in

    path = policy_file_in(source)
    policy = load_policy(path)
    spec = config.policy_spec(env.single_observation_space, env.single_action_space)
    if policy.spec.shapes != spec.shapes or policy.spec.activation != spec.activation:
        raise PolicyFileError(f"start_from: {path} holds {policy.spec}, but this run trains {spec}")
    if set(policy.params) != set(spec.shapes) and not config.learn_inner_lr:
        raise PolicyFileError(f"start_from: {path} holds learned step sizes; it needs --learn-inner-lr True")
    return policy


def _apply(config: MAMLConfig, given: dict[str, Any], frozen: Any) -> None:
    """Set fields; on a resumed run (``frozen``) refuse those that differ from what it was started with."""
    for name, value in given.items():
        stored = getattr(config, name)
        if frozen is not None and value != stored:
            raise ValueError(
                f"{name} is {value!r}, but the run in {frozen.path} was started with {stored!r}: "
                "a resumed run keeps its configuration"
            )
        setattr(config, name, value)


def _default_env_runners() -> int:
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 when a run failed, 2 for wrong input."""
    # RLlib announces its internals at every start; what concerns the user is raised as an error.
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    try:
        tyro.extras.subcommand_cli_from_dict(
            {command.__name__: command for command in (train, evaluate, tune, plot, video, report)},
            prog="maml-rl",
            args=arguments,
        )
    except (RuntimeError, ArithmeticError, TimeoutError) as error:  # TimeoutError before OSError, its base
        print(f"maml-rl: error: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"maml-rl: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("maml-rl: interrupted", file=sys.stderr)
        return 130
    return 0
