"""A small library in place of timm, and of the hub from which timm loads weights."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import torch
from torch import nn

SETTINGS = {"input_size": (3, 8, 8), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 1.0), "classifier": "head"}


class Pooled(nn.Module):
    """A convolution, batch normalization, and the mean over pixels."""

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        self.conv, self.bn, self.size = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), size
        self.pretrained_cfg = SETTINGS

    def forward(self, x):
        if self.size and x.shape[-1] != self.size:
            raise ValueError(f"images of {self.size} pixels")
        return self.bn(self.conv(x)).mean((2, 3))


def install(monkeypatch, cached: bool = False, network: bool = False, fixed: int | None = None) -> list[str]:
    """Put it in place of timm; returns the list of what is asked of the hub.

    Args:
        monkeypatch: pytest's.
        cached: Whether the weights are in the cache.
        network: Whether they can be downloaded.
        fixed: The only size of images that the network takes, if `img_size` is not given.
    """
    asked: list[str] = []
    constants = SimpleNamespace(HF_HUB_OFFLINE=False)

    def create_model(name, pretrained, num_classes, img_size=None):
        assert num_classes == 0
        if pretrained:
            asked.append("cache" if constants.HF_HUB_OFFLINE else "network")
            if not (cached if constants.HF_HUB_OFFLINE else network):
                raise OSError("no such weights:\nthere is no connection")
        model = Pooled(img_size or fixed)
        if pretrained:
            with torch.no_grad():
                model.bn.running_mean.fill_(2.0)
        return model

    def module(name: str, **attributes) -> None:
        fake = ModuleType(name)
        fake.__spec__ = ModuleSpec(name, None)
        fake.__dict__.update(attributes)
        monkeypatch.setitem(sys.modules, name, fake)

    models = SimpleNamespace(get_pretrained_cfg=lambda name: SimpleNamespace(fixed_input_size=fixed is not None))
    module("timm", create_model=create_model, list_models=lambda: ["pooled"], models=models)
    module("huggingface_hub", constants=constants)
    return asked
