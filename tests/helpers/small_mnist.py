"""A small MNIST in the original file format (IDX, big-endian): 40 images of random pixels."""

from pathlib import Path

import numpy as np


def idx(*shape: int, values: bytes = b"", magic: int | None = None) -> bytes:
    """The bytes of an IDX file of that shape."""
    return np.array([0x800 + len(shape) if magic is None else magic, *shape], dtype=">u4").tobytes() + values


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
PIXELS = np.random.default_rng(0).integers(0, 256, 40 * 28 * 28, dtype=np.uint8).tobytes()
FILES = {
    f"{part}-{name}": content
    for part in ("train", "t10k")
    for name, content in (
        ("images-idx3-ubyte", idx(40, 28, 28, values=PIXELS)),
        ("labels-idx1-ubyte", idx(40, values=bytes(i % 10 for i in range(40)))),
    )
}


def write(root: Path) -> Path:
    """Write the files below `root` in torchvision's layout; returns their folder."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in FILES.items():
        (raw / name).write_bytes(content)
    return raw
