"""The remote runners of a group: who is there, who is busy, who is coming back. Nothing here waits."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError
from ray.rllib.env.env_runner_group import EnvRunnerGroup

logger = logging.getLogger("maml_rl")

FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 30.0
"""Seconds between two questions whether a lost runner is back: doubled from the first to the second."""


@dataclass
class _Absence:
    """What is known of a runner that is out of service."""

    ping: ray.ObjectRef | None = None
    wait_s: float = FIRST_WAIT_S
    ask_at: float = 0.0


class RunnerPool:
    """Runners that can be given work; those that failed are asked in the background whether they are back.

    Ray restarts a runner whose process died, on any node that has room, also one that joins later. A runner that
    Ray has given up is replaced, unless ``restart_failed_env_runners`` is False. ``restarts`` counts
    those that came back.
    """

    def __init__(self, group: EnvRunnerGroup) -> None:
        self._group = group
        # RLlib offers no public way from a runner's id to its actor.
        self._manager = group._worker_manager
        self._absences: dict[int, _Absence] = {}
        self._late: dict[int, list[ray.ObjectRef]] = {}
        self.restarts = 0

    @property
    def local(self) -> Any:
        """The runner in this process."""
        return self._group.local_env_runner

    @property
    def recovery_s(self) -> float:
        """How long to wait for the first runner to come back when all are lost."""
        return float(self._group._remote_config.env_runner_health_probe_timeout_s)

    def __len__(self) -> int:
        return self._group.num_remote_env_runners()

    def ready(self) -> dict[int, Any]:
        """Actors by id that are in service and not occupied with work that nobody waits for."""
        for actor_id in list(self._late):
            results = self._late[actor_id]
            ended, self._late[actor_id] = ray.wait(results, num_returns=len(results), timeout=0)
            for result in ended:
                try:
                    ray.get(result)
                except RayActorError:  # it died over what another one was faster with
                    self.lose(actor_id)
                except RayTaskError:
                    pass
            if not self._late[actor_id] or not self._manager.is_actor_healthy(actor_id):
                del self._late[actor_id]
        healthy = self._manager.healthy_actor_ids()
        return {i: self._manager.actors()[i] for i in healthy if i not in self._late}

    def leave_behind(self, actor_id: int, result: ray.ObjectRef) -> None:
        """The runner is still busy with ``result``, which somebody else was faster with."""
        self._late.setdefault(actor_id, []).append(result)

    def lose(self, actor_id: int) -> None:
        """Take a runner out of service."""
        self._manager.set_actor_state(actor_id, healthy=False)

    @property
    def complete(self) -> bool:
        """Whether all runners are in service."""
        return len(self._manager.healthy_actor_ids()) == len(self)

    def look(self) -> list[int]:
        """Take back those runners that answer again, and return their ids."""
        back = []
        for actor_id in self._manager.actor_ids():
            if self._manager.is_actor_healthy(actor_id):
                self._absences.pop(actor_id, None)
            elif self._is_back(actor_id, self._absences.setdefault(actor_id, _Absence())):
                self._manager.set_actor_state(actor_id, healthy=True)
                back.append(actor_id)
                self.restarts += 1
        return back

    def _is_back(self, actor_id: int, absence: _Absence) -> bool:
        if absence.ping is None:
            if time.monotonic() >= absence.ask_at:
                absence.ping = self._manager.actors()[actor_id].ping.remote()
            return False
        if not ray.wait([absence.ping], timeout=0)[0]:
            return False
        try:
            ray.get(absence.ping)
        except RayError as error:
            absence.ping = None
            absence.ask_at = time.monotonic() + absence.wait_s
            absence.wait_s = min(2 * absence.wait_s, LONGEST_WAIT_S)
            if isinstance(error, ActorDiedError) and self._group._remote_config.restart_failed_env_runners:
                self._replace(actor_id)
            return False
        return True

    def _replace(self, actor_id: int) -> None:
        logger.warning("env runner %d is gone for good and is replaced", actor_id)
        group = self._group
        # As RLlib made the first ones, whose ids are their indices: the place in a placement group is the same.
        self._manager._actors[actor_id] = group._make_worker(
            env_creator=group._env_creator,
            validate_env=None,
            worker_index=actor_id,
            num_workers=len(self),
            recreated_worker=True,
            config=group._remote_config_obj_ref,
        )
