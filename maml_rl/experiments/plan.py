"""What a training run is to be, new or gone on with, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maml_rl.envs import TaskVectorEnv, check_may_import
from maml_rl.envs.naming import UntrustedEnvError
from maml_rl.experiments.methods import GUIDED, METHODS, MethodName, configure
from maml_rl.experiments.presets import get_experiment
from maml_rl.experiments.run import Run
from maml_rl.experiments.training import RESOURCE_FIELDS, RESULT_FIELDS
from maml_rl.policies.normalizer import Normalizer
from maml_rl.policies.policy import Policy
from maml_rl.policies.policy_file import PolicyFile, PolicyFileError, load_policy, policy_file_in
from maml_rl.rllib.config import MAMLConfig
from maml_rl.rllib.env_registry import make_env
from maml_rl.rllib.expert import load_expert
from maml_rl.tools.checks import plain
from maml_rl.tools.run_directory import RunError
from maml_rl.tools.storage import Place
from maml_rl.tools.time_limit import time_limit


@dataclass
class Plan:
    """One training run; the attributes are those of ``TrainingRun``."""

    config: MAMLConfig
    preset: str
    method: MethodName
    iterations: int
    checkpoint_every: int = 10

    def check(self) -> TaskVectorEnv:
        """Refuse what cannot be trained; returns the environment, to be closed.

        Raises:
            ValueError: naming the field, its value and what is allowed.
        """
        least = 0 if self.method == "random" else 1  # fresh weights are not trained
        for name, value, lowest in (
            ("iterations", self.iterations, least),
            ("checkpoint_every", self.checkpoint_every, 1),
        ):
            if type(value) is not int or value < lowest:
                raise ValueError(f"{name} is {value!r}; it must be an integer of at least {lowest}")
        config = self.config
        if (self.method == GUIDED) != (config.expert is not None):
            raise ValueError(
                f"expert is {config.expert!r}, but method is {self.method!r}; {GUIDED} and no other method takes "
                "one, the run directory or policy file of --method oracle"
            )
        config.validate()
        with time_limit(config.sample_timeout_s, "the environment did not start within sample_timeout_s"):
            env = make_env(config, 1)
        policy = config.policy_spec(env.single_observation_space, env.single_action_space)
        if config.expert is not None:
            load_expert(config.expert, env, recurrent=policy.recurrent)
        return env


def new_plan(preset: str, method: MethodName) -> Plan:
    """A preset's run.

    Raises:
        ValueError: there is no such preset or method.
    """
    config, iterations = configure(get_experiment(preset), method)
    return Plan(config, preset, method, iterations)


def stored_plan(run: Run, named_env: str | None, named_module: str | None = None) -> Plan:
    """The run that ``run`` holds, to be gone on with.

    Args:
        named_env: the run's environment, where it is not the package's own.
        named_module: likewise the policy's network.

    Raises:
        RunError: the description is not one of a run, naming the field.
        UntrustedEnvError: the environment or the network has to be named.
    """
    stored, file = run.description(), run.shown("config.json")
    for name in ("preset", "method", "iterations", "checkpoint_every"):
        if name not in stored:
            raise RunError(f"{file} lacks {name}")
    if stored["method"] not in METHODS:
        raise RunError(f"method is {stored['method']!r} in {file}; it must be one of: {', '.join(METHODS)}")
    get_experiment(str(stored["preset"]))
    fields, known = stored["config"], {*RESULT_FIELDS, *RESOURCE_FIELDS}
    if fields.keys() != known:
        missing, unknown = known - fields.keys(), fields.keys() - known
        what = f"lacks {min(missing)}" if missing else f"holds the unknown field {min(unknown)}"
        raise RunError(f"{file} {what}")
    check_may_import(fields["env"], named_env)
    if fields["module"] not in (None, named_module):
        raise UntrustedEnvError(
            f"module is {fields['module']!r} in {file}, and files do not choose what is imported; if you trust it, "
            f"name it yourself: --module {fields['module']}"
        )
    config = MAMLConfig()
    for name, value in fields.items():
        setattr(config, name, value if name == "env_config" else plain(value))
    return Plan(config, stored["preset"], stored["method"], stored["iterations"], stored["checkpoint_every"])


def refuse_changes(run: Run, config: MAMLConfig, given: Mapping[str, Any]) -> None:
    """A run that is gone on with keeps its configuration.

    Raises:
        RunError: a given value differs from the stored one.
    """
    for name, value in given.items():
        stored = getattr(config, name)
        if value != stored:
            raise RunError(
                f"{name} is {value!r}, but the run in {run.place} was started with {stored!r}: "
                "a resumed run keeps its configuration"
            )


def initial_policy(config: MAMLConfig, env: TaskVectorEnv, source: Place) -> PolicyFile:
    """The policy to begin with; it must be of the shape that ``config`` trains on its environment ``env``."""
    path = policy_file_in(source)
    policy = load_policy(path)
    spec = config.policy_spec(env.single_observation_space, env.single_action_space)
    if _architecture(policy.spec) != _architecture(spec):
        raise PolicyFileError(f"start_from: {path} holds {policy.spec}, but this run trains {spec}")
    normalizer = policy.normalizer or Normalizer()
    for name, found in (("observations", normalizer.observations), ("rewards", normalizer.returns)):
        wanted = getattr(config, f"normalize_{name}")
        if wanted != (found is not None):
            raise PolicyFileError(
                f"start_from: {path} was trained with normalize_{name} {not wanted}, and this run has {wanted}"
            )
    if set(policy.params) != set(spec.shapes) and not config.learn_inner_lr:
        raise PolicyFileError(f"start_from: {path} holds learned step sizes; it needs --learn-inner-lr True")
    return policy


def _architecture(policy: Policy) -> dict[str, Any]:
    """What a policy computes from its parameters; a standard deviation's first and least values are no part."""
    described = policy.as_dict()
    head = {k: v for k, v in described["head"].items() if k not in ("initial_std", "min_std")}
    return described | {"head": head}
