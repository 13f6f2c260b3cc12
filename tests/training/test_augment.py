"""Augmentation and input normalisation apply to the solver alone; generators and memories get raw samples."""

from pathlib import Path

import pytest
import torch

from gr_cli import load_run
from gr_cli.benchmarks.base import Samples
from gr_cli.cli.compose import compose_settings
from gr_cli.errors import ConfigError
from gr_cli.generators import VAE
from gr_cli.models import CNN, SimpleMLP
from gr_cli.models.resnet import ResNet18
from gr_cli.nn.augmentation import Augmentation, flip_images
from gr_cli.nn.normalization import ChannelMoments
from gr_cli.nn.random_streams import RandomStreams, ReplicaStreams
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.training.experiment import load_benchmark, prepare
from gr_cli.training.normalization import input_moments
from helpers.interruption import only_run

EVERYTHING = Augmentation(noise=0.1, shift=1, flip=0.5, brightness=0.3, contrast=0.4)
WORDS = [f"augment.{name}={value}" for name, value in vars(EVERYTHING).items()]
SHORT = ("train.iterations=12", "log.every=4", "threads=1", "model.hidden_sizes=[16]", "generator.hidden_dims=[16]")


def streams(*seeds: int) -> ReplicaStreams:
    return ReplicaStreams([RandomStreams(seed) for seed in seeds])


# --- one change at a time


def test_flip_is_horizontal_and_its_own_inverse():
    x = torch.arange(1.0, 7).view(1, 1, 1, 2, 3)
    both = x.expand(1, 2, -1, -1, -1)
    once = flip_images(both, torch.tensor([[True, False]]))
    assert once[0, 0, 0].tolist() == [[3, 2, 1], [6, 5, 4]]
    assert torch.equal(once[0, 1], x[0, 0])
    assert torch.equal(flip_images(once, torch.tensor([[True, False]])), both)


def test_fraction_of_flipped_images():
    x = torch.rand(1, 1000, 3, 4, 4)
    assert torch.equal(Augmentation(flip=1.0)(x, streams(0), 0, 0), x.flip(-1))
    result = Augmentation(flip=0.3)(x, streams(0), 0, 0)
    turned = (result == x.flip(-1)).flatten(2).all(2)
    assert torch.equal(result[~turned], x[~turned])
    assert float(turned.float().mean()) == pytest.approx(0.3, abs=0.05)


def test_brightness_is_one_bounded_factor_per_image():
    x = torch.rand(1, 500, 3, 4, 4) + 0.1
    factors = (Augmentation(brightness=0.4)(x, streams(0), 0, 0) / x).flatten(2)
    torch.testing.assert_close(factors, factors[..., :1].expand_as(factors))
    one = factors[..., 0]
    assert 0.6 <= float(one.min()) < 0.65 and 1.35 < float(one.max()) <= 1.4
    assert float(one.mean()) == pytest.approx(1, abs=0.05)


def test_contrast_scales_deviations_from_the_image_mean():
    x = torch.rand(1, 500, 3, 4, 4)
    result, axes = Augmentation(contrast=0.5)(x, streams(0), 0, 0), (-3, -2, -1)
    torch.testing.assert_close(result.mean(axes), x.mean(axes))
    factors = (result.std(axes) / x.std(axes))[0]
    assert 0.5 <= float(factors.min()) < 0.55 and 1.45 < float(factors.max()) <= 1.5
    grey = torch.full((1, 3, 1, 2, 2), 0.5)
    assert torch.equal(Augmentation(contrast=0.5)(grey, streams(0), 0, 0), grey)


def test_replicas_draw_the_values_of_single_runs():
    x = torch.rand(3, 20, 3, 6, 6)
    stacked = EVERYTHING(x, streams(4, 7, 4), 2, 70)
    for i, seed in enumerate((4, 7, 4)):
        assert torch.equal(stacked[i : i + 1], EVERYTHING(x[i : i + 1], streams(seed), 2, 70))
    assert not torch.equal(EVERYTHING(x[:1], streams(4), 2, 71), stacked[:1])
    assert Augmentation()(x, streams(0, 0, 0), 0, 0) is x


# --- inputs of solver and generator


def record_generator_inputs(monkeypatch) -> list[torch.Tensor]:
    inputs = []
    losses = VAE.fused_losses

    def spy(self, objective, x, *more):
        inputs.append(x.detach().clone())
        return losses(self, objective, x, *more)

    monkeypatch.setattr(VAE, "fused_losses", spy)
    return inputs


@pytest.mark.parametrize("more", [WORDS, ["normalise=first_task"]])
def test_generators_get_samples_without_augmentation(gr_run, monkeypatch, more):
    inputs = record_generator_inputs(monkeypatch)
    overrides = (*SHORT, "strategy.generator_data=current_and_replay", "strategy.generator_update_freq=1")
    overrides += ("benchmark.classes_per_task=10", "train.iterations=3")
    assert gr_run(*overrides)[0] == 0
    plain = [x.clone() for x in inputs]
    inputs.clear()
    assert gr_run(*overrides, *more)[0] == 0
    assert len(inputs) == len(plain) == 3
    assert all(torch.equal(a, b) for a, b in zip(inputs, plain, strict=True))
    solvers = [load_run(path.parent).solver.state_dict() for path in Path("outputs").glob("*/*/*/status.json")]
    assert not torch.equal(solvers[0]["hidden.0.weight"], solvers[1]["hidden.0.weight"])


@pytest.mark.parametrize("more", [WORDS, ["normalise=first_task", "benchmark.class_order=shuffled"]])
def test_resumed_run_is_bit_identical(goes_on, more):
    goes_on(*SHORT, "benchmark.classes_per_task=5", *more, at=(1, 5))


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_stacked_runs_equal_single_runs(gr_run, model):
    overrides = ("train.iterations=6", "log.every=3", "threads=1", "benchmark.classes_per_task=5", "seed=0,1", *WORDS)
    overrides += (f"model={model}", "strategy=finetune", "benchmark.class_order=shuffled", "normalise=first_task")
    overrides += ("precision=float64",)
    result = []
    for launcher in ([], ["hydra/launcher=batched", "hydra.launcher.width=2"]):
        code, _, err = gr_run("-m", *overrides, *launcher, "fresh=true")
        assert code == 0, err
        paths = sorted(Path("outputs").glob("split_digits/*/*/status.json"), key=lambda path: path.stat().st_mtime_ns)
        result.append([load_run(path.parent) for path in sorted(path for path in paths[-2:])])
    for single, stacked in zip(*result, strict=True):
        assert single.config["seed"] == stacked.config["seed"]
        stacked_state = stacked.solver.state_dict()
        for name, value in single.solver.state_dict().items():
            torch.testing.assert_close(value, stacked_state[name], rtol=1e-7, atol=1e-9)


# --- normalisation


def test_moments_of_the_first_task_and_of_constant_channels():
    x = torch.stack([torch.rand(50, 4, 4), torch.full((50, 4, 4), 0.3)], 1)
    result = input_moments("first_task", SampleSpec((2, 4, 4)), Samples(x, torch.zeros(50, dtype=torch.long)))
    torch.testing.assert_close(torch.tensor(result.mean), torch.tensor([float(x[:, 0].mean()), 0.3]))
    torch.testing.assert_close(torch.tensor(result.deviation), torch.tensor([float(x[:, 0].std(correction=0)), 1.0]))
    vectors = Samples(x[:, 0].flatten(1), torch.zeros(50, dtype=torch.long))
    by_entry = input_moments("first_task", SampleSpec((16,), None), vectors)
    assert len(by_entry.mean) == 16 and by_entry.num_axes == 1


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda m: SimpleMLP(48, [5], 4, moments=m), (3, 4, 4)),
        (lambda m: CNN((3, 4, 4), 4, [5], 6, moments=m), (3, 4, 4)),
        (lambda m: ResNet18((3, 4, 4), 4, moments=m), (3, 4, 4)),
    ],
    ids=["mlp", "cnn", "resnet18"],
)
def test_input_normalization_equals_normalised_samples(make, shape):
    plain = make(None).eval()
    own = make(ChannelMoments([0.5, 0.4, 0.3], [0.2, 0.25, 0.5], 3)).eval()
    missing, unexpected = own.load_state_dict(plain.state_dict(), strict=False)
    assert missing == ["normalised.mean", "normalised.deviation"] and not unexpected
    x = torch.rand(6, *shape)
    z = (x - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.25, 0.5]).view(3, 1, 1)
    torch.testing.assert_close(own(x), plain(z))
    torch.testing.assert_close(own.features(x), plain.features(z))


def test_state_dict_without_normalization():
    assert list(SimpleMLP(4, [3], 2).state_dict()) == [
        "hidden.0.weight",
        "hidden.0.bias",
        "output.weight",
        "output.bias",
    ]


@pytest.mark.parametrize("moments", [[[0.5, 0.5], [1.0, 1.0]], [[0.5], [0.0]], [[0.5], [-1.0]], [[], []]])
def test_invalid_moments_are_refused(moments):
    with pytest.raises(ConfigError, match=r"must be \[means, deviations\], one number for each of 1 channels"):
        input_moments(moments, SampleSpec((1, 4, 4)), None)


@pytest.mark.parametrize(
    "word", ["normalise=all", "normalise=3", "normalise=[1,2,3]", "normalise={a:1}", "normalise=[[a],[1]]"]
)
def test_invalid_normalise_setting_is_one_line(gr_run, word):
    code, _, err = gr_run(word)
    assert code == 2 and err.count("\n") == 1 and "normalise=" in err


def test_moments_are_restored_from_a_run(gr_run, gr_audit):
    overrides = (*SHORT, "strategy=finetune", "normalise=first_task", "benchmark.class_order=shuffled", "seed=3")
    overrides = tuple(word for word in overrides if not word.startswith("generator."))
    assert gr_run(*overrides)[0] == 0
    solver = load_run(only_run()).solver
    first = load_benchmark(compose_settings(overrides)).tasks[0].train
    x = torch.cat([x for x, _ in first.batches()])
    inputs = solver.normalised(x)
    assert float(inputs.mean()) == pytest.approx(0, abs=1e-5) and float(inputs.std()) == pytest.approx(1, abs=1e-3)
    assert gr_audit(only_run(), "--raw-samples")[0] == 0


def test_each_run_has_the_moments_of_its_own_first_task():
    overrides = ["strategy=finetune", "normalise=first_task", "benchmark.class_order=shuffled"]
    result = [
        prepare(compose_settings([*overrides, f"seed={seed}"])).learner.solver.normalised.mean.item() for seed in (0, 1)
    ]
    assert result[0] != result[1]
