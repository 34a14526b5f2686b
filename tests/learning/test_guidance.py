"""Guided MAML: the imitation loss, the expert, and that an expert's knowledge ends up in the adaptation."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import numpy_params, random_params, random_samples, reference_policy, small_spec, valid_samples
from torch.distributions import kl_divergence

from maml_rl import MAML
from maml_rl.cli.app import main
from maml_rl.envs import make_task_env
from maml_rl.experiments.presets import point_nav
from maml_rl.learning.adaptation import adapt_policy
from maml_rl.learning.batch import Samples
from maml_rl.learning.curvature import ChunkCurvature
from maml_rl.learning.guidance import Expert
from maml_rl.learning.losses import imitation_and_kl, surrogate_and_kl
from maml_rl.learning.meta_learner import stack_params
from maml_rl.policies.distributions import Gaussian
from maml_rl.policies.heads import LOG_STD
from maml_rl.policies.mlp import MLP
from maml_rl.policies.policy import Params, Scratch, to_blocks
from maml_rl.policies.policy_file import PolicyFileError, save_policy
from maml_rl.rllib.expert import load_expert

SPEC = small_spec()
COUNTS = [4, 7]
EXPERT_LOG_STD = torch.tensor([0.3, -0.5, 0.1], dtype=torch.double)
EXPERT_SPEC = MLP.gaussian(observation_size=4, action_size=2, hidden_sizes=(4,))


# --- the loss


def test_imitation_loss_by_brute_force() -> None:
    samples = random_samples(SPEC, COUNTS)
    params, old_params = random_params(SPEC, 0), random_params(SPEC, 1)
    policy, old = (SPEC(stack_params(p, 2), samples.observations) for p in (params, old_params))
    loss, kl = imitation_and_kl([EXPERT_LOG_STD])(policy, old, samples)
    for task in range(2):
        observations, shown, _ = valid_samples(samples, task)
        total = 0.0
        for o, mean in zip(observations, shown, strict=True):
            expert = torch.distributions.Independent(
                torch.distributions.Normal(mean, EXPERT_LOG_STD.exp()), 1
            )
            total += float(kl_divergence(expert, reference_policy(SPEC, params, o)))
        assert float(loss[task]) == pytest.approx(total / COUNTS[task])
    assert torch.equal(kl, surrogate_and_kl(policy, old, samples)[1])


def test_imitation_loss_known_answers() -> None:
    # KL(N(0, 1) || N(1, 1)) = 1/2; KL of equals = 0; KL(N(0, 1) || N(0, e)) = (1 / e^2 - 1) / 2 + 1.
    one = torch.ones(1, 1, 1)
    samples = Samples(one, 0 * one, torch.ones(1, 1), torch.ones(1, 1))
    outer_loss = imitation_and_kl([torch.zeros(1)])
    for mean, log_std, expected in ((1, 0, 0.5), (0, 0, 0), (0, 1, (math.exp(-2) - 1) / 2 + 1)):
        policy = Gaussian(mean * one, torch.full((1, 1), float(log_std)))
        loss, kl = outer_loss(policy, policy, samples)
        assert float(loss) == pytest.approx(expected)
        assert float(kl) == 0


def test_gradient_of_the_imitation_loss_is_that_of_autograd() -> None:
    outer_loss = imitation_and_kl([EXPERT_LOG_STD])
    params = {name: value.requires_grad_() for name, value in random_params(SPEC).items()}
    pre, post = random_samples(SPEC, COUNTS, 1), random_samples(SPEC, COUNTS, 2)
    policy = SPEC(adapt_policy(SPEC, params, [pre], 0.3), post.observations)
    loss = outer_loss(policy, policy.detach(), post)[0].sum()
    expected = torch.autograd.grad(loss, [params[name] for name in SPEC.shapes])
    blocks = to_blocks(SPEC, {name: value.detach() for name, value in params.items()})
    curvature = ChunkCurvature(
        SPEC, blocks, (pre,), post, 0.3, Scratch(), first_order=False, outer_loss=outer_loss
    )
    for x, y in zip(curvature.loss_gradient(), expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


# --- the expert


def goal_seeker(gain: float = 8.0) -> Params:
    """An exact oracle for point navigation: mean action = gain (goal - position), as a ReLU network.

    An action of 1 moves by the largest allowed step, 0.1.
    """
    difference = torch.tensor([[-1.0, 0, 1, 0], [0, -1, 0, 1]])
    return {
        "hidden.0.weight": torch.cat([difference, -difference]),
        "hidden.0.bias": torch.zeros(4),
        "mean.weight": gain * torch.tensor([[1.0, 0, -1, 0], [0, 1, 0, -1]]),
        "mean.bias": torch.zeros(2),
        LOG_STD: torch.full((2,), -1.0),
    }


@pytest.fixture(scope="module")
def expert_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("expert") / "oracle.safetensors"
    save_policy(path, EXPERT_SPEC, numpy_params(goal_seeker()), {"preset": "point-nav"})
    return path


def test_an_expert_sees_each_tasks_own_features() -> None:
    spec = MLP.gaussian(observation_size=2, action_size=2)
    samples = random_samples(spec, [3, 5], dtype=torch.float32)
    goals = np.array([[0.1, 0.2], [-0.4, 0.3]])
    expert = Expert(EXPERT_SPEC, goal_seeker(), std_scale=0.5)
    shown = expert.show(samples, goals)
    expected = 8 * (torch.from_numpy(goals).float()[:, None] - samples.observations)
    torch.testing.assert_close(shown.actions, expected)
    assert (expected.abs() > 1).any()
    clipped = replace(expert, clip=True).show(samples, goals)
    torch.testing.assert_close(clipped.actions, expected.clamp(-1, 1))
    # The loss is 0 for the pupil that does what was shown, with the deviation that was asked for.
    pupil = Gaussian(expected, torch.full((2, 2), -1 - math.log(2)))
    loss, _ = expert.outer_loss(pupil, pupil, shown)
    torch.testing.assert_close(loss, torch.zeros(2))
    for name in ("observations", "advantages", "weights"):
        assert getattr(shown, name) is getattr(samples, name)


def test_an_expert_that_does_not_fit_is_refused(expert_file: Path) -> None:
    assert load_expert(expert_file, make_task_env("maml_rl/PointNav-v0", 1, 5)).spec == EXPERT_SPEC
    cheetah = make_task_env("maml_rl/HalfCheetahDir-v0", 1, 5)
    with pytest.raises(PolicyFileError, match=r"expert: .*oracle.safetensors has 4 inputs and GaussianHead"):
        load_expert(expert_file, cheetah)


def test_expert_and_method_belong_together(expert_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (("--method", "guided"), "expert is None, but method is 'guided'"),
        (("--expert", str(expert_file)), "but method is 'maml'; guided and no other method takes one"),
        (("--method", "guided", "--expert", "nowhere"), "is not a run"),
        (("--method", "guided", "--expert", str(expert_file), "--inner-steps", "0"), "inner_steps is 0"),
    ):
        assert main(["train", "point-nav", *arguments]) == 2
        assert message in capsys.readouterr().err


# --- does it learn


def guided(expert: Path) -> list[dict[str, float]]:
    config = point_nav().training(
        expert=str(expert), hidden_sizes=(32, 32), max_kl=0.2, meta_batch_size=10, hvp="exact"
    )
    algo = config.build_algo()
    try:
        return [algo.train() for _ in range(10)]
    finally:
        algo.stop()


def gain_from_adaptation(results: list[dict[str, float]]) -> float:
    return float(np.mean([result["return_post"] - result["return_pre"] for result in results]))


@pytest.fixture(scope="module")
def taught(local_ray: None, expert_file: Path) -> list[dict[str, float]]:
    return guided(expert_file)


def test_what_the_expert_knows_ends_up_in_the_adaptation(taught: list[dict[str, float]]) -> None:
    assert taught[-1]["loss_after"] < 0.3 * taught[0]["loss_before"]
    assert np.mean([result["return_post"] for result in taught[-5:]]) > -30
    assert gain_from_adaptation(taught[-5:]) > 12


def test_an_expert_that_was_told_other_tasks_teaches_no_adaptation(
    taught: list[dict[str, float]], expert_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Negative control: the same expert answers, but for the goal of another task.
    show = Expert.show
    monkeypatch.setattr(
        Expert, "show", lambda self, samples, goals, _: show(self, samples, np.roll(goals, 1, 0))
    )
    # A bad expert's policy walks about, and a step still gains a little: 0.11 to 0.17 of the other's, three seeds.
    assert gain_from_adaptation(guided(expert_file)[-3:]) < gain_from_adaptation(taught[-3:]) / 3


@pytest.mark.usefixtures("local_ray")
def test_a_guided_run_on_disk_is_adapted_like_any_other(
    expert_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ("--horizon", "10", "--meta-batch-size", "3", "--num-env-runners", "0")
    run = ("--iterations", "2", "--output", str(tmp_path / "run"))
    command = ("train", "point-nav", "--method", "guided", "--expert", str(expert_file))
    assert main([*command, *tiny, *run]) == 0
    assert (
        main(["train", "--resume", str(tmp_path / "run"), "--iterations", "3", "--num-env-runners", "0"]) == 0
    )
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--num-workers", "0", "--episodes", "2"]) == 0
    out = capsys.readouterr().out
    assert "guided, iteration" in out
    assert "| Finn et al. 2017 | -40.41" in out  # MAML's row


def test_the_learner_of_a_trial_finds_the_expert_from_any_folder(expert_file: Path) -> None:
    config = point_nav().training(expert=str(expert_file.relative_to("/")))
    config.validate()
    assert Path(config.expert).is_absolute()
    assert MAML.get_default_config().expert is None
