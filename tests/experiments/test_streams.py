"""No two purposes share a random stream: training, measurement and video, whatever the phase, task or copy."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import PPO, SINGLE, TINY, Algorithms, tiny_algorithms, tiny_config

from maml_rl.envs import make_task_env
from maml_rl.envs.rollout import Phase, rollout, stream
from maml_rl.experiments.evaluation import evaluate
from maml_rl.experiments.held_out import HeldOut
from maml_rl.policies.mlp import MLP
from maml_rl.policies.policy_file import PolicyFile
from maml_rl.views.video import film_episodes

ITERATIONS, INNER_STEPS = 2, 2


@pytest.fixture(scope="module")
def algorithms(local_ray: None) -> Iterator[Algorithms]:
    with tiny_algorithms() as found:
        # Types are looked up when a function is first called: that of generators before a recorder replaces it.
        for settings in (PPO, SINGLE):
            found.build(tiny_config(**settings)).train()
        yield found


# --- what is asked for, recorded without changing it


@dataclass
class Record:
    """Names of streams, first states of generators, and seeds of torch's, each time one is asked for."""

    names: list[tuple[int, ...]] = field(default_factory=list)
    states: list[tuple[int, int]] = field(default_factory=list)
    torch_seeds: list[int] = field(default_factory=list)

    def repeated(self) -> dict[str, list[Any]]:
        """What was asked for more than once."""
        lists = {"names": self.names, "states": self.states, "torch_seeds": self.torch_seeds}
        return {what: [x for x, n in Counter(found).items() if n > 1] for what, found in lists.items()}


NONE_REPEATED: dict[str, list[Any]] = {"names": [], "states": [], "torch_seeds": []}


@contextmanager
def recording() -> Iterator[Record]:
    """Records what the package asks of ``SeedSequence`` and ``default_rng``, and its seeds for torch."""
    record, original = Record(), np.random.default_rng

    def by_the_package() -> bool:
        """RLlib and Gymnasium seed generators of their own, which no trajectory depends on."""
        caller = sys._getframe(2).f_globals["__name__"]
        return caller == __name__ or caller.startswith("maml_rl.")

    class Sequence(np.random.SeedSequence):
        def __init__(self, entropy: Any = None, *, spawn_key: Any = (), **kwargs: Any) -> None:
            super().__init__(entropy, spawn_key=spawn_key, **kwargs)
            if by_the_package():
                record.names.append((entropy, *map(int, spawn_key)))

    def default_rng(seed: Any = None) -> np.random.Generator:
        generator = original(seed)
        if by_the_package():
            assert seed is not None, "unseeded: no run could be repeated"
            state: Any = generator.bit_generator.state["state"]
            record.states.append((state["state"], state["inc"]))
        return generator

    class Generator(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            if by_the_package():
                record.torch_seeds.append(seed)
            return super().manual_seed(seed)

    def manual_seed(seed: int) -> Any:
        if by_the_package():
            record.torch_seeds.append(seed)
        return seed_torch(seed)

    seed_torch: Callable[[int], Any] = torch.manual_seed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "SeedSequence", Sequence)
        patch.setattr(np.random, "default_rng", default_rng)
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(torch, "manual_seed", manual_seed)
        yield record


def trained(algorithms: Algorithms, seed: int, **settings: Any) -> Record:
    """What a training asks for."""
    with recording() as record:
        algo = algorithms.build(tiny_config(seed=seed, **settings))
        for _ in range(ITERATIONS):
            algo.train()
    return record


def measured(seed: int, method: str = "maml", trained_with: int = 0) -> Record:
    """What an evaluation of two drawn tasks asks for, and a video."""
    spec = MLP.gaussian(2, 2, hidden_sizes=(4,))
    info: dict[str, Any] = {"preset": "point-nav", "method": method, "env": "maml_rl/PointNav-v0"}
    info |= {"env_config": {}, "horizon": 6, "inner_lr": 0.1, "gamma": 0.9, "gae_lambda": 0.9}
    info |= {"baseline_ridge": 0.1, "iteration": 1, "seed": trained_with}
    policy = PolicyFile(spec, spec.init_params(0), info)
    with recording() as record:
        held_out = HeldOut(policy, steps=INNER_STEPS, episodes=3, tasks=2, seed=seed)
        evaluate(held_out.make_env(), held_out.protocol, held_out.tasks)
        camera = make_task_env("maml_rl/PointNav-v0", 1, 3, render_mode="rgb_array")
        params = {name: value.numpy() for name, value in policy.params.items()}
        film_episodes(camera, held_out.tasks[0], spec, params, stream(seed, Phase.VIDEO))
    return record


# --- the tests

KINDS: dict[str, dict[str, Any]] = {
    "trpo": {"inner_steps": INNER_STEPS},
    "ppo": PPO | {"inner_steps": INNER_STEPS},
    "one policy": {"inner_steps": 0},
    "critic": SINGLE,
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_stream_serves_two_purposes(kind: str, algorithms: Algorithms) -> None:
    seed, settings = 11, KINDS[kind]
    training = trained(algorithms, seed, **settings)
    both = Record()
    for record in (training, measured(seed), measured(seed + 1, "random", trained_with=seed)):
        both.names += record.names
        both.states += record.states
        both.torch_seeds += record.torch_seeds
    assert both.repeated() == NONE_REPEATED
    assert all(name[0] in (seed, seed + 1) for name in both.names), "a stream that no seed chooses"


def test_a_training_asks_for_as_many_streams_as_it_has_purposes(algorithms: Algorithms) -> None:
    record = trained(algorithms, 3, inner_steps=INNER_STEPS)
    phases, tasks, copies = INNER_STEPS + 1, TINY["meta_batch_size"], TINY["episodes_per_task"]
    rollouts = ITERATIONS * phases * tasks
    # The initial weights; per iteration the tasks, the minibatches and, per rollout, one name.
    assert len(record.names) == 1 + ITERATIONS * 2 + rollouts
    # Per iteration the tasks; per rollout the noise of the actions. The copies of an environment are made once
    # and reseeded in every rollout.
    assert len(record.states) == ITERATIONS + rollouts * (1 + copies)
    by_phase = Counter(name[1] for name in record.names)
    assert by_phase == {
        Phase.TASKS: ITERATIONS,
        Phase.INIT: 1,
        Phase.MINIBATCHES: ITERATIONS,
        Phase.ROLLOUT: rollouts,
    }


def test_another_seed_shares_no_stream(algorithms: Algorithms) -> None:
    first = trained(algorithms, 20, **KINDS["trpo"])
    for other in (trained(algorithms, 21, **KINDS["trpo"]), measured(21)):
        assert not set(first.names) & set(other.names)
        assert not set(first.states) & set(other.states)
        assert not set(first.torch_seeds) & set(other.torch_seeds)


def test_purposes_have_numbers_of_their_own() -> None:
    assert len({int(phase) for phase in Phase}) == len(Phase.__members__)
    # Published runs are repeated by these numbers.
    assert {phase.name: int(phase) for phase in Phase} == {
        "TASKS": 0,
        "INIT": 1,
        "ROLLOUT": 2,
        "EVALUATION_TASKS": 3,
        "EVALUATION": 4,
        "VIDEO": 5,
        "MINIBATCHES": 6,
        "CRITIC": 7,
        "VALIDATION": 8,
        "NORMALIZER": 9,
    }


def test_nothing_is_drawn_from_generators_that_others_share(algorithms: Algorithms) -> None:
    def states() -> list[Any]:
        return [*map(str, np.random.get_state()), torch.get_rng_state().tolist()]

    for settings in KINDS.values():
        algo = algorithms.build(tiny_config(**settings))
        before = states()
        algo.train()
        assert states() == before
    before = states()
    measured(0, "random")
    assert states() == before


def test_copies_start_apart_from_each_other_and_from_the_noise() -> None:
    with recording() as record:
        env = make_task_env("maml_rl/HalfCheetahVel-v0", 4, 2)
        spec = MLP.gaussian(20, 6, hidden_sizes=(3,))
        params = {name: value.numpy() for name, value in spec.init_params(0).items()}
        trajectories = rollout(env, 1.0, spec, params, stream(0, 9))
    assert len(record.states) == 5
    assert record.repeated() == NONE_REPEATED
    assert len(np.unique(trajectories.observations[:, 0], axis=0)) == 4


def test_the_recorder_notices_a_stream_that_is_used_twice() -> None:
    with recording() as record:
        for _ in range(2):
            np.random.default_rng(stream(1, Phase.ROLLOUT, 0))
            torch.Generator().manual_seed(5)
    assert record.repeated() == {"names": [(1, 2, 0)], "states": [record.states[0]], "torch_seeds": [5]}
