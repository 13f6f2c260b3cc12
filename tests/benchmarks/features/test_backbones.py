"""Networks of torchvision and timm as feature extractors."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gr_cli.benchmarks import TimmFeatureExtractor, TorchvisionFeatureExtractor
from gr_cli.benchmarks.features.backbones import remove_last_linear
from gr_cli.errors import ConfigError, DataError
from helpers import fake_timm
from helpers.features import vectors_of
from helpers.image_sets import images


def timm_vectors(data, weights="pretrained", **settings):
    extractor = TimmFeatureExtractor("pooled", weights, normalise=False, cache_root="kept", **settings)
    return vectors_of(extractor, data).train.x


# --- torchvision


def test_resnet_loads_torchvisions_weights():
    from torchvision.models import resnet18

    torch.manual_seed(1)
    network = resnet18().eval()
    torch.save(network.state_dict(), "resnet18.pth")
    features = TorchvisionFeatureExtractor(
        "resnet18", "resnet18.pth", image_size=32, normalise=False, cache_root="kept"
    )
    vectors = vectors_of(features, images((1, 8, 8), 4)).train.x
    network.fc = nn.Identity()
    x = F.interpolate(images((1, 8, 8), 4).train.x.expand(-1, 3, -1, -1), (32, 32), mode="bilinear", antialias=True)
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        torch.testing.assert_close(vectors, network((x - mean) / deviation))
    assert vectors.shape == (4, 512)
    with pytest.raises(DataError, match="lacks layer"):
        vectors_of(TorchvisionFeatureExtractor("resnet34", "resnet18.pth", cache_root="kept"), images())
    with pytest.raises(ConfigError, match=r"weights=null: must be a file with the weights of a resnet18"):
        TorchvisionFeatureExtractor("resnet18")
    with pytest.raises(ConfigError, match=r"name=resnet19: is no network of torchvision; did you mean 'resnet18'"):
        TorchvisionFeatureExtractor("resnet19", "resnet18.pth")


@pytest.mark.parametrize(
    ("head", "path"),
    [
        (nn.Linear(2, 3), "head"),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3)), "head.2"),  # VGG keeps its hidden layer
    ],
)
def test_the_last_linear_layer_is_removed(head, path):
    network = nn.Sequential()
    network.add_module("body", nn.Linear(2, 2))
    network.add_module("head", head)
    assert remove_last_linear(network, "it") == path
    assert isinstance(network.get_submodule(path), nn.Identity)
    assert isinstance(network.body, nn.Linear)


# --- timm


def test_weights_in_timms_cache_need_no_network(monkeypatch):
    asked = fake_timm.install(monkeypatch, cached=True)
    torch.manual_seed(0)
    vectors = timm_vectors(images((1, 8, 8), 4))
    assert asked == ["cache"]
    with monkeypatch.context() as patched:
        fake_timm.install(patched, cached=True)
        network = TimmFeatureExtractor("pooled").network(None, (1, 8, 8)).network
    # Batch normalization uses the statistics of the weights, not of the batch.
    x = images((1, 8, 8), 4).train.x.expand(-1, 3, -1, -1)
    x = (x - 0.5) / torch.tensor([0.25, 0.5, 1.0]).view(3, 1, 1)
    expected = (network.conv(x).mean((2, 3)) - 2.0) / (1 + network.bn.eps) ** 0.5
    torch.testing.assert_close(vectors, expected.detach())
    assert torch.equal(timm_vectors(images((1, 8, 8), 4)), vectors)


def test_weights_are_downloaded_only_if_they_may_be(monkeypatch, capsys):
    asked = fake_timm.install(monkeypatch, network=True)
    assert timm_vectors(images((1, 8, 8), 4)).shape == (4, 4)
    assert asked == ["cache", "network"]
    assert "the weights of pooled are not in timm's cache and are downloaded" in capsys.readouterr().err
    asked.clear()
    with pytest.raises(DataError, match=r"name=pooled: its weights are not in timm's cache .*\(download=false\); set"):
        timm_vectors(images((1, 8, 8), 4), download=False)
    assert asked == ["cache"]


def test_without_network_the_message_is_one_line(monkeypatch):
    fake_timm.install(monkeypatch)
    with pytest.raises(DataError, match=r"could not be downloaded \(there is no connection\); set .*weights=<file>"):
        timm_vectors(images((1, 8, 8), 4))


def test_weights_of_a_file(monkeypatch):
    fake_timm.install(monkeypatch)
    torch.manual_seed(3)
    stored = fake_timm.Pooled().eval()
    torch.save({**stored.state_dict(), "head.weight": torch.ones(2)}, "pooled.pt")
    with torch.no_grad():
        x = (images((3, 8, 8), 4).train.x - 0.5) / torch.tensor([0.25, 0.5, 1.0]).view(3, 1, 1)
        torch.testing.assert_close(timm_vectors(images((3, 8, 8), 4), "pooled.pt"), stored(x))


def test_images_have_any_size(monkeypatch):
    fake_timm.install(monkeypatch, cached=True)
    assert timm_vectors(images((3, 20, 12), 4), image_size=16).shape == (4, 4)
    fake_timm.install(monkeypatch, cached=True, fixed=8)  # position embeddings are made for the size that is asked for
    assert timm_vectors(images((3, 20, 12), 4), image_size=16).shape == (4, 4)


def test_without_timm_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("gr_cli.benchmarks.features.backbones.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"timm is not installed; install it with: pip install 'gr-cli\[timm\]'"):
        TimmFeatureExtractor("resnet18")


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="gr-cli[timm] is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_network_of_timm_itself():
    import timm
    from safetensors.torch import save_file

    assert "fake" not in str(sys.modules["timm"])
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", pretrained=False).eval()
    save_file(network.state_dict(), "resnet10t.safetensors")
    extractor = TimmFeatureExtractor(
        "resnet10t", "resnet10t.safetensors", image_size=32, normalise=False, cache_root="kept"
    )
    vectors = vectors_of(extractor, images((3, 32, 32), 2)).train.x
    settings = network.pretrained_cfg
    mean, deviation = (torch.tensor(settings[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        x = network.forward_features((images((3, 32, 32), 2).train.x - mean) / deviation)
        torch.testing.assert_close(vectors, network.forward_head(x, pre_logits=True))
    assert Path("kept/features").is_dir()
