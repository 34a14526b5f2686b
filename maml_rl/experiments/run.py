"""The run directory of a policy: beside what ``tools.run_directory`` keeps, policies and evaluations.

::

    policy.safetensors    the best policy by return after adaptation
    adaptation.json       what ``maml-rl evaluate`` measured
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from maml_rl.policies.policy_file import (
    POLICY,
    PolicyFile,
    PolicyFileError,
    load_policy,
    pretrained_policy,
    shipped_policies,
)
from maml_rl.tools.run_directory import RunDirectory, RunError

POLICY_FIELDS = (
    "preset",
    "method",
    "env",
    "env_config",
    "horizon",
    "inner_lr",
    "gamma",
    "gae_lambda",
    "baseline_ridge",
    "iteration",
)
"""What a policy's description says beside the shape of the network, and adaptation needs."""


class Run(RunDirectory):
    """Paths and files of one run."""

    def adaptation(self) -> dict[str, Any] | None:
        """What ``maml-rl evaluate`` found, or None before it was called; raises RunError when damaged."""
        file = self.path / "adaptation.json"
        if not file.exists():
            return None
        try:
            result: dict[str, Any] = json.loads(file.read_text())
            _ = [result[name] for name in ("returns", "tasks", "episodes", "standard_tasks")]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{self.shown(file.name)} is damaged ({error!r}); run maml-rl evaluate {self.place} again"
            ) from error
        return result

    def policy_path(self, which: str) -> Path:
        """The best policy, or the latest checkpoint's."""
        if which == "latest":
            return self.checkpoint
        path = self.path / POLICY
        if not path.exists():
            raise RunError(f"{self.place} holds no {POLICY}: the run has not finished an iteration")
        return path

    def policy(self, which: str) -> PolicyFile:
        """The best policy or the latest checkpoint's, read and checked.

        Raises:
            RunError: there is none.
            PolicyFileError: it is damaged, lacks what adaptation needs, or is not of this run's environment.
        """
        path = self.policy_path(which)
        policy = _complete(path)
        env = self.description()["config"].get("env")
        if policy.info["env"] != env:
            raise PolicyFileError(f"{path} is a policy of {policy.info['env']!r}, but the run is of {env!r}")
        return policy


def trained_policy(name: str, which: str, pretrained: bool) -> tuple[Run | None, PolicyFile]:
    """The run in the directory ``name`` and its policy, or a policy that has no run.

    Args:
        name: a run directory; if ``pretrained``, a preset whose policy comes with the package or an exported
            folder.
        which: the run's best or its latest policy.
        pretrained: whether the policy has no run.

    Raises:
        RunError: there is no such run.
        PolicyFileError: there is no such policy, it is damaged, or it lacks what adaptation needs.
    """
    if pretrained:
        return None, _complete(pretrained_policy(name))
    try:
        run = Run.open(name)
        return run, run.policy(which)
    except RunError as error:
        if name in shipped_policies():
            raise RunError(
                f"{error}; with --pretrained, {name} is the policy that comes with the package"
            ) from error
        raise


def _complete(path: Path) -> PolicyFile:
    policy = load_policy(path)
    missing = [name for name in POLICY_FIELDS if name not in policy.info]
    if missing:
        raise PolicyFileError(f"{path} lacks {', '.join(missing)}")
    return policy
