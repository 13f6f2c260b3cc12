#!/usr/bin/env python
"""gr-run on files of CIFAR's format that are not CIFAR, where that can't be had.

    python scripts/stand_in_cifar.py preset=split_cifar100_paper strategy=bir generator.gating=0.7
    python scripts/stand_in_cifar.py -m preset=split_cifar100_paper strategy=dgr,bir 'seed=range(3)'

All words go to gr-run. The pictures are made of MNIST and Fashion-MNIST, which must be below GR_DATA_ROOT: a garment
with a mark on it, both at random places and in random colours. In "CIFAR-100" the mark is a digit, and a class a pair
of both, with 200 images for training and 40 for testing. In "CIFAR-10" it is a made-up character, which is the class,
with 5,000 and 200 images. Files and runs lie below outputs/stand_in_cifar/, apart from those of the real sets.
"""

import hashlib
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import datasets

import gr_cli.cli.main
from gr_cli.benchmarks import SyntheticGlyphs, Torchvision
from gr_cli.benchmarks.base import Samples

HOME = Path("outputs/stand_in_cifar")
SIZE, MARK = 32, 24  # pixels each way, of an image and of the mark on a garment


def pictures(garments: Tensor, marks: Tensor, stream: torch.Generator) -> np.ndarray:
    """Garments and marks (N, 1, 28, 28) in [0, 1] as bytes (N, 3 * 32 * 32), in the order of CIFAR."""
    x = 0.6 * torch.rand(len(garments), 3, 1, 1, generator=stream).expand(-1, -1, SIZE, SIZE)
    small = F.interpolate(marks, [MARK, MARK], mode="bilinear", antialias=True)
    colour = torch.rand(len(garments), 3, 1, 1, generator=stream)
    for layer in (garments, small):
        spread = SIZE - layer.shape[-1]
        places = torch.randint(0, spread + 1, (len(layer), 2), generator=stream).tolist()
        ink = torch.stack(
            [
                F.pad(one, (right, spread - right, down, spread - down))
                for one, (down, right) in zip(layer, places, strict=True)
            ]
        )
        x = x * (1 - ink) + colour * ink
        # A mark must be seen on its garment.
        colour = (colour + 0.5 + 0.3 * torch.rand(colour.shape, generator=stream)) % 1
    x = x + 0.04 * torch.randn(x.shape, generator=stream)
    return (255 * x.clamp(0, 1)).round().to(torch.uint8).flatten(1).numpy()


def chosen(samples: Samples, labels: Tensor, stream: torch.Generator) -> Tensor:
    """For each label an image (1, 28, 28) of that class, chosen at random: (N, 1, 28, 28)."""
    members = [(samples.y == label).nonzero().flatten() for label in range(int(samples.y.max()) + 1)]
    places = torch.rand(len(labels), generator=stream)
    rows = [members[label][int(place * len(members[label]))] for label, place in zip(labels, places, strict=True)]
    return samples.batch(torch.stack(rows))[0]


def write(root: Path, source: str, part: float = 1.0) -> None:
    """Both sets, or a part of each, in CIFAR's format below `root`."""
    garments, digits = (Torchvision(name, source, download=False).load() for name in ("FashionMNIST", "MNIST"))
    characters = SyntheticGlyphs(classes=10).load()
    stream = torch.Generator().manual_seed(0)
    for name, marks, of, numbers in (
        ("cifar-100-python", digits, lambda garment, mark: 10 * garment + mark, (20_000, 4_000)),
        ("cifar-10-batches-py", characters, lambda _, mark: mark, (50_000, 2_000)),
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
        for name_of_part, whole in zip(("train", "test"), numbers, strict=True):
            number = round(part * whole)
            pairs = torch.arange(number) % (10 * len(marks.classes))
            garment, mark = pairs % 10, pairs // 10
            drawn = [
                chosen(getattr(data, name_of_part), labels, stream)
                for data, labels in ((garments, garment), (marks, mark))
            ]
            order = torch.randperm(number, generator=stream)
            put(root / name, name_of_part, pictures(*drawn, stream)[order], of(garment, mark)[order].tolist())
    fine = [f"{garment} {digit}" for garment in garments.classes for digit in range(10)]
    for path, key, names in (
        ("cifar-100-python/meta", "fine_label_names", fine),
        ("cifar-10-batches-py/batches.meta", "label_names", list(characters.classes)),
    ):
        (root / path).write_bytes(pickle.dumps({key: names}, protocol=2))


def put(folder: Path, part: str, x: np.ndarray, y: list[int]) -> None:
    """A part of a set as its files."""
    if folder.name == "cifar-100-python":
        files = {part: slice(None)}
    elif part == "test":
        files = {"test_batch": slice(None)}
    else:
        fifth = len(y) // 5
        files = {f"data_batch_{i + 1}": slice(i * fifth, (i + 1) * fifth) for i in range(5)}
    key = "fine_labels" if folder.name == "cifar-100-python" else "labels"
    for name, rows in files.items():
        (folder / name).write_bytes(pickle.dumps({"data": x[rows], key: y[rows]}, protocol=2))


def publish(root: Path) -> None:
    """Let torchvision expect the checksums of these files, not those of the published ones."""
    for dataset in (datasets.CIFAR10, datasets.CIFAR100):
        folder = root / dataset.base_folder

        def summed(name: str, folder: Path = folder) -> str:
            return hashlib.md5((folder / name).read_bytes()).hexdigest()

        for listed in ("train_list", "test_list"):
            setattr(dataset, listed, [[name, summed(name)] for name, _ in getattr(dataset, listed)])
        dataset.meta = dataset.meta | {"md5": summed(dataset.meta["filename"])}


def main() -> int:
    """Write the files if they are missing, and run."""
    source = os.environ.get("GR_DATA_ROOT", "")
    if not source:
        sys.exit("GR_DATA_ROOT must name a folder that holds MNIST and FashionMNIST")
    root = HOME.absolute() / "data"
    if not (root / "done").exists():
        write(root, source)
        (root / "done").touch()
    publish(root)
    os.environ["GR_DATA_ROOT"] = str(root)
    os.chdir(HOME)
    return gr_cli.cli.main.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
