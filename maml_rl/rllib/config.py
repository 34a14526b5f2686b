"""``MAMLConfig``: the one configuration of a run, with the source of every default."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import gymnasium
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from maml_rl.envs import check_env_name
from maml_rl.envs.naming import find_target, is_own
from maml_rl.envs.trials import TRIAL_EPISODES
from maml_rl.learning.adaptation import InnerUpdateSettings
from maml_rl.learning.meta_update import MetaUpdateSettings
from maml_rl.learning.ppo import PPOSettings
from maml_rl.learning.trpo import LineSearch
from maml_rl.policies.network_policy import Filter
from maml_rl.policies.policy import Policy
from maml_rl.rllib.contradictions import reject_contradictions
from maml_rl.rllib.env_registry import find_env
from maml_rl.rllib.env_runner import MAMLEnvRunner
from maml_rl.rllib.model_config import fields_of
from maml_rl.rllib.policy_builder import Model, build_policy
from maml_rl.rllib.rules import (
    HVP,
    RULES,
    TRAINING_FIELDS,
    Activation,
    InnerLoss,
    OuterUpdate,
    Recurrent,
    reject_unused,
)
from maml_rl.tools.checks import checked, plain
from maml_rl.tools.time_limit import SAMPLE_TIMEOUT_S

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner import Learner

    from maml_rl.rllib.learner_team import LearnerTeam


class MAMLConfig(AlgorithmConfig):
    """Configuration of MAML with a TRPO meta-update (Finn et al. 2017, Algorithm 3).

    ``outer_update="ppo"`` takes PPO's steps in place of TRPO's.

    Example::

        config = MAMLConfig().environment("maml_rl/PointNav-v0").training(inner_lr=0.1)
        algo = config.build_algo()
        print(algo.train()["return_post"])
    """

    algorithm: ClassVar[type]
    """MAML: set by its module, which imports this one. Ray Tune's registry forgets it with ``ray.shutdown``."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or self.algorithm)
        # The source of each: "paper" is Finn et al. 2017, "code" its authors' published code. Defaults without one
        # switch something off.
        self.inner_lr: float = 0.1  # paper, app. A.2
        self.inner_steps: int = 1  # paper, app. A.2
        self.context_size: int = 0
        self.learn_inner_lr: bool = False
        self.first_order: bool = False
        self.inner_loss: InnerLoss = "log_prob"  # paper, eq. 4
        self.expert: str | None = None
        self.expert_std_scale: float = 1.0
        self.expert_clip: bool = False
        self.meta_batch_size: int = 20  # paper, app. A.2
        self.episodes_per_task: int = 20  # paper, app. A.2
        self.horizon: int = 100  # paper, app. A.2
        self.gamma: float = 0.99  # code
        self.gae_lambda: float = 1.0  # code
        self.baseline_ridge: float = 1e-5  # code
        self.normalize_observations: bool = False
        self.normalize_rewards: bool = False
        self.outer_update: OuterUpdate = "trpo"  # paper, sec. 5.3
        self.max_kl: float = 0.01  # code
        self.hvp: HVP = "finite_difference"  # paper, sec. 5.3
        self.hvp_step: float = 0.005  # measured against the exact product: see docs/how/curvature.md
        self.curvature_fraction: float = 1.0
        self.cg_iterations: int = 10  # code
        self.cg_residual_tol: float = 1e-10  # code
        self.cg_damping: float = 1e-5  # code
        self.line_search_steps: int = 15  # code
        self.line_search_ratio: float = 0.8  # code
        self.clip_param: float = 0.2  # Schulman et al. 2017
        self.entropy_coeff: float = 0.0
        self.hidden_sizes: tuple[int, ...] = (100, 100)  # paper, app. A.2
        self.activation: Activation = "relu"  # paper, app. A.2
        self.layer_norm: bool = False
        self.conv_filters: tuple[Filter, ...] | None = None
        self.recurrent: Recurrent = None
        self.recurrent_size: int = 64
        self.adapt_only: tuple[str, ...] = ()
        self.module: Any = None
        self.initial_std: float = 1.0  # code
        self.min_std: float = 1e-6  # code
        # RLlib's own fields with other defaults.
        self.lr: float = 1e-3  # trials on the ant (docs/log.md)
        self.num_epochs: int = 10  # trials on the ant (docs/log.md)
        self.minibatch_size: int = 1000  # trials on the ant (docs/log.md)
        self.env_runner_cls = MAMLEnvRunner
        self._registered: gymnasium.envs.registration.EnvSpec | None = None
        self._dont_auto_sync_env_runner_states = True  # they have none
        self.seed: int = 0
        self.num_env_runners = 0
        self.sample_timeout_s = SAMPLE_TIMEOUT_S

    def training(
        self,
        *,
        inner_lr: float = NotProvided,
        inner_steps: int = NotProvided,
        context_size: int = NotProvided,
        learn_inner_lr: bool = NotProvided,
        first_order: bool = NotProvided,
        inner_loss: InnerLoss = NotProvided,
        expert: str = NotProvided,
        expert_std_scale: float = NotProvided,
        expert_clip: bool = NotProvided,
        meta_batch_size: int = NotProvided,
        episodes_per_task: int = NotProvided,
        horizon: int = NotProvided,
        gamma: float = NotProvided,
        gae_lambda: float = NotProvided,
        baseline_ridge: float = NotProvided,
        normalize_observations: bool = NotProvided,
        normalize_rewards: bool = NotProvided,
        outer_update: OuterUpdate = NotProvided,
        max_kl: float = NotProvided,
        hvp: HVP = NotProvided,
        hvp_step: float = NotProvided,
        curvature_fraction: float = NotProvided,
        cg_iterations: int = NotProvided,
        cg_residual_tol: float = NotProvided,
        cg_damping: float = NotProvided,
        line_search_steps: int = NotProvided,
        line_search_ratio: float = NotProvided,
        lr: float = NotProvided,
        num_epochs: int = NotProvided,
        minibatch_size: int = NotProvided,
        clip_param: float = NotProvided,
        entropy_coeff: float = NotProvided,
        hidden_sizes: tuple[int, ...] = NotProvided,
        activation: Activation = NotProvided,
        layer_norm: bool = NotProvided,
        conv_filters: tuple[tuple[int, int, int], ...] | None = NotProvided,
        recurrent: Recurrent = NotProvided,
        recurrent_size: int = NotProvided,
        adapt_only: tuple[str, ...] = NotProvided,
        module: Any = NotProvided,
        initial_std: float = NotProvided,
        min_std: float = NotProvided,
        **rllib: Any,
    ) -> Self:
        """Set the algorithm's parameters.

        Args:
            inner_lr: step size alpha of the inner gradient step; its initial value when it is learned.
            inner_steps: number of inner gradient steps, each on episodes of its own; 0 trains one policy for all
                tasks.
            context_size: free parameters appended to the observation, which alone are adapted (Rei 2015); 0
                adapts the whole policy.
            learn_inner_lr: meta-learn one step size per parameter (Li et al. 2017, Meta-SGD).
            first_order: drop second derivatives through the inner step (Finn et al. 2017, sec. 5.2).
            inner_loss: what the inner step is a step on: ``log_prob``, or ``likelihood_ratio``, which has the same
                gradient but also the right second derivative of the expected return (Rothfuss et al. 2019, ProMP).
            expert: run directory or policy file of an oracle to imitate, instead of maximising the return
                (Mendonca et al. 2019).
            expert_std_scale: factor on the expert's standard deviation, which is imitated too; an expert explores
                more than its pupils need.
            expert_clip: imitate the expert's actions as the environment clips them; for experts whose actions lie
                mostly outside the box, and pupils that cannot imitate how far.
            meta_batch_size: tasks per meta-update; independent of the number of env runners.
            episodes_per_task: episodes K per task and phase.
            horizon: steps H after which an episode is cut.
            gamma: discount of the returns, in [0, 1].
            gae_lambda: lambda of generalised advantage estimation, in [0, 1].
            baseline_ridge: ridge of the linear baseline; a larger one fits the noise of few episodes less.
            normalize_observations: the policy sees observations in units of their running standard deviation,
                around their running mean; both are part of the meta-state.
            normalize_rewards: rewards are divided by the running standard deviation of discounted returns. The
                linear baseline follows their scale by itself; a learned critic does not.
            outer_update: ``trpo``, or ``ppo``: epochs of minibatches with Adam (Schulman et al. 2017, Rothfuss
                et al. 2019).
            max_kl: trust region delta: bound of the mean KL between old and new adapted policies.
            hvp: Hessian-vector products by symmetric ``finite_difference`` or ``exact``.
            hvp_step: length of the finite-difference displacement of the parameters.
            curvature_fraction: fraction of both phases' samples, in (0, 1], that Hessian-vector products use.
            cg_iterations: conjugate-gradient iterations.
            cg_residual_tol: squared residual below which conjugate gradient stops.
            cg_damping: added to the diagonal of the Hessian.
            line_search_steps: step lengths tried, at most.
            line_search_ratio: ratio of one tried length to the one before, in (0, 1).
            lr: Adam's step size in PPO.
            num_epochs: passes over a batch in PPO, at most.
            minibatch_size: samples per gradient step in PPO.
            clip_param: PPO's bound of the probability ratio's distance from 1.
            entropy_coeff: PPO's reward for the policy's entropy.
            hidden_sizes: units of the policy's hidden layers.
            activation: of the hidden layers; the derivatives of ``relu`` and ``tanh`` are written out, all others
                are left to autograd and take longer.
            layer_norm: normalise every hidden layer before its activation (Ba et al. 2016).
            conv_filters: channels, kernel size and stride of each convolution of an image, without padding; none
                at all flattens images. By default as many of 3 x 3 with stride 2 as the image takes.
            recurrent: ``gru`` or ``lstm`` after the hidden layers, whose state lasts an episode.
            recurrent_size: units of the recurrent cell.
            adapt_only: beginnings of the names of the parameters that inner steps change, such as ``hidden.1`` or
                ``mean``; the others are meta-learned only. By default all are adapted.
            module: your own network in place of those that the fields above describe: package.module:Class of a
                torch.nn.Module, made with the observation space and the number of outputs; in Python also the
                class, a function that makes one, or a module itself (see ``policies.module_policy``).
            initial_std: initial standard deviation of the actions, whose unit is half the action range.
            min_std: lower bound of the standard deviation.
            rllib: RLlib's own arguments; those without effect on MAML are refused by ``validate``.
        """
        given = {k: v for k, v in locals().items() if k in TRAINING_FIELDS and v is not NotProvided}
        for name, value in given.items():
            setattr(self, name, value)
        super().training(**rllib)
        return self

    def environment(self, env: Any = NotProvided, **rllib: Any) -> Self:
        """Set the environment, and its arguments with ``env_config``.

        Args:
            env: a registered id, a name given to ``ray.tune.register_env``, a class or function that makes one, or
                ``"module:attribute"``.
            rllib: RLlib's own arguments; those without effect on MAML are refused by ``validate``.
        """
        if isinstance(env, str) and env.startswith("__main__:"):
            env = find_target(env)  # in a runner's process another program is the main one
        super().environment(env, **rllib)
        return self

    def rl_module(
        self,
        *,
        model_config: Any = NotProvided,
        rl_module_spec: Any = NotProvided,
        **rllib: Any,
    ) -> Self:
        """Set the policy's network the way RLlib's users do.

        Args:
            model_config: a ``DefaultModelConfig``, or a dictionary of some of its fields.
            rl_module_spec: an ``RLModuleSpec``: its class returns inputs of RLlib's action distributions (for
                boxes means, then logarithms of deviations); without a class only its ``model_config`` counts.
            rllib: has no effect on MAML and is refused by ``validate``.

        Raises:
            ValueError: a field of the model's configuration means nothing here.
        """
        if rl_module_spec is not NotProvided:
            if rl_module_spec is not None and not isinstance(rl_module_spec, RLModuleSpec):
                raise ValueError(f"rl_module_spec is {rl_module_spec!r}; it must be an RLModuleSpec")
            if rl_module_spec is None or rl_module_spec.module_class is not None:
                self.module = rl_module_spec
            elif model_config is NotProvided:
                model_config = rl_module_spec.model_config
        if model_config is not NotProvided:
            self.training(**fields_of(model_config))
        super().rl_module(**rllib)
        return self

    def validate(self) -> None:
        """Check every field before any worker starts.

        Raises:
            ValueError: naming the field, its value and what is allowed.
        """
        self._reject_unknown_fields()
        if not self.in_evaluation:  # RLlib derives that configuration by itself and changes more
            reject_unused(self)
        for name, rule in RULES.items():
            given = getattr(self, name)
            value = checked(name, given, rule)
            if value is not given:
                setattr(self, name, value)
        self.inner_lr = float(self.inner_lr)  # an integer is a number too
        if self.expert:
            self.expert = str(Path(self.expert).absolute())  # Ray Tune's trials run in folders of their own
        if not isinstance(self.env_config, dict):
            raise ValueError(f"env_config is {self.env_config!r}; it must be a dictionary")
        reject_contradictions(self, MAMLConfig())
        if self.is_multi_agent:
            raise ValueError("policies: multi-agent settings were given; MAML trains a single agent")
        for name, value, base in (
            ("env_runner_cls", self.env_runner_cls, MAMLEnvRunner),
            ("learner_class", self.learner_class, self.get_default_learner_class()),
        ):
            if not (isinstance(value, type) and issubclass(value, base)):
                raise ValueError(f"{name} is {value!r}; it must be a class derived from {base.__name__}")
        check_env_name(find_env(self.env))
        # Whoever registered it here has not done so in the processes of the runners.
        foreign = isinstance(self.env, str) and not is_own(self.env)
        self._registered = gymnasium.registry.get(self.env) if foreign else None
        super().validate()

    def get_state(self) -> dict[str, Any]:
        """RLlib's state, with every field of MAML's: RLlib takes what equals -1 for something deprecated.

        Without them a horizon of -1 would become the default before it could be refused.
        """
        fields = {name: plain(getattr(self, name)) for name in RULES}
        without = self.copy(copy_frozen=False)
        vars(without).update(fields)
        return AlgorithmConfig.get_state(without) | fields

    def _reject_unknown_fields(self) -> None:
        default = MAMLConfig()
        known = {*vars(default), *default.get_state()}
        # Ray Tune adds names like __stdout_file__.
        unknown = sorted(name for name in vars(self) if name not in known and not name.startswith("__"))
        if unknown:
            raise ValueError(f"unknown config field(s): {', '.join(unknown)}")

    # --- what the components are built from

    def policy_spec(
        self, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]
    ) -> Policy:
        """The policy for a task family's spaces.

        Raises:
            ValueError: a field does not fit the spaces.
        """
        return build_policy(observation_space, action_space, self._model())

    def _model(self) -> Model:
        return Model(
            hidden_sizes=self.hidden_sizes,
            activation=self.activation,
            layer_norm=self.layer_norm,
            conv_filters=self.conv_filters,
            recurrent=self.recurrent,
            recurrent_size=self.recurrent_size,
            adapt_only=self.adapt_only,
            initial_std=self.initial_std,
            min_std=self.min_std,
            context_size=self.context_size,
            module=self.module,
        )

    def inner_update_settings(self) -> InnerUpdateSettings:
        """The fields the adaptation to a task reads."""
        return InnerUpdateSettings(self.inner_lr, self.first_order, self.inner_loss)

    def meta_update_settings(self) -> MetaUpdateSettings:
        """The fields the meta-update reads."""
        return MetaUpdateSettings(
            max_kl=self.max_kl,
            hvp=self.hvp,
            hvp_step=self.hvp_step,
            curvature_fraction=self.curvature_fraction,
            cg_iterations=self.cg_iterations,
            cg_residual_tol=self.cg_residual_tol,
            cg_damping=self.cg_damping,
            line_search=LineSearch(self.line_search_steps, self.line_search_ratio),
        )

    def ppo_settings(self) -> PPOSettings:
        """The fields PPO reads."""
        return PPOSettings(
            lr=self.lr,
            num_epochs=self.num_epochs,
            minibatch_size=self.minibatch_size,
            max_kl=self.max_kl,
            line_search=LineSearch(self.line_search_steps, self.line_search_ratio),
        )

    @property
    def trial_episodes(self) -> int:
        """Episodes of a trial, through which the state of a recurrent policy lasts: 1 but for RL2."""
        return self.env_config.get(TRIAL_EPISODES, 1)

    @property
    def learns_trials(self) -> bool:
        """Whether a recurrent policy adapts by what it remembers of a task, and not by gradient steps: RL2."""
        return self.inner_steps == 0 and TRIAL_EPISODES in self.env_config

    @property
    def has_critic(self) -> bool:
        """Whether a critic is learned: by PPO where one policy acts in all tasks alike."""
        return self.outer_update == "ppo" and self.inner_steps == 0 and not self.learns_trials

    def build_learner_group(
        self,
        *,
        env: Any = None,
        spaces: Any = None,
        rl_module_spec: Any = None,
        placement_group: Any = None,
    ) -> LearnerTeam:
        """As RLlib's, of learners that need no process group of torch's."""
        from maml_rl.rllib.learner_team import LearnerTeam

        spec = rl_module_spec or self.get_multi_rl_module_spec(env=env, spaces=spaces)
        return LearnerTeam(config=self.copy(), module_spec=spec, placement_group=placement_group)

    def get_default_learner_class(self) -> type[Learner]:
        from maml_rl.rllib.learner import MAMLLearner

        return MAMLLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        from maml_rl.rllib.rl_module import PolicyModule

        learned_inner_lr = self.inner_lr if self.learn_inner_lr else None
        return RLModuleSpec(
            module_class=PolicyModule,
            model_config={
                **self._model(),
                "learned_inner_lr": learned_inner_lr,
                "normalize_observations": self.normalize_observations,
                "normalize_rewards": self.normalize_rewards,
            },
        )
