"""Messages about frozen features, and about CIFAR as class folders."""

import sys
from pathlib import Path

import torch

from gr_cli.benchmarks import (
    BatchNormConvFeatureExtractor,
    ConvFeatureExtractor,
    Digits,
    TimmFeatureExtractor,
    Torchvision,
    TorchvisionFeatureExtractor,
)
from gr_cli.benchmarks.features.backbones import remove_last_linear
from gr_cli.benchmarks.features.weights import load_weights
from gr_cli.benchmarks.sources.load import load_dataset
from gr_cli.models import CNN
from gr_cli.nn.convolutions import Convolutions
from helpers import fake_timm
from helpers.bad_data import sound
from helpers.features import vectors_of
from helpers.image_files import folder
from helpers.situations import Hands, Situation, Table, of_vectors, typed


def cifar_folders(parts: tuple[str, ...], classes: tuple[str, ...]) -> Situation:
    """CIFAR-10 as folders with these classes."""

    def do(hands: Hands) -> object:
        folder(parts, classes)
        Path("images").rename("cifar10")
        return load_dataset(Torchvision("CIFAR10", ".", download=False))

    return do


def weights(stored: object = None) -> Situation:
    """Features from a weights file with this content; None: the file is missing."""

    def do(hands: Hands) -> object:
        if isinstance(stored, bytes):
            Path("weights.pt").write_bytes(stored)
        elif stored is not None:
            torch.save(stored, "weights.pt")
        return vectors_of(ConvFeatureExtractor([4], "weights.pt", cache_root="kept"), sound())

    return do


def no_safetensors(hands: Hands) -> object:
    hands.monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    return load_weights(Convolutions(1, [4]), Path("weights.safetensors"))


def no_timm(hands: Hands) -> object:
    hands.monkeypatch.setattr("gr_cli.benchmarks.features.backbones.find_spec", lambda name: None)
    return TimmFeatureExtractor("resnet18")


def of_timm(**settings) -> Situation:
    """Features of a network of a library in place of timm."""

    def do(hands: Hands) -> object:
        fake_timm.install(hands.monkeypatch, **settings)
        if "fixed" in settings:  # a network that does not say that its size is fixed
            hands.monkeypatch.setattr("timm.models.get_pretrained_cfg", lambda name: None)
        return vectors_of(TimmFeatureExtractor("pooled", image_size=12, cache_root="kept"), sound())

    return do


INFINITE = {name: torch.full_like(value, torch.inf) for name, value in Convolutions(1, [4]).state_dict().items()}

FEATURES: Table = {
    "benchmarks/features/base.py": [
        ("needs images", of_vectors("benchmark/features=conv_random")),
        ("vectors are not finite", weights(INFINITE)),
    ],
    "benchmarks/features/convolutions.py": [
        ("must be a data set", lambda hands: ConvFeatureExtractor()),
        ("needs at least one convolution", typed("benchmark/features=conv_random benchmark.features.channels=[]")),
        ("is the benchmark's own data", lambda hands: vectors_of(ConvFeatureExtractor(pretrain=Digits()),
            load_dataset(Digits()))),
    ],
    "benchmarks/features/weights.py": [
        ("can't be read", weights()),
        ("holds no plain tensors", weights(b"<html>")),
        ("is no state dict", weights([1, 2])),
        ("has shape {}, and {} is needed", weights(CNN((3, 4, 4), 2, [4]).state_dict())),
        ("{}: {} {}{}; it must be of", weights({})),
        ("is read by safetensors", no_safetensors),
    ],
    "benchmarks/features/batch_norm_convolutions.py": [
        ("must be a data set", lambda hands: BatchNormConvFeatureExtractor()),
        ("needs at least one convolution", lambda hands: BatchNormConvFeatureExtractor([])),
    ],
    "benchmarks/features/backbones.py": [
        ("must be a file with the weights of", lambda hands: TorchvisionFeatureExtractor("resnet18")),
        ("takes no images of", of_timm(cached=True, fixed=28)),
        ("has no linear output layer", lambda hands: remove_last_linear(torch.nn.ReLU(), "relu")),
        ("timm is not installed", no_timm),
        ("is no network of", lambda hands: TorchvisionFeatureExtractor("resnet19", "file")),
        ("weights are not in timm's cache", of_timm()),
    ],
    "benchmarks/sources/cifar_folders.py": [
        ("has no training and test images", cifar_folders(("train",), ("cat", "dog"))),
        ("its folders must have the names", cifar_folders(("train", "test"), ("cat", "dog"))),
    ],
}  # fmt: skip
