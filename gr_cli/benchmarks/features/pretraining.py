"""Pretraining of convolutions in epochs on augmented images; it continues where it was interrupted."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.errors import WriteError
from gr_cli.nn.batch_order import BatchOrder
from gr_cli.nn.random_streams import RandomStreams, StreamNames, seeded
from gr_cli.optimizers import Adam, FunctionalOptimizer
from gr_cli.system.cache import Tensors
from gr_cli.system.checksums import DamagedError, load_tensors, save_tensors
from gr_cli.system.messages import print_status, with_progress

_BATCH, _LR, _PADDING, _HIDDEN = 256, 1e-4, 4, (2000, 2000)
PRETRAINING = (_BATCH, _LR, _PADDING, _HIDDEN)  # part of the cache key of pretrained weights
_SECONDS_BETWEEN_SAVES = 60.0


def pretrain_in_epochs(
    network: nn.Module,
    normalization: nn.Module,
    dataset: Dataset,
    epochs: int,
    seed: int,
    device: torch.device,
    progress_path: Path,
) -> Tensors:
    """Pretrain convolutions as a classifier of a data set, as published for Split CIFAR-100 (van de Ven et al. 2021).

    Two hidden layers of 2,000 units and an output layer follow the convolutions. Cross-entropy, Adam with a learning
    rate of 0.0001, batches of 256 images, each flipped with probability 0.5 and cropped at random after four pixels
    were added on each side by reflection.

    Args:
        network: Convolutions; trained in place.
        normalization: What is done to a batch of images first.
        dataset: Labelled images.
        epochs: Number of epochs, without the samples that don't fill a batch.
        seed: Seed of initial weights, order and augmentation.
        device: Device of the training.
        progress_path: File of the state of an interrupted pretraining; removed at the end.

    Returns:
        The state dict of `network`.
    """
    streams, count = RandomStreams(seed), len(dataset.train)
    classifier = nn.Sequential(normalization, network, _head(network, dataset, seed)).to(device).train()
    parameters = list(classifier.parameters())
    optimizer = FunctionalOptimizer(parameters, [Adam(lr=_LR)])
    optimizer.begin_task()
    batch_size = min(_BATCH, count)
    iterations, order = epochs * (count // batch_size), BatchOrder(count, batch_size, streams, 0)
    first, saved_at = _load_progress(progress_path, classifier, optimizer), monotonic()
    if first:
        print_status(f"pretraining continues after {first:,} of {iterations:,} iterations")
    for i in with_progress(range(first, iterations), iterations - first, "iterations of pretraining"):
        if monotonic() - saved_at > _SECONDS_BETWEEN_SAVES:
            _save_progress(progress_path, classifier, optimizer, i)
            saved_at = monotonic()
        x, y = dataset.train.batch(order.block(i, 1)[0])
        logits = classifier(random_crop_and_flip(x, streams, i).to(device))
        gradients = torch.autograd.grad(F.cross_entropy(logits, y.to(device)), parameters)
        optimizer.step(gradients, lambda settings: settings.lr)
    progress_path.unlink(missing_ok=True)
    return {name: value.clone() for name, value in network.state_dict().items()}


def random_crop_and_flip(x: Tensor, streams: RandomStreams, iteration: int) -> Tensor:
    """Images (B, C, H, W), each shifted by up to four pixels and flipped left to right with probability 0.5.

    Pixels beyond the border are those at the same distance inside it.
    """
    (batch_size, _, height, width), name = x.shape, StreamNames.FEATURES_AUGMENTATION
    uniform = streams.draw("uniform", name, iteration, shape=(3, batch_size)).to(x.device)
    rows = _reflected((uniform[0] * (2 * _PADDING + 1)).long() - _PADDING, height)  # (B, H)
    columns = _reflected((uniform[1] * (2 * _PADDING + 1)).long() - _PADDING, width)  # (B, W)
    columns = torch.where((uniform[2] < 0.5).unsqueeze(1), columns.flip(1), columns)
    images = torch.arange(batch_size, device=x.device).view(-1, 1, 1)
    return x.permute(0, 2, 3, 1)[images, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2).contiguous()


def _reflected(offsets: Tensor, size: int) -> Tensor:
    """Positions `offset`, ..., `offset` + size - 1, reflected at the borders: (B,) to (B, size)."""
    positions = offsets.unsqueeze(1) + torch.arange(size, device=offsets.device)
    positions = torch.where(positions < 0, -1 - positions, positions)
    return torch.where(positions >= size, 2 * size - 1 - positions, positions).clamp(0, size - 1)


def _head(network: nn.Module, dataset: Dataset, seed: int) -> nn.Module:
    """Two hidden layers and an output layer, with torch's initial weights."""
    height, width = dataset.spec.shape[1:]
    with torch.no_grad():
        network.eval()
        size = network(torch.zeros(1, 3, height, width)).shape[1]
    with seeded(seed, StreamNames.FEATURES_OUTPUT_INIT):
        first, second = _HIDDEN
        return nn.Sequential(
            nn.Linear(size, first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, len(dataset.classes)),
        )


def _save_progress(path: Path, classifier: nn.Module, optimizer: FunctionalOptimizer, iteration: int) -> None:
    state = {"classifier": classifier.state_dict(), "optimizer": optimizer.state_of(0), "iteration": iteration}
    # A cache that can't be written is not an error; torch.save raises RuntimeError when the disk is full.
    with suppress(WriteError, OSError, RuntimeError):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, state)


def _load_progress(path: Path, classifier: nn.Module, optimizer: FunctionalOptimizer) -> int:
    """Restore the state in a file; returns the next iteration, 0 if there is no valid file."""
    try:
        state: dict[str, Any] = load_tensors(path)
    except OSError:
        return 0
    except DamagedError as error:
        print_status(f"{path}: is damaged ({error}); pretraining starts again")
        return 0
    classifier.load_state_dict(state["classifier"])
    optimizer.load_states([state["optimizer"]])
    return int(state["iteration"])
