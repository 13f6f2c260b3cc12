"""Images as arrays of numbers: stored pixels, grey values, and the panels of a picture."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_PIXELS = 1 << 26
_MAX_FRAMES = 200
_MIN_SIDE = 12  # pixels of a panel
_MAX_PANELS = 400

Pixels = NDArray[Any]


def images(content: bytes) -> Iterator[Pixels]:
    """The pixels of every frame: (H, W), or (C, H, W) where channels differ, then grey panels.

    Raises:
        ValueError, OSError, SyntaxError: The image is too large or unreadable.
    """
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        frames = int(getattr(image, "n_frames", 1))
        if image.width * image.height * frames > _MAX_PIXELS or frames > _MAX_FRAMES:
            raise ValueError(f"more than {_MAX_PIXELS} pixels")
        for number in range(frames):
            image.seek(number)
            stored = np.asarray(image)
            coloured = (
                np.asarray(image.convert("RGB")) if image.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV") else stored
            )
            if coloured is not stored:
                yield stored if stored.ndim == 2 else np.moveaxis(stored, 2, 0)
            yield from _with_panels(coloured)


def _with_panels(pixels: Pixels) -> Iterator[Pixels]:
    if pixels.ndim == 3:
        planes = [plane for plane in np.moveaxis(pixels, 2, 0) if np.ptp(plane)]
        if any((plane != planes[0]).any() for plane in planes[1:]):
            yield np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
        pixels = pixels[..., :3].mean(2) if pixels.shape[2] >= 3 else pixels[..., 0]
    pixels = pixels.astype(np.float32)
    yield from panels(pixels)


def panels(pixels: Pixels) -> Iterator[Pixels]:
    """The picture (H, W), and the rectangles in it that lines of the background colour separate."""
    yield pixels
    pending, count = [(pixels, 0)], 0
    while pending and count < _MAX_PANELS:
        picture, depth = pending.pop()
        segments = [picture]
        for axis in (0, 1):
            segments = [segment for region in segments for segment in _split_at_background(region, axis)]
        for segment in segments:
            if segment.shape != picture.shape and min(segment.shape) >= _MIN_SIDE:
                count += 1
                yield segment
                if depth < 3:
                    pending.append((segment, depth + 1))


def _split_at_background(pixels: Pixels, axis: int) -> list[Pixels]:
    """The segments between rows (axis 0) or columns (1) that have the colour of the first pixel."""
    filled = (np.abs(pixels - pixels[0, 0]) > 1e-6).any(1 - axis)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], filled, [False]]).astype(np.int8)))
    return [pixels.take(range(start, end), axis) for start, end in zip(edges[::2], edges[1::2], strict=True)]
