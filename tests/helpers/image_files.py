"""Folders of small image files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from gr_cli.benchmarks import ImageFolder
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.benchmarks.sources.load import load_dataset

RNG = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def put(path: str, image: np.ndarray | Image.Image, **how) -> np.ndarray:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(path, **how)
    return np.asarray(picture)


def folder(
    parts: tuple[str, ...] = ("train", "test"), classes: tuple[str, ...] = ("cat", "dog"), each: int = 3
) -> None:
    """Colour images (6, 5) below `images`."""
    for part in parts:
        for name in classes:
            for i in range(each):
                put(f"images/{part}/{name}/{i}.png", pixels(6, 5, 3))


def read(**settings) -> Dataset:
    return load_dataset(ImageFolder("images", cache_root="cache", **settings))


def colour16(path: str, image: np.ndarray) -> None:
    """Write a PNG (H, W, 3) with 16 bits per channel; Pillow reads this form but does not write it."""
    height, width, _ = image.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + body)
