"""What samples of generators with known answers reveal about the training samples of a stream."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from gr_cli.benchmarks import Digits, split
from gr_cli.benchmarks.base import Benchmark
from gr_cli.benchmarks.membership import with_membership_draw
from gr_cli.evaluation import black_box
from gr_cli.evaluation.black_box import GeneratedSamplesAudit
from gr_cli.generators.base import GeneratorWithoutObjectives
from gr_cli.nn.random_streams import NoiseSpec


class Stored(GeneratorWithoutObjectives):
    """Returns stored samples, in an order of its own, with a little noise."""

    def __init__(self, samples: Tensor) -> None:
        super().__init__()
        self.register_buffer("samples", samples)

    def latent_noise(self, num_samples: int) -> dict[str, NoiseSpec]:
        return {"index": NoiseSpec("uniform", (num_samples,)), "noise": NoiseSpec("normal", (num_samples, 1, 8, 8))}

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        index = (latent["index"] * len(self.samples)).long()
        return self.samples[index] + 0.01 * latent["noise"]


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return split(Digits(), seed=0, classes_per_task=5)


def _x(benchmark: Benchmark, side: str) -> Tensor:
    return torch.cat([x for task in benchmark.tasks for x, _ in getattr(task, side).batches()])


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(black_box, "_BOOTSTRAP_DRAWS", 200)


def test_stored_training_samples_are_found_in_each_task(benchmark: Benchmark) -> None:
    audit = GeneratedSamplesAudit(Stored(_x(benchmark, "train")), benchmark.tasks, 0)
    for task, leak in zip(benchmark.tasks, audit.leaks(), strict=True):
        assert leak.task == task.id and leak.samples == len(task.test)
        assert all(auc.value > 0.95 and auc.shows_dependence for auc in leak.auc.values())
        assert leak.distance_ratio.interval[1] < 0.5
        assert leak.authenticity < leak.held_out_authenticity


def test_samples_of_other_data_reveal_nothing(benchmark: Benchmark) -> None:
    """Uniform noise: no attack tells training from test samples, up to the error of 8 intervals at 95 %."""
    noise = torch.rand(3000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    leaks = GeneratedSamplesAudit(Stored(noise), benchmark.tasks, 0).leaks()
    estimates = [estimate for leak in leaks for estimate in (*leak.auc.values(), leak.distance_ratio)]
    assert sum(estimate.shows_dependence for estimate in estimates) <= 2


def test_memorised_samples_stand_beside_their_originals(benchmark: Benchmark) -> None:
    train = _x(benchmark, "train")
    pairs = GeneratedSamplesAudit(Stored(train[:30]), benchmark.tasks, 0).memorised(12)
    assert pairs.generated.shape == pairs.originals.shape == (12, 1, 8, 8)
    assert (pairs.relative_distances.diff() >= 0).all() and pairs.relative_distances[-1] < 0.2
    assert (pairs.generated - pairs.originals).abs().max() < 0.06


def test_held_out_samples_are_the_candidates_that_were_left_out(benchmark: Benchmark) -> None:
    drawn = with_membership_draw(benchmark, 0, {"draw": 0, "share": 0.5, "candidates": None})
    train = torch.cat([x for x, _ in drawn.tasks[0].train.batches()])
    (leak,) = GeneratedSamplesAudit(Stored(train), drawn.tasks[:1], 0, membership_draw=True).leaks()
    assert leak.samples == len(train) and leak.distance_ratio.interval[1] < 0.5
