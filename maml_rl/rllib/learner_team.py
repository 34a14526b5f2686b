"""RLlib's group of learners: one in this process, or actors of which the first leads the others."""

from __future__ import annotations

from typing import Any

import ray
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.utils.actor_manager import FaultTolerantActorManager

from maml_rl.rllib.resources import learner_cpus


class LearnerTeam(LearnerGroup):
    """Learners as plain actors.

    RLlib's own group joins them to a process group of torch's, which listens on a port that asks nobody who he is,
    for gradients that a trust-region step does not have. These talk through Ray.
    """

    def __init__(self, *, config: Any, module_spec: Any = None, placement_group: Any = None) -> None:
        if config.num_learners == 0:
            super().__init__(config=config, module_spec=module_spec, placement_group=placement_group)
            return
        self._is_shut_down = False
        self.config = config.copy(copy_frozen=False)
        self._module_spec = module_spec or self.config.get_multi_rl_module_spec()
        self._learner, self._ts_dropped = None, 0
        self._workers: list[Any] = []
        # In a trial of Ray Tune actors go into its placement group by themselves.
        actor = ray.remote(self.config.learner_class).options(
            num_cpus=learner_cpus(config),
            num_gpus=max(0, config.num_gpus_per_learner),
            resources=config.custom_resources_per_learner or None,
        )
        self._workers = [
            actor.remote(config=config, module_spec=self._module_spec) for _ in range(config.num_learners)
        ]
        first, *others = self._workers
        ray.get([worker.build.remote() for worker in self._workers])
        ray.get(first.lead.remote(others))
        self._worker_manager = FaultTolerantActorManager(
            self._workers,
            max_remote_requests_in_flight_per_actor=self.config.max_requests_in_flight_per_learner,
        )

    def shutdown(self) -> None:
        """End the actors."""
        if self.is_local:
            super().shutdown()
        elif ray.is_initialized():
            for worker in self._workers:
                ray.kill(worker)
        self._is_shut_down = True
