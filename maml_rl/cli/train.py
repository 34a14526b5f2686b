"""``maml-rl train``."""

from __future__ import annotations

import itertools
import json as json_module
import os
import time
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tyro.conf import FlagCreatePairsOff, Positional

from maml_rl.envs.naming import naming_options
from maml_rl.experiments.methods import METHODS, MethodName
from maml_rl.experiments.plan import Plan, initial_policy, new_plan, refuse_changes, stored_plan
from maml_rl.experiments.presets import EXPERIMENTS
from maml_rl.experiments.run import Run
from maml_rl.experiments.training import TrainingRun, describe
from maml_rl.policies.policy_file import PolicyFile
from maml_rl.rllib.config import MAMLConfig
from maml_rl.rllib.resources import check_resources, env_runners_that_fit
from maml_rl.rllib.rules import TRAINING_FIELDS
from maml_rl.tools.command_line import print_json, shell_line
from maml_rl.tools.options import explanations, given, option_groups
from maml_rl.tools.ray_start import cluster_named, start_ray

GROUPS = {
    "adaptation": (
        *("inner_lr", "inner_steps", "inner_loss", "learn_inner_lr", "first_order", "context_size"),
    ),
    "data": (
        "meta_batch_size",
        "episodes_per_task",
        "horizon",
        "gamma",
        "gae_lambda",
        "baseline_ridge",
        "normalize_observations",
        "normalize_rewards",
    ),
    "meta-update": (
        *("outer_update", "max_kl", "hvp", "hvp_step", "curvature_fraction", "cg_iterations"),
        *("cg_residual_tol", "cg_damping", "line_search_steps", "line_search_ratio"),
    ),
    "PPO": ("lr", "num_epochs", "minibatch_size", "clip_param", "entropy_coeff"),
    "guidance": ("expert", "expert_std_scale", "expert_clip"),
    "policy": (
        *("hidden_sizes", "activation", "layer_norm", "conv_filters", "recurrent", "recurrent_size"),
        *("adapt_only", "module", "initial_std", "min_std"),
    ),
}


def train_options(arguments: Sequence[str]) -> type:
    """The configuration's fields as options, with the defaults of the preset and method that are named."""
    preset = next((word for word in arguments if word in EXPERIMENTS), None)
    method = next((b for a, b in itertools.pairwise(arguments) if a == "--method"), "maml")
    config = MAMLConfig()
    if preset is not None and method in METHODS:
        config = new_plan(preset, typing.cast(MethodName, method)).config
    hints = typing.get_type_hints(MAMLConfig.training) | {"module": str}
    defaults = {name: getattr(config, name) for name in TRAINING_FIELDS}
    return option_groups(GROUPS, hints, explanations(MAMLConfig.training), defaults)


def train(
    preset: Positional[str | None] = None,
    *,
    method: MethodName | None = None,
    iterations: int | None = None,
    seed: int | None = None,
    env_config: dict[str, str] | None = None,
    output: str | None = None,
    resume: str | None = None,
    env: str | None = None,
    start_from: str | None = None,
    checkpoint_every: int | None = None,
    num_env_runners: int | None = None,
    num_learners: int | None = None,
    gpus: int | None = None,
    address: str | None = None,
    verbose: FlagCreatePairsOff[bool] = False,
    json: FlagCreatePairsOff[bool] = False,
    fields: Any,
) -> None:
    """Meta-train a policy. Ctrl-C ends after the present iteration, with a checkpoint.

    The defaults shown are those of the preset that is named, or else of MAMLConfig: "maml-rl train PRESET --help"
    shows a preset's own.

    Args:
        preset: the experiment to run, or module:Class for an environment of your own; not needed with
            --resume.
        method: maml, unless another is given: a baseline of the paper, or guided, which imitates an --expert.
        iterations: meta-updates in total; by default the preset's number.
        seed: the run is a function of its configuration and this number; 0 unless given.
        env_config: further arguments of the environment, as NAME VALUE pairs.
        output: run directory, a path or a URI (s3://BUCKET/runs/NAME); by default runs/PRESET-DATE-TIME.
        resume: continue the run in this directory.
        env: with --resume, the run's environment where it is not the package's own: files do not choose what is
            imported.
        start_from: begin with the trained policy of this run directory or .safetensors file.
        checkpoint_every: iterations between checkpoints; 10 unless given.
        num_env_runners: rollout worker processes; 0 collects in this process. By default one per core of the
            machine, at most 8; on a cluster one per CPU, at most one per task.
        num_learners: learner actors among which the tasks are shared out; 0, the default, learns in the
            present process.
        gpus: this many learners, each an actor with a GPU of its own.
        address: Ray cluster to connect to; by default RAY_ADDRESS, else a local Ray.
        verbose: say of an iteration that is slow what made it so.
        json: print the last iteration's metrics as JSON.
    """
    changes = given(fields) | ({} if seed is None else {"seed": seed})
    if resume is None:
        run, plan = None, new_plan_of(preset, method, changes, env, env_config)
    else:
        run = Run.open(resume)
        _refuse_with_resume(run, output=output, start_from=start_from)
        plan = _stored(run, preset, method, changes, env, env_config)
    if iterations is not None:
        plan.iterations = iterations
    if checkpoint_every is not None:
        plan.checkpoint_every = checkpoint_every
    if num_env_runners is None and resume is None:
        num_env_runners = _default_env_runners()
    place_learner(plan.config, num_env_runners, num_learners, gpus)
    # What is wrong with configuration, environment, expert or policy is said here, before anything starts.
    family = plan.check()
    initial = None if start_from is None else initial_policy(plan.config, family, start_from)
    family.close()
    fresh = run is None
    run = run or Run.free(output or _default_output(plan))
    start_ray(address)
    if num_env_runners is None and resume is None and cluster_named(address):
        plan.config.num_env_runners = env_runners_that_fit(plan.config, plan.config.meta_batch_size)
    check_resources(plan.config)
    started = time.monotonic()
    training = _training(plan, run, fresh, start_from, initial)
    training.verbose = verbose
    row = training()
    if json:
        print_json({**row, "run": str(run.place)})
    else:
        _say(run, plan, row, time.monotonic() - started)


# --- steps


def new_plan_of(
    preset: str | None,
    method: MethodName | None,
    changes: dict[str, Any],
    env: str | None,
    env_config: dict[str, str] | None,
) -> Plan:
    if preset is None:
        raise ValueError(f"preset is missing; it must be one of: {', '.join(EXPERIMENTS)}")
    if env is not None:
        raise ValueError(
            f"env is {env!r}, but no run is resumed; name the environment in place of the preset"
        )
    plan = new_plan(preset, method or "maml")
    for name, value in (changes | _merged(plan.config, env_config)).items():
        setattr(plan.config, name, value)
    return plan


def _stored(
    run: Run,
    preset: str | None,
    method: MethodName | None,
    changes: dict[str, Any],
    env: str | None,
    env_config: dict[str, str] | None,
) -> Plan:
    plan = stored_plan(run, env or preset, changes.get("module"))
    for name, value in (("preset", preset), ("method", method)):
        if value not in (None, getattr(plan, name)):
            raise ValueError(f"{name} is {value!r}, but {run.place} holds a run of {getattr(plan, name)!r}")
    refuse_changes(run, plan.config, changes | _merged(plan.config, env_config))
    return plan


def _refuse_with_resume(run: Run, *, output: str | None, start_from: str | None) -> None:
    if output is not None:
        raise ValueError(f"output is {output}, but a resumed run stays in its directory {run.place}")
    if start_from is not None:
        raise ValueError(
            f"start_from is {start_from}, but the run in {run.place} is resumed: it has a policy"
        )


def _merged(config: MAMLConfig, env_config: dict[str, str] | None) -> dict[str, Any]:
    if env_config is None:
        return {}
    return {"env_config": {**config.env_config, **{k: _literal(v) for k, v in env_config.items()}}}


def _literal(text: str) -> Any:
    try:
        return json_module.loads(text)
    except ValueError:
        return text


def place_learner(
    config: MAMLConfig, num_env_runners: int | None, num_learners: int | None, gpus: int | None
) -> None:
    """Where it is computed; the result does not depend on it."""
    if num_env_runners is not None:
        config.num_env_runners = num_env_runners
    if num_learners is not None and gpus:
        raise ValueError(
            f"num_learners is {num_learners} and gpus is {gpus}: each of the two is a number of learners"
        )
    if num_learners is not None:
        config.learners(num_learners=num_learners)
    if gpus is not None:
        config.learners(num_learners=gpus, num_gpus_per_learner=min(1, gpus))


def _default_env_runners() -> int:
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)


def _default_output(plan: Plan) -> Path:
    name = plan.preset if plan.method == "maml" else f"{plan.preset}-{plan.method}"
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _training(
    plan: Plan, run: Run, fresh: bool, start_from: str | None, initial: PolicyFile | None
) -> TrainingRun:
    description = None
    if fresh:
        description = describe(plan.config, plan.preset, plan.method, plan.iterations, plan.checkpoint_every)
        if initial is not None:
            description["start_from"] = {"path": start_from, "sha256": initial.sha256, **initial.info}
    return TrainingRun(
        plan.config,
        run,
        plan.preset,
        plan.method,
        plan.iterations,
        description,
        plan.checkpoint_every,
        None if initial is None else initial.meta_params(),
    )


def _say(run: Run, plan: Plan, row: dict[str, Any], seconds: float) -> None:
    line = f"{run.place}: {seconds:.0f} s"
    if row["iteration"] >= plan.iterations:  # an interrupted run has said how to go on
        names = naming_options(plan.config.env, plan.config.module)
        line += f"; next: {shell_line('maml-rl', 'evaluate', run.place, *names)}"
    print(line)
