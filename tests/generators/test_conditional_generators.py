"""Conditional generators, GANs and flows, against closed forms and cases computed by hand."""

import math

import pytest
import torch

from gr_cli.errors import ConfigError
from gr_cli.generators import CVAE, VAE, WGANGP, ClassGaussian, ClassVAE, Feedback, FlowMatching, GaussianMixture
from gr_cli.generators.base import Ensemble
from gr_cli.nn.augmentation import Augmentation, shift_images
from gr_cli.nn.losses import gaussian_log_density
from gr_cli.nn.random_streams import RandomStreams, ReplicaStreams
from gr_cli.nn.replicas import Replicas
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.strategies import GenerativeClassifier, GenerativeReplay
from gr_cli.strategies.generated_samples import decode_round_robin, round_robin_labels

MAKE = {
    "cvae": lambda shape: CVAE(shape, 3, [8], 4),
    "flow": lambda shape: FlowMatching(shape, 3, [8], 3),
    "class_vae": lambda shape: ClassVAE(shape, 3, [8], 2),
    "wgan_gp": lambda shape: WGANGP(shape, [8], 4),
    "mixture": lambda shape: GaussianMixture(shape, 3, 2, 4),
    "gaussian": lambda shape: ClassGaussian(shape, 3, latent_dim=4),
    "feedback": lambda shape: Feedback(shape, 5, 3, [8, 6], 4, "class", 0.5),
}


def noise_of(specs, seed=0):
    return {
        name: value[0] for name, value in ReplicaStreams([RandomStreams(seed)]).noise_at(specs, "test", 0, 0).items()
    }


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("shape", [(6,), (1, 8, 8), (3, 9, 5), (3, 32, 32)])
def test_generated_samples_have_shape_and_range_of_the_data(name, shape):
    torch.manual_seed(0)
    generator = MAKE[name](shape)
    x = generator.generate(5)
    assert x.shape == (5, *shape) and x.min() >= 0 and x.max() <= 1 and not x.requires_grad
    again = [generator.generate(4, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    torch.testing.assert_close(*again, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["cvae", "flow", "class_vae", "mixture", "feedback"])
def test_generated_sample_follows_its_label(name):
    torch.manual_seed(0)
    generator = MAKE[name]((6,))
    if name == "mixture":
        for label in range(3):
            generator.fit_class(torch.rand(20, 6) * 0.1 + 0.3 * label, label, torch.Generator().manual_seed(0))
    latent = noise_of(generator.latent_noise(4))
    labels = torch.tensor([0, 1, 2, 1])
    samples = generator.decode(latent, labels)
    for i, label in enumerate(labels):
        one = {name: value[i : i + 1] for name, value in latent.items()}
        torch.testing.assert_close(samples[i], generator.decode(one, label.view(1))[0])
    other = generator.decode(latent, (labels + 1) % 3)
    assert not torch.allclose(samples, other)
    with pytest.raises(ValueError, match="labels are needed"):
        generator.decode(latent)


@pytest.mark.parametrize("name", ["cvae", "flow", "class_vae", "feedback"])
def test_balanced_labels_cycle_through_learned_classes(name):
    generator = MAKE[name]((6,))
    assert generator.balanced_labels(4).tolist() == [0, 1, 2, 0]
    generator.mark_learned(torch.tensor([True, False, True]))
    assert generator.balanced_labels(5).tolist() == [0, 2, 0, 2, 0]


def test_cvae_loss_is_the_negative_elbo_per_value():
    torch.manual_seed(0)
    generator = CVAE((6,), 3, [8], 4, dropout=0.0)
    x, labels = torch.rand(5, 6), torch.tensor([0, 1, 2, 2, 0])
    noise = noise_of(generator.training_noise(5))
    one_hot = torch.nn.functional.one_hot(labels, 3).float()
    mean, log_variance = generator.encode(torch.cat([x, one_hot], 1))
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    z = mean + q.scale * noise["z"]
    p = torch.distributions.Bernoulli(logits=generator.reconstruct(torch.cat([z, one_hot], 1)), validate_args=False)
    prior = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    elbo = p.log_prob(x).sum(1) - torch.distributions.kl_divergence(q, prior).sum(1)
    torch.testing.assert_close(sum(generator.losses("vae", x, noise, labels).values()), -elbo / 6)


# --- WGAN-GP


def test_gradient_penalty_of_a_linear_critic():
    torch.manual_seed(0)
    gan = WGANGP((6,), [], 4, gradient_penalty_weight=10.0)
    x, noise = torch.rand(5, 6), noise_of(gan.training_noise(5))
    result = gan.losses("critic", x, noise)
    w, b = gan.critic_output.weight[0], gan.critic_output.bias
    torch.testing.assert_close(result["gradient_penalty"], (10 * (w.norm() - 1) ** 2).expand(5))
    fake = gan.decode({"z": noise["z"]})
    torch.testing.assert_close(result["critic"], (fake @ w + b) - (x @ w + b))
    torch.testing.assert_close(gan.losses("generator", x, noise)["generator"], -(fake @ w + b))


def test_gradient_penalty_between_real_and_generated_and_its_derivative():
    torch.manual_seed(0)
    gan = WGANGP((4,), [8], 3).double()
    x = torch.rand(3, 4, dtype=torch.double)
    noise = {name: value.double() for name, value in noise_of(gan.training_noise(3)).items()}
    with torch.no_grad():
        between = torch.lerp(x, gan.decode({"z": noise["z"]}), noise["between"])
    slopes = torch.autograd.functional.jacobian(lambda v: gan.critic_value(v).sum(), between)
    torch.testing.assert_close(gan.losses("critic", x, noise)["gradient_penalty"], 10 * (slopes.norm(dim=1) - 1) ** 2)
    # The second derivative: by autograd, and by a small step.
    weight, step = gan.critic[0].weight, 1e-6

    def penalty():
        return gan.losses("critic", x, noise)["gradient_penalty"].sum()

    (gradient,) = torch.autograd.grad(penalty(), weight)
    for i, j in [(0, 0), (3, 2), (7, 1)]:
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[i, j] += sign * step
            values.append(penalty().item())
            with torch.no_grad():
                weight[i, j] -= sign * step
        assert gradient[i, j].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-6)


def test_critic_and_generator_have_separate_parameters_and_schedules():
    gan = WGANGP((6,), [8], 4)
    critic, generator = gan.objectives()["critic"], gan.objectives()["generator"]
    assert (critic.update_every, generator.update_every) == (1, 5)
    critic_ids, generator_ids = ({id(p) for p in objective.parameters} for objective in (critic, generator))
    assert not critic_ids & generator_ids and critic_ids | generator_ids == {id(p) for p in gan.parameters()}
    x, noise = torch.rand(5, 6), noise_of(gan.training_noise(5))
    gradients = torch.autograd.grad(
        gan.losses("critic", x, noise)["critic"].sum(), generator.parameters, allow_unused=True
    )
    assert all(g is None for g in gradients)


# --- flow matching


def constant_flow(value, steps=3):
    flow = FlowMatching(SampleSpec((4,), None), 2, [8], steps)
    with torch.no_grad():
        flow.output.weight.zero_()
        flow.output.bias.fill_(value)
    return flow


def test_flow_loss_is_the_distance_to_the_sample():
    flow = constant_flow(0.5)
    x, labels = torch.rand(5, 4), torch.zeros(5, dtype=torch.long)
    noise = noise_of(flow.training_noise(5))
    torch.testing.assert_close(flow.losses("flow", x, noise, labels)["flow"], (0.5 - x).square().mean(1))


def test_velocity_is_constant_along_a_line():
    flow = FlowMatching((4,), 2, [8], 3)
    x, z, time, labels = torch.rand(5, 4), torch.randn(5, 4), torch.rand(5, 1), torch.zeros(5, dtype=torch.long)
    flow.predict_sample = lambda *_: x
    torch.testing.assert_close(flow.velocity(torch.lerp(z, x, time), time, labels), x - z, rtol=1e-3, atol=1e-3)


def test_sampling_integrates_the_velocity():
    latent, labels = {"z": torch.randn(3, 4)}, torch.tensor([0, 1, 0])
    torch.testing.assert_close(constant_flow(0.25).decode(latent, labels), torch.full((3, 4), 0.25))
    flow = constant_flow(0.0, steps=40)
    flow.velocity = lambda x, time, labels: x  # x' = x, whose solution grows by e
    torch.testing.assert_close(flow.decode(latent, labels), latent["z"] * math.e, rtol=1e-3, atol=0)


def test_flow_samples_of_gaussian_data():
    """For data N(2, 0.5^2), the expected sample has a closed form: z goes to 2 + 0.5 z."""
    flow, latent = constant_flow(0.0, steps=30), {"z": torch.randn(6, 4)}

    def expected(x, time, labels):
        gain = time * 0.25 / (time.square() * 0.25 + (1 - time).square())
        return 2 + gain * (x - 2 * time)

    flow.predict_sample = expected
    samples = flow.decode(latent, torch.zeros(6, dtype=torch.long))
    torch.testing.assert_close(samples, 2 + 0.5 * latent["z"], rtol=0, atol=0.03)


@pytest.mark.parametrize(("deviation", "error"), [(0.1, 0.02), (0.2, 0.02), (0.5, 0.02), (1.0, 0.02)])
def test_eight_steps_preserve_the_deviation_of_gaussian_data(deviation, error):
    """For data N(0, s^2) the flow takes z to s z; every step is linear in z, so that one z is enough."""
    flow, calls = constant_flow(0.0, steps=8), []

    def expected(x, time, labels):
        calls.append(float(time[0, 0]))
        return time * deviation**2 / (time.square() * deviation**2 + (1 - time).square()) * x

    flow.predict_sample = expected
    z = torch.ones(1, 4, dtype=torch.float64)
    result = flow.decode({"z": z}, torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(result, deviation * z, rtol=error, atol=0)
    assert len(calls) == 15 and min(calls) == 0.0 and max(calls) < 1.0  # two for each step but the last


# --- a VAE per class


def test_class_vae_trains_each_class_on_its_own_samples():
    torch.manual_seed(0)
    generator = ClassVAE((6,), 3, [8], 2)
    x, labels, noise = torch.rand(4, 6), torch.tensor([0, 0, 1, 1]), noise_of(generator.training_noise(4))
    loss = sum(generator.losses("vae", x, noise, labels).values())
    for label, member in enumerate(generator.members):
        is_of_class = labels == label
        gradients = torch.autograd.grad(loss.sum(), list(member.parameters()), retain_graph=True)
        if label == 2:
            assert all(g.abs().sum() == 0 for g in gradients)
            continue
        alone = sum(member.losses("vae", x[is_of_class], {"z": noise["z"][is_of_class]}).values())
        torch.testing.assert_close(loss[is_of_class], alone)
        expected = torch.autograd.grad(alone.sum(), list(member.parameters()))
        for gradient, expected_gradient in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, expected_gradient)


def test_importance_sampling_of_a_known_likelihood():
    # The decoder ignores z and the posterior is the prior: every draw gives the same value.
    generator = ClassVAE((6,), 2, [], 2)
    vae = generator.members[1]
    with torch.no_grad():
        for p in vae.parameters():
            p.zero_()
        vae.output.bias.copy_(torch.linspace(-1, 1, 6))
    generator.mark_learned(torch.tensor([False, True]))
    x = (torch.rand(5, 6) > 0.5).float()
    result = generator.estimate_log_likelihoods(x, torch.Generator().manual_seed(0), 7)[:, 1]
    exact = torch.distributions.Bernoulli(logits=torch.linspace(-1, 1, 6)).log_prob(x).sum(1)
    torch.testing.assert_close(result, exact)
    # As the published program classifies: a Gaussian of unit variance around the reconstruction, up to its constant.
    result = generator.estimate_log_likelihoods(x, torch.Generator().manual_seed(0), 7, unit_variance=True)[:, 1]
    exact = torch.distributions.Normal(torch.linspace(-1, 1, 6).sigmoid(), 1.0).log_prob(x).sum(1)
    torch.testing.assert_close(result, exact + 6 / 2 * math.log(2 * math.pi))


@pytest.mark.parametrize("hidden", [[], [5]])
def test_gaussian_likelihoods_need_no_reconstruction_of_each_draw(hidden):
    torch.manual_seed(0)
    vae = ClassVAE(SampleSpec((7,), None), 2, hidden, 3).double().members[0]
    z, x = torch.randn(4, 5, 3, dtype=torch.float64), 10 * torch.randn(5, 7, dtype=torch.float64)
    expected = 0.5 * (vae.reconstruct(z.flatten(0, 1)).view(4, 5, 7) - x).square().sum(-1)
    torch.testing.assert_close(vae.negative_log_likelihoods(z, x, False), expected)


def test_importance_sampling_is_unbiased():
    torch.manual_seed(0)
    generator = ClassVAE((4,), 2, [8], 1)
    vae = generator.members[1]
    generator.mark_learned(torch.tensor([False, True]))
    with torch.no_grad():
        vae.posterior.weight.mul_(0.3)
        vae.posterior.bias[1] = 0.5  # wider than the true posterior, so that no draw has a large weight
    x = (torch.rand(3, 4) > 0.5).float()
    grid = torch.linspace(-6, 6, 4001).unsqueeze(1)
    by_z = torch.distributions.Bernoulli(logits=vae.reconstruct(grid).unsqueeze(1)).log_prob(x).sum(-1)  # (Z, B)
    prior = gaussian_log_density(grid, torch.zeros_like(grid), torch.zeros_like(grid)).unsqueeze(1)
    exact = torch.logsumexp(by_z + prior, 0) + math.log(12 / 4000)
    result = generator.estimate_log_likelihoods(x, torch.Generator().manual_seed(0), 20_000)[:, 1]
    torch.testing.assert_close(result, exact, rtol=0, atol=0.02)


# --- ensembles, and what strategies need


def test_ensemble_members_alternate():
    torch.manual_seed(0)
    members = [VAE((6,), [8], 3), CVAE((6,), 3, [8], 5)]
    members[1].mark_learned(torch.tensor([False, True, True]))
    ensemble = Ensemble(members)
    latent = noise_of(ensemble.latent_noise(5))
    x = ensemble.decode(latent)
    torch.testing.assert_close(x[0::2], members[0].decode({"z": latent["0.z"]}))
    torch.testing.assert_close(x[1::2], members[1].decode({"z": latent["1.z"]}, torch.tensor([1, 2])))
    assert ensemble.generate(1).shape == (1, 6) and ensemble.generate(0).shape == (0, 6)


def test_strategies_name_the_generator_they_need():
    vae, mixture = VAE((6,)), GaussianMixture((6,), 2, 2, 4)
    with pytest.raises(ConfigError, match="current_data=generated"):
        GenerativeReplay(vae, current_data="generated", generator_training="before")
    with pytest.raises(ConfigError, match="targets=likelihood"):
        GenerativeReplay(vae, targets="likelihood")
    with pytest.raises(ConfigError, match="current_targets=likelihood"):
        GenerativeReplay(mixture, current_targets="likelihood")
    with pytest.raises(ConfigError, match="has no likelihood"):
        GenerativeClassifier(vae)


# --- augmentation


def test_shift_fills_with_zeros():
    x = torch.arange(1.0, 10).view(1, 1, 1, 3, 3)
    down = shift_images(x, torch.tensor([[[1, 0]]]), 1)[0, 0, 0]
    assert down.tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    left = shift_images(x, torch.tensor([[[0, -2]]]), 2)[0, 0, 0]
    assert left.tolist() == [[3, 0, 0], [6, 0, 0], [9, 0, 0]]
    both = shift_images(x.expand(2, 2, -1, -1, -1), torch.tensor([[[0, 0], [1, 1]], [[-1, 0], [0, 1]]]), 1)
    assert both[0, 0, 0].tolist() == x[0, 0, 0].tolist()
    assert both[0, 1, 0].tolist() == [[0, 0, 0], [0, 1, 2], [0, 4, 5]]
    assert both[1, 0, 0].tolist() == [[4, 5, 6], [7, 8, 9], [0, 0, 0]]


def test_noise_has_its_deviation_and_follows_the_seed():
    streams = ReplicaStreams([RandomStreams(0), RandomStreams(1)])
    x = torch.zeros(2, 50, 1, 8, 8)
    result = Augmentation(noise=0.3)(x, streams, 1, 5)
    assert float(result.std()) == pytest.approx(0.3, rel=0.05)
    assert not torch.equal(result[0], result[1])
    torch.testing.assert_close(
        result[1:], Augmentation(noise=0.3)(x[1:], ReplicaStreams([RandomStreams(1)]), 1, 5), rtol=0, atol=0
    )
    assert Augmentation()(x, streams, 0, 0) is x
    moved = Augmentation(shift=1)(torch.rand(2, 400, 1, 4, 4), streams, 0, 0)
    assert moved.shape == (2, 400, 1, 4, 4)


def test_generators_and_classes_alternate():
    task_units = torch.tensor([[True, True, False, False, False], [False, False, True, True, True]])
    assert round_robin_labels(task_units, 9).tolist() == [0, 2, 1, 3, 0, 4, 1, 2, 0]
    assert round_robin_labels(task_units.any(0, keepdim=True), 6).tolist() == [0, 1, 2, 3, 4, 0]
    torch.manual_seed(0)
    members = [Replicas([VAE((6,), [8], 3)]) for _ in range(3)]
    z = torch.randn(1, 8, 3)
    together = decode_round_robin(members, {"z": z}, None, 0)
    for i in range(8):
        alone = members[i % 3].call("decode", {"z": z[:, i : i + 1]})
        torch.testing.assert_close(together[:, i : i + 1], alone)
    # In two halves, the second continues the round-robin order of the first.
    halves = [
        decode_round_robin(members, {"z": z[:, :5]}, None, 0),
        decode_round_robin(members, {"z": z[:, 5:]}, None, 5),
    ]
    torch.testing.assert_close(torch.cat(halves, 1), together)


@pytest.mark.parametrize("replicas", [(), (2,)], ids=["single", "replicas"])
def test_each_vae_decodes_the_samples_of_its_class(replicas):
    torch.manual_seed(0)
    generator = ClassVAE((6,), 5, (4,), 3)
    labels, z = torch.tensor([4, 1, 1, 0, 4]).expand(*replicas, 5), torch.randn(*replicas, 5, 3)
    if replicas:
        stacked = Replicas([generator, ClassVAE((6,), 5, (4,), 3)])
        samples = stacked.call("decode", {"z": z}, labels)
        members = [module.members for module in stacked.modules]
    else:
        samples, members = generator.decode({"z": z}, labels).unsqueeze(0), [generator.members]
    for replica, vaes in enumerate(members):
        for i, label in enumerate(labels.reshape(-1, 5)[replica].tolist()):
            alone = vaes[label].decode({"z": z.reshape(-1, 5, 3)[replica, i : i + 1]})
            torch.testing.assert_close(samples[replica, i], alone[0])
