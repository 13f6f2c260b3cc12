"""What the solver sees of samples: at random changed, and normalised; what generators learn and keep is neither."""

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


def test_to_mirror_twice_is_to_do_nothing_and_once_is_left_to_right():
    x = torch.arange(1.0, 7).view(1, 1, 1, 2, 3)
    both = x.expand(1, 2, -1, -1, -1)
    once = flip_images(both, torch.tensor([[True, False]]))
    assert once[0, 0, 0].tolist() == [[3, 2, 1], [6, 5, 4]]
    assert torch.equal(once[0, 1], x[0, 0])
    assert torch.equal(flip_images(once, torch.tensor([[True, False]])), both)


def test_that_part_of_the_images_is_mirrored():
    x = torch.rand(1, 1000, 3, 4, 4)
    assert torch.equal(Augmentation(flip=1.0)(x, streams(0), 0, 0), x.flip(-1))
    found = Augmentation(flip=0.3)(x, streams(0), 0, 0)
    turned = (found == x.flip(-1)).flatten(2).all(2)
    assert torch.equal(found[~turned], x[~turned])
    assert float(turned.float().mean()) == pytest.approx(0.3, abs=0.05)


def test_brightness_is_one_factor_for_each_image_within_its_bounds():
    x = torch.rand(1, 500, 3, 4, 4) + 0.1
    factors = (Augmentation(brightness=0.4)(x, streams(0), 0, 0) / x).flatten(2)
    torch.testing.assert_close(factors, factors[..., :1].expand_as(factors))
    one = factors[..., 0]
    assert 0.6 <= float(one.min()) < 0.65 and 1.35 < float(one.max()) <= 1.4
    assert float(one.mean()) == pytest.approx(1, abs=0.05)


def test_contrast_leaves_the_mean_of_an_image_and_scales_what_differs_from_it():
    x = torch.rand(1, 500, 3, 4, 4)
    found, axes = Augmentation(contrast=0.5)(x, streams(0), 0, 0), (-3, -2, -1)
    torch.testing.assert_close(found.mean(axes), x.mean(axes))
    factors = (found.std(axes) / x.std(axes))[0]
    assert 0.5 <= float(factors.min()) < 0.55 and 1.45 < float(factors.max()) <= 1.5
    grey = torch.full((1, 3, 1, 2, 2), 0.5)
    assert torch.equal(Augmentation(contrast=0.5)(grey, streams(0), 0, 0), grey)


def test_replicas_draw_what_each_would_alone():
    x = torch.rand(3, 20, 3, 6, 6)
    together = EVERYTHING(x, streams(4, 7, 4), 2, 70)
    for i, seed in enumerate((4, 7, 4)):
        assert torch.equal(together[i : i + 1], EVERYTHING(x[i : i + 1], streams(seed), 2, 70))
    assert not torch.equal(EVERYTHING(x[:1], streams(4), 2, 71), together[:1])
    assert Augmentation()(x, streams(0, 0, 0), 0, 0) is x


# --- who sees what


def seen_by_generators(monkeypatch) -> list[torch.Tensor]:
    seen = []
    losses = VAE.losses

    def spy(self, part, x, noise, labels=None):
        seen.append(x.detach().clone())
        return losses(self, part, x, noise, labels)

    monkeypatch.setattr(VAE, "losses", spy)
    return seen


@pytest.mark.parametrize("more", [WORDS, ["normalise=first_task"]])
def test_generators_see_samples_as_they_are(gr_run, monkeypatch, more):
    seen = seen_by_generators(monkeypatch)
    words = (*SHORT, "strategy.generator_data=current_and_replay", "strategy.generator_update_freq=1")
    words += ("benchmark.classes_per_task=10", "train.iterations=3")
    assert gr_run(*words)[0] == 0
    plain = [x.clone() for x in seen]
    seen.clear()
    assert gr_run(*words, *more)[0] == 0
    assert len(seen) == len(plain) == 3
    assert all(torch.equal(a, b) for a, b in zip(seen, plain, strict=True))
    solvers = [load_run(path.parent).solver.state_dict() for path in Path("outputs").glob("*/*/*/status.json")]
    assert not torch.equal(solvers[0]["hidden.0.weight"], solvers[1]["hidden.0.weight"])


@pytest.mark.parametrize("more", [WORDS, ["normalise=first_task", "benchmark.class_order=shuffled"]])
def test_an_interrupted_run_goes_on_to_the_same_bytes(goes_on, more):
    goes_on(*SHORT, "benchmark.classes_per_task=5", *more, at=(1, 5))


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_runs_together_find_what_each_finds_alone(gr_run, model):
    words = ("train.iterations=6", "log.every=3", "threads=1", "benchmark.classes_per_task=5", "seed=0,1", *WORDS)
    words += (f"model={model}", "strategy=finetune", "benchmark.class_order=shuffled", "normalise=first_task")
    words += ("precision=float64",)
    found = []
    for launcher in ([], ["hydra/launcher=batched", "hydra.launcher.width=2"]):
        code, _, err = gr_run("-m", *words, *launcher, "fresh=true")
        assert code == 0, err
        paths = sorted(Path("outputs").glob("split_digits/*/*/status.json"), key=lambda path: path.stat().st_mtime_ns)
        found.append([load_run(path.parent) for path in sorted(path for path in paths[-2:])])
    for alone, together in zip(*found, strict=True):
        assert alone.config["seed"] == together.config["seed"]
        theirs = together.solver.state_dict()
        for name, value in alone.solver.state_dict().items():
            torch.testing.assert_close(value, theirs[name], rtol=1e-7, atol=1e-9)


# --- normalisation


def test_the_first_task_gives_the_moments_and_what_never_changes_is_only_shifted():
    x = torch.stack([torch.rand(50, 4, 4), torch.full((50, 4, 4), 0.3)], 1)
    found = input_moments("first_task", SampleSpec((2, 4, 4)), Samples(x, torch.zeros(50, dtype=torch.long)))
    torch.testing.assert_close(torch.tensor(found.mean), torch.tensor([float(x[:, 0].mean()), 0.3]))
    torch.testing.assert_close(torch.tensor(found.deviation), torch.tensor([float(x[:, 0].std(correction=0)), 1.0]))
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
def test_a_model_that_normalises_is_one_that_gets_normalised_samples(make, shape):
    plain = make(None).eval()
    own = make(ChannelMoments([0.5, 0.4, 0.3], [0.2, 0.25, 0.5], 3)).eval()
    missing, unexpected = own.load_state_dict(plain.state_dict(), strict=False)
    assert missing == ["normalised.mean", "normalised.deviation"] and not unexpected
    x = torch.rand(6, *shape)
    z = (x - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.25, 0.5]).view(3, 1, 1)
    torch.testing.assert_close(own(x), plain(z))
    torch.testing.assert_close(own.features(x), plain.features(z))


def test_the_state_of_a_model_that_does_not_is_as_it_was():
    assert list(SimpleMLP(4, [3], 2).state_dict()) == [
        "hidden.0.weight",
        "hidden.0.bias",
        "output.weight",
        "output.bias",
    ]


@pytest.mark.parametrize("wanted", [[[0.5, 0.5], [1.0, 1.0]], [[0.5], [0.0]], [[0.5], [-1.0]], [[], []]])
def test_moments_that_do_not_fit_are_refused(wanted):
    with pytest.raises(ConfigError, match=r"must be \[means, deviations\], one number for each of 1 channels"):
        input_moments(wanted, SampleSpec((1, 4, 4)), None)


@pytest.mark.parametrize(
    "word", ["normalise=all", "normalise=3", "normalise=[1,2,3]", "normalise={a:1}", "normalise=[[a],[1]]"]
)
def test_what_is_no_normalisation_is_one_line(gr_run, word):
    code, _, err = gr_run(word)
    assert code == 2 and err.count("\n") == 1 and "normalise=" in err


def test_a_run_knows_its_moments_again(gr_run):
    words = (*SHORT, "strategy=finetune", "normalise=first_task", "benchmark.class_order=shuffled", "seed=3")
    words = tuple(word for word in words if not word.startswith("generator."))
    assert gr_run(*words)[0] == 0
    solver = load_run(only_run()).solver
    first = load_benchmark(compose_settings(words)).tasks[0].train
    x = torch.cat([x for x, _ in first.batches()])
    seen = solver.normalised(x)
    assert float(seen.mean()) == pytest.approx(0, abs=1e-5) and float(seen.std()) == pytest.approx(1, abs=1e-3)
    assert gr_run(f"audit={only_run()}")[0] == 0


def test_prepared_solvers_hold_the_moments_of_their_own_first_task():
    words = ["strategy=finetune", "normalise=first_task", "benchmark.class_order=shuffled"]
    found = [
        prepare(compose_settings([*words, f"seed={seed}"])).learner.solver.normalised.mean.item() for seed in (0, 1)
    ]
    assert found[0] != found[1]
