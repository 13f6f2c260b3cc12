"""Private components for tests: a generator of noisy class means, and a gradient rule that is private by name only."""

import torch
from torch import Tensor, nn

from gr_cli.generators.base import GeneratorWithoutObjectives
from gr_cli.nn.gradient_rules import GradientRule
from gr_cli.nn.random_streams import NoiseSpec
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.privacy import Access, PrivacySettings, gaussian_noise
from gr_cli.privacy.analytic_gaussian import epsilon_of_gaussian, gaussian_noise_multiplier


class NoisyMeans(GeneratorWithoutObjectives):
    """A Gaussian of unit variance per class, around a noisy sum divided by 100. Samples have a norm of at most 8."""

    conditional = True
    class_likelihood = "exact"

    def __init__(self, spec: SampleSpec, num_classes: int, privacy: PrivacySettings | None = None) -> None:
        super().__init__()
        assert privacy is not None
        self.spec, self.privacy = spec, privacy
        # As many accesses of the same sample as there are tasks that it may be in compose to the budget.
        self.multiplier = (
            gaussian_noise_multiplier(privacy.epsilon, privacy.delta) * privacy.tasks_per_sample**0.5 * (1 + 1e-9)
        )
        self.means = nn.Parameter(torch.zeros(num_classes, *spec.shape), requires_grad=False)
        self.register_buffer("learned_classes", torch.zeros(num_classes, dtype=torch.bool))

    def private_accesses(self, task: int, classes: list[int], part: str) -> list[Access]:
        epsilon = epsilon_of_gaussian(self.privacy.delta, self.multiplier)
        spent = (1.0, 1, epsilon, self.privacy.delta)
        return [Access(task, part, (unit,), "gaussian", self.multiplier, 8.0, *spent) for unit in classes]

    def fit_class(self, x: Tensor, label: int, stream: torch.Generator) -> None:
        stream_or_none = None if self.privacy.secure else stream
        noise = gaussian_noise(self.spec.shape, 8.0 * self.multiplier, stream_or_none)
        with torch.no_grad():
            self.means[label] = (x.double().sum(0) + noise.to(x.device)) / 100
        self.learned_classes[label] = True

    def latent_noise(self, num_samples: int) -> dict[str, NoiseSpec]:
        return {"z": NoiseSpec("normal", (num_samples, *self.spec.shape))}

    def decode(self, latent, labels=None) -> Tensor:
        return (self.means[labels] + 0.1 * latent["z"]).clamp(0, 1)

    def log_likelihoods(self, x: Tensor) -> Tensor:
        return -(x.flatten(1).unsqueeze(1) - self.means.flatten(1)).square().sum(-1) / 2


class Spending(GradientRule):
    """Plain gradients that the ledger counts as if they were private."""

    def __init__(self, privacy: PrivacySettings | None = None, steps: int | None = None) -> None:
        assert privacy is not None and steps is not None
        self.budget, self.steps = privacy, steps

    def private_accesses(self, task: int, classes: list[int], part: str) -> list[Access]:
        spent = self.budget.epsilon / self.budget.tasks_per_sample, self.budget.delta / self.budget.tasks_per_sample
        return [Access(task, part, tuple(classes), "subsampled_gaussian", 1.0, 1.0, 0.1, self.steps, *spent)]
