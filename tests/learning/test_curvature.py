"""Every hand-written derivative against plain autograd, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from helpers import (
    flat,
    gradient_and_hessian_product,
    meta_blocks,
    point_nav_samples,
    random_inner_lr,
    random_params,
    random_samples,
    reference_loss_and_kl,
    relative_error,
    small_spec,
    to_dtype,
)
from torch import Tensor

from maml_rl.learning.batch import Samples
from maml_rl.learning.curvature import ChunkCurvature, InnerStep
from maml_rl.learning.losses import policy_gradient_loss
from maml_rl.learning.meta_learner import Params, stack_params
from maml_rl.learning.meta_update import MetaUpdateSettings
from maml_rl.policies.distributions import Gaussian
from maml_rl.policies.meta_params import split_meta_params
from maml_rl.policies.mlp import LOG_STD, GaussianMLP
from maml_rl.policies.mlp_derivatives import Blocks, Network, Scratch, from_blocks, to_blocks

DOUBLE = torch.float64
COUNTS = [6, 4, 5]
TASKS = len(COUNTS)
EXACT = 1e-10
INNER_LR = 0.3

NETWORKS = [
    pytest.param(small_spec(activation=activation, hidden_sizes=hidden), id=f"{activation}-{len(hidden)}")
    for activation in ("relu", "tanh")
    for hidden in ((), (5,), (5, 4), (4, 6, 5))
] + [
    pytest.param(small_spec(activation=activation, context_size=3), id=f"{activation}-context")
    for activation in ("relu", "tanh")
]


def random_blocks(like: Blocks, seed: int) -> Blocks:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in like]


def task_blocks(spec: GaussianMLP) -> Blocks:
    """Different parameters for each task: a product that mixes tasks must show."""
    params = [random_params(spec, seed) for seed in range(TASKS)]
    return to_blocks(spec, {name: torch.stack([p[name] for p in params]) for name in spec.shapes})


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return float(flat(a).dot(flat(b)))


# --- blocks


@pytest.mark.parametrize("stacked", [False, True])
def test_blocks_and_back(stacked: bool) -> None:
    spec = small_spec()
    params = random_params(spec)
    params = stack_params(params, 2) if stacked else params
    again = from_blocks(spec, to_blocks(spec, params))
    assert list(again) == list(spec.shapes)
    for name, value in params.items():
        assert torch.equal(again[name], value)


# --- the network


def network_outputs(spec: GaussianMLP, blocks: Blocks, observations: Tensor) -> Gaussian:
    return spec(from_blocks(spec, blocks), observations)


def network_vjp(spec: GaussianMLP, blocks: Blocks, observations: Tensor, cotangents: Gaussian) -> Blocks:
    blocks = [b if b.requires_grad else b.clone().requires_grad_() for b in blocks]
    outputs = network_outputs(spec, blocks, observations)
    return list(torch.autograd.grad(outputs, blocks, cotangents, create_graph=True))


def make_network(
    spec: GaussianMLP, blocks: Blocks, *, keep: bool = True, seed: int = 0
) -> tuple[Network, Tensor]:
    observations = random_samples(spec, COUNTS, seed).observations
    return Network(spec, blocks, observations, Scratch(), keep=keep), observations


def random_outputs(network: Network, seed: int) -> Gaussian:
    return Gaussian(*random_blocks(list(network.outputs), seed))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("spec", NETWORKS)
def test_network_outputs(spec: GaussianMLP, keep: bool) -> None:
    blocks = task_blocks(spec)
    network, observations = make_network(spec, blocks, keep=keep)
    assert relative_error(network.outputs, network_outputs(spec, blocks, observations)) < EXACT


@pytest.mark.parametrize("spec", NETWORKS)
def test_network_jvp(spec: GaussianMLP) -> None:
    blocks = task_blocks(spec)
    network, observations = make_network(spec, blocks)
    tangents = random_blocks(blocks, 1)
    # The transpose of the transpose: differentiate <c, vjp(c)> in c, which is linear, by autograd.
    cotangents = Gaussian(*(torch.zeros_like(x, requires_grad=True) for x in network.outputs))
    pulled = network_vjp(spec, blocks, observations, cotangents)
    expected = torch.autograd.grad(pulled, cotangents, tangents)
    assert relative_error(network.jvp(tangents), expected) < EXACT


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("spec", NETWORKS)
def test_network_vjp(spec: GaussianMLP, keep: bool) -> None:
    blocks = task_blocks(spec)
    network, observations = make_network(spec, blocks, keep=keep)
    cotangents = random_outputs(network, 1)
    expected = network_vjp(spec, blocks, observations, cotangents)
    assert relative_error(network.vjp(cotangents, keep_errors=keep), [x.detach() for x in expected]) < EXACT


@pytest.mark.parametrize("spec", NETWORKS)
def test_network_second_vjp(spec: GaussianMLP) -> None:
    blocks = [b.requires_grad_() for b in task_blocks(spec)]
    network, observations = make_network(spec, [b.detach() for b in blocks])
    tangents, cotangents = random_blocks(blocks, 1), random_outputs(network, 2)
    moved = random_outputs(network, 3)

    # Directional derivative of vjp(blocks, cotangents) along (tangents, moved), by double backward.
    live = Gaussian(*(x.requires_grad_() for x in cotangents))
    pulled = network_vjp(spec, blocks, observations, live)
    probe = [torch.zeros_like(x, requires_grad=True) for x in pulled]
    transposed = torch.autograd.grad(
        pulled, [*blocks, *live], probe, create_graph=True, materialize_grads=True
    )
    expected = torch.autograd.grad(transposed, probe, [*tangents, *moved], materialize_grads=True)

    network.vjp(cotangents.detach(), keep_errors=True)
    network.jvp(tangents)
    assert relative_error(network.second_vjp(tangents, moved), expected) < EXACT


@pytest.mark.parametrize("spec", NETWORKS)
def test_products_repeat_although_work_arrays_are_reused(spec: GaussianMLP) -> None:
    blocks = task_blocks(spec)
    samples = random_samples(spec, COUNTS)
    step = InnerStep(spec, blocks, samples, INNER_LR, Scratch())
    v, w = random_blocks(blocks, 1), random_blocks(blocks, 2)
    first = step.hessian_product(v)
    step.hessian_product(w)
    step.vjp(w)
    assert relative_error(step.hessian_product(v), first) == 0


def test_a_clamped_standard_deviation_has_no_derivative() -> None:
    spec = small_spec(min_std=0.5)
    blocks = task_blocks(spec)
    blocks[-1][:, 1] = -5.0
    network, _ = make_network(spec, blocks)
    tangents, cotangents = random_blocks(blocks, 1), random_outputs(network, 2)
    live = torch.tensor([1.0, 0.0, 1.0], dtype=DOUBLE)
    assert torch.equal(network.jvp(tangents).log_std, tangents[-1] * live)
    assert torch.equal(network.vjp(cotangents)[-1], cotangents.log_std * live)


# --- one inner step


def inner_gradient(spec: GaussianMLP, blocks: Blocks, samples: Samples) -> Blocks:
    loss = policy_gradient_loss(network_outputs(spec, blocks, samples.observations), samples).sum()
    return list(torch.autograd.grad(loss, blocks, create_graph=True))


def inner_lr_blocks(spec: GaussianMLP) -> Blocks:
    return meta_blocks(spec, random_params(spec) | random_inner_lr(spec))[len(spec.shapes) :]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("spec", NETWORKS)
def test_inner_step_gradient_and_adapted_blocks(spec: GaussianMLP, keep: bool) -> None:
    blocks = [b.requires_grad_() for b in task_blocks(spec)]
    samples = random_samples(spec, COUNTS)
    expected = [g.detach() for g in inner_gradient(spec, blocks, samples)]
    for inner_lr in (INNER_LR, inner_lr_blocks(spec)):
        start = [b.detach() for b in blocks]
        step = InnerStep(spec, start, samples, inner_lr, Scratch(), keep=keep)
        assert relative_error(step.gradient, expected) < EXACT
        alphas = inner_lr if isinstance(inner_lr, list) else [inner_lr] * len(blocks)
        adapted = [b - a * g for b, a, g in zip(start, alphas, expected, strict=True)]
        assert relative_error(step.adapted, adapted) < EXACT


@pytest.mark.parametrize("spec", NETWORKS)
def test_inner_hessian_product(spec: GaussianMLP) -> None:
    blocks = [b.requires_grad_() for b in task_blocks(spec)]
    samples = random_samples(spec, COUNTS)
    v = random_blocks(blocks, 1)
    expected = torch.autograd.grad(inner_gradient(spec, blocks, samples), blocks, v)
    step = InnerStep(spec, [b.detach() for b in blocks], samples, INNER_LR, Scratch())
    assert relative_error(step.hessian_product(v), expected) < EXACT


@pytest.mark.parametrize("spec", NETWORKS)
@pytest.mark.parametrize("learned", [False, True])
def test_inner_step_jacobian_and_its_transpose(spec: GaussianMLP, learned: bool) -> None:
    blocks, samples = task_blocks(spec), random_samples(spec, COUNTS)
    inner_lr = inner_lr_blocks(spec) if learned else INNER_LR
    step = InnerStep(spec, blocks, samples, inner_lr, Scratch())
    v, w = random_blocks(blocks, 1), random_blocks(blocks, 2)
    assert inner(w, step.jvp(v)) == pytest.approx(inner(step.vjp(w), v), rel=1e-10)
    alphas = inner_lr if isinstance(inner_lr, list) else [inner_lr] * len(blocks)
    expected = [x - a * h for x, a, h in zip(v, alphas, step.hessian_product(v), strict=True)]
    assert relative_error(step.jvp(v), expected) < EXACT
    assert relative_error(step.jvp(v), v) > 1e-2, "the Hessian must matter, or this test sees nothing"


# --- the whole meta-objective


class Case:
    """A small meta-objective, with its ``ChunkCurvature`` and its autograd reference."""

    def __init__(
        self,
        spec: GaussianMLP,
        *,
        steps: int = 1,
        learned: bool = False,
        first_order: bool = False,
        dtype: torch.dtype = DOUBLE,
        counts: Sequence[int] = COUNTS,
        seed: int = 0,
    ) -> None:
        self.spec, self.first_order = spec, first_order
        self.meta_params = random_params(spec, seed, dtype)
        if learned:
            self.meta_params |= random_inner_lr(spec, seed, dtype)
        self.pre = [random_samples(spec, counts, seed + 10 + step, dtype) for step in range(steps)]
        self.post = random_samples(spec, counts[::-1], seed + 20, dtype)
        generator = torch.Generator().manual_seed(seed + 30)
        self.direction = {
            name: torch.randn(value.shape, generator=generator, dtype=dtype)
            for name, value in self.meta_params.items()
        }
        _, inner_lr = split_meta_params(self.meta_params, INNER_LR)
        fixed = inner_lr if isinstance(inner_lr, float) else [*inner_lr.values()]
        self.curvature = ChunkCurvature(
            spec,
            meta_blocks(spec, self.meta_params),
            self.pre,
            self.post,
            None if learned else fixed,
            Scratch(),
            first_order=first_order,
        )

    def blocks(self, params: Params) -> Blocks:
        return meta_blocks(self.spec, params)

    def reference(self) -> tuple[Blocks, Blocks]:
        """Surrogate gradient and KL-Hessian product, summed over tasks, by autograd."""

        def objective(params: Params, which: int) -> Tensor:
            both = reference_loss_and_kl(
                self.spec,
                params,
                self.meta_params,
                self.pre,
                self.post,
                INNER_LR,
                first_order=self.first_order,
            )
            return both[which] * len(self.post.weights)

        gradient, _ = gradient_and_hessian_product(
            lambda p: objective(p, 0), self.meta_params, self.direction
        )
        _, product = gradient_and_hessian_product(lambda p: objective(p, 1), self.meta_params, self.direction)
        return self.blocks(gradient), self.blocks(product)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("spec", NETWORKS)
def test_gradient_and_exact_product_are_those_of_double_backward(
    spec: GaussianMLP, steps: int, learned: bool, first_order: bool
) -> None:
    case = Case(spec, steps=steps, learned=learned, first_order=first_order)
    gradient, product = case.reference()
    assert relative_error(case.curvature.loss_gradient(), gradient) < EXACT
    assert relative_error(case.curvature.exact_product(case.blocks(case.direction)), product) < EXACT


def test_exact_product_where_a_standard_deviation_is_clamped() -> None:
    spec = small_spec(min_std=0.5)
    case = Case(spec, steps=2)
    case.meta_params[LOG_STD][1] = -5.0
    case.curvature = ChunkCurvature(
        spec, case.blocks(case.meta_params), case.pre, case.post, INNER_LR, Scratch(), first_order=False
    )
    gradient, product = case.reference()
    assert relative_error(case.curvature.loss_gradient(), gradient) < EXACT
    assert relative_error(case.curvature.exact_product(case.blocks(case.direction)), product) < EXACT


def test_second_order_terms_matter() -> None:
    # Negative control: were they missing, first and second order would agree.
    first, second = (Case(small_spec(), first_order=first_order) for first_order in (True, False))
    v = second.blocks(second.direction)
    assert relative_error(first.curvature.loss_gradient(), second.curvature.loss_gradient()) > 0.05
    assert relative_error(first.curvature.exact_product(v), second.curvature.exact_product(v)) > 0.05


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("learned", [False, True])
def test_pull_back_is_the_transpose_of_the_adaptations_jacobian(steps: int, learned: bool) -> None:
    case = Case(small_spec(), steps=steps, learned=learned)
    v = case.blocks(case.direction)
    pushed = case.curvature._push_forward(v)
    w = random_blocks(pushed, 5)
    assert inner(w, pushed) == pytest.approx(inner(case.curvature.pull_back(w), v), rel=1e-10)


@pytest.mark.parametrize("spec", NETWORKS)
@pytest.mark.parametrize("learned", [False, True])
def test_exact_product_is_linear_symmetric_and_positive_semidefinite(
    spec: GaussianMLP, learned: bool
) -> None:
    case = Case(spec, learned=learned)
    like = case.blocks(case.meta_params)
    for seed in range(3):
        u, v = random_blocks(like, seed), random_blocks(like, seed + 10)
        hu, hv = case.curvature.exact_product(u), case.curvature.exact_product(v)
        assert inner(u, hv) == pytest.approx(inner(hu, v), rel=1e-9)
        assert inner(u, hu) > 0
        both = case.curvature.exact_product([2 * x - y for x, y in zip(u, v, strict=True)])
        assert relative_error(both, [2 * x - y for x, y in zip(hu, hv, strict=True)]) < EXACT


def test_whole_matrix_has_no_negative_eigenvalue() -> None:
    case = Case(small_spec(hidden_sizes=(3,)), learned=True)
    like = case.blocks(case.meta_params)
    sizes = [x.numel() for x in like]
    columns = []
    for unit in torch.eye(sum(sizes), dtype=DOUBLE):
        v = [part.view_as(x) for part, x in zip(unit.split(sizes), like, strict=True)]
        columns.append(flat(case.curvature.exact_product(v)))
    matrix = torch.stack(columns)
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-9, atol=1e-12)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert eigenvalues.min() > -1e-10 * eigenvalues.max()


def test_results_are_sums_over_tasks() -> None:
    case = Case(small_spec(), steps=2)
    v = case.blocks(case.direction)
    gradients, products = [], []
    for task in range(TASKS):
        pre, post = [s.tasks(task, task + 1) for s in case.pre], case.post.tasks(task, task + 1)
        alone = ChunkCurvature(
            case.spec, case.blocks(case.meta_params), pre, post, INNER_LR, Scratch(), first_order=False
        )
        gradients.append(alone.loss_gradient())
        products.append(alone.exact_product(v))
    for parts, whole in (
        (gradients, case.curvature.loss_gradient()),
        (products, case.curvature.exact_product(v)),
    ):
        assert relative_error([sum(x) for x in zip(*parts, strict=True)], whole) < EXACT  # type: ignore[misc]


def test_chunks_may_share_work_arrays() -> None:
    # Chunks of equal shape use the same arrays; what they keep from product to product must be their own.
    spec, scratch = small_spec(), Scratch()
    case = Case(spec, steps=2)
    meta, v = case.blocks(case.meta_params), case.blocks(case.direction)
    noise = random_samples(spec, COUNTS, 99)
    shared, other = (
        ChunkCurvature(spec, meta, pre, post, INNER_LR, scratch, first_order=False)
        for pre, post in ((case.pre, case.post), ([noise] * 2, noise.tasks(0, 3)))
    )
    other.loss_gradient()
    other.finite_difference_product(v, 1e-3)
    expected = case.curvature.exact_product(v)
    assert relative_error(shared.exact_product(v), expected) == 0
    assert relative_error(shared.loss_gradient(), case.curvature.loss_gradient()) == 0


def test_pre_and_post_samples_may_have_the_same_shape() -> None:
    # Then the networks before and after adaptation share their work arrays too.
    spec = small_spec()
    case = Case(spec, steps=2, counts=[5, 5, 5])
    _, product = case.reference()
    assert relative_error(case.curvature.exact_product(case.blocks(case.direction)), product) < EXACT


# --- finite differences


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
def test_finite_differences_converge_to_the_exact_product(
    steps: int, learned: bool, first_order: bool
) -> None:
    case = Case(small_spec(), steps=steps, learned=learned, first_order=first_order)
    v = case.blocks(case.direction)
    exact = case.curvature.exact_product(v)
    coarse, fine = (
        relative_error(case.curvature.finite_difference_product(v, step / float(flat(v).norm())), exact)
        for step in (1e-3, 1e-4)
    )
    assert fine < 1e-6
    # Symmetric differences: a tenth of the step is a hundredth of the error.
    assert fine < 0.03 * coarse


@pytest.mark.parametrize("steps", [1, 2])
def test_relu_finite_differences_are_exact_where_no_kink_is_crossed(steps: int) -> None:
    case = Case(small_spec(activation="relu"), steps=steps)
    v = case.blocks(case.direction)
    product = case.curvature.finite_difference_product(v, 1e-7 / float(flat(v).norm()))
    assert relative_error(product, case.curvature.exact_product(v)) < 1e-5


def products_on_real_data(activation: str, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Finite-difference product at the default step, and exact product, along the gradient of the loss.

    The samples are those of a float32 policy at its initialisation, on point navigation, for any ``dtype``.
    """
    spec = GaussianMLP(2, 2, activation=activation)
    params = spec.init_params(seed)
    pre, post = point_nav_samples(spec, params, tasks=4, episodes=20, horizon=100, inner_lr=0.1, seed=seed)
    meta = [block.to(dtype) for block in to_blocks(spec, params)]
    curvature = ChunkCurvature(
        spec, meta, [to_dtype(pre, dtype)], to_dtype(post, dtype), 0.1, Scratch(), first_order=False
    )
    v = curvature.loss_gradient()
    step = MetaUpdateSettings(inner_lr=0.1).hvp_step / float(flat(v).norm())
    return flat(curvature.finite_difference_product(v, step)), flat(curvature.exact_product(v))


@pytest.mark.parametrize("seed", range(4))
def test_relu_finite_differences_at_the_default_step(seed: int) -> None:
    # A sample whose hidden unit switches on or off between theta - step v and theta + step v makes the inner
    # gradient jump; the Hessian at theta, which is all that the exact product knows, has no such jumps. They
    # are the whole difference: 0.7 to 2.2 % over twelve seeds with these 2,000 samples per task. It is
    # smaller with more samples, and larger for directions of little curvature and for larger inner steps. The
    # step trades two errors: a large one averages over far kinks, a small one divides few jumps by little.
    finite, exact = products_on_real_data("relu", seed, torch.float32)
    assert relative_error([finite], [exact]) < 0.05


def test_the_difference_is_due_to_kinks_and_not_to_rounding() -> None:
    single, exact = products_on_real_data("relu", 0, torch.float32)
    double, _ = products_on_real_data("relu", 0, DOUBLE)
    # Rounding moves a few samples across a kink or back, no more.
    assert relative_error([single], [double.float()]) < 0.5 * relative_error([single], [exact])
    # A smooth network has no kinks: 0.05 % at most over twelve seeds.
    finite, exact = products_on_real_data("tanh", 0, torch.float32)
    assert relative_error([finite], [exact]) < 2e-3
