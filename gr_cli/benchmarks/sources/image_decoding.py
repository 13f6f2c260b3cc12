"""Decoding of images to arrays of one shape and one scale."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gr_cli.errors import ConfigError, DataError

# Formats that Pillow opens only with other programs.
_UNSUPPORTED_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_FORMATS_WITH_ORIENTATION = {"AVIF", "JPEG", "MPO", "TIFF", "WEBP"}
_EXIF_ORIENTATION = 0x0112  # EXIF tag; values from 5 on exchange height and width
_GREY_MODES = {"1", "L", "LA", "La"}
_COMMON_BIT_DEPTHS = (8, 10, 12, 14, 16, 24, 32)  # of cameras and scanners

Array = np.ndarray[Any, Any]


class ValueType(IntEnum):
    """How the values of an image are stored."""

    BYTES = 0
    INTEGERS = 1  # grey values of more than 8 bits
    FLOATS = 2
    TRUNCATED_TO_BYTES = 3  # 16 bits per channel, of which Pillow reads the upper 8


class ImageHeader(NamedTuple):
    """Properties of an image file that are known before decoding.

    Attributes:
        size: (height, width) after EXIF rotation.
        grey: Whether the image has one channel.
        value_type: How its values are stored.
    """

    size: tuple[int, int]
    grey: bool
    value_type: ValueType


class DecodedImage(NamedTuple):
    """A decoded image.

    Attributes:
        values: Pixels (C, H, W): uint8, or stored values as float32.
        value_type: How the values are stored in the file.
        low: Lowest stored value.
        high: Highest stored value.
    """

    values: Array
    value_type: ValueType
    low: float = 0.0
    high: float = 0.0


@lru_cache(maxsize=1)
def supported_extensions() -> frozenset[str]:
    """File extensions of the formats that Pillow decodes without other programs."""
    from PIL import Image

    registered = Image.registered_extensions()
    return frozenset(
        extension
        for extension, format_name in registered.items()
        if format_name in Image.OPEN and format_name not in _UNSUPPORTED_FORMATS
    )


def read_header(path: str) -> ImageHeader | None:
    """The header of an image file; None if it can't be read."""
    try:
        with _open_image(path) as image:
            width, height = image.size
            is_rotated = image.format in _FORMATS_WITH_ORIENTATION and image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
            value_type = _value_type(image)
            grey = image.mode in _GREY_MODES or value_type in (ValueType.INTEGERS, ValueType.FLOATS)
            return ImageHeader((width, height) if is_rotated else (height, width), grey, value_type)
    except Exception:
        return None


def _open_image(path: str) -> Any:
    from PIL import Image

    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("it is no regular file")  # reading a pipe blocks, reading a device never ends
    return Image.open(path)


def _value_type(image: Any) -> ValueType:
    if image.mode == "F":
        return ValueType.FLOATS
    if image.mode.startswith("I"):
        return ValueType.INTEGERS
    # Pillow has the stored bit depth only in the raw mode of a tile, such as RGB;16B.
    return ValueType.TRUNCATED_TO_BYTES if any(";16" in str(tile[3]) for tile in image.tile) else ValueType.BYTES


def decode_image(path: str, shape: tuple[int, int, int]) -> DecodedImage:
    """Decode an image, resize its shorter side to `shape` (C, H, W) and crop it at the centre.

    Transparent pixels are drawn on white; only the first frame of an animation is used.
    """
    from PIL import Image, ImageOps

    mode, (height, width) = "L" if shape[0] == 1 else "RGB", shape[1:]
    with _open_image(path) as opened:
        opened.draft(mode, (2 * width, 2 * height))  # decodes a large JPEG at reduced size
        value_type = _value_type(opened)
        image: Image.Image = opened
        if opened.format in _FORMATS_WITH_ORIENTATION:
            image = ImageOps.exif_transpose(opened)
        if value_type in (ValueType.INTEGERS, ValueType.FLOATS):
            return _decode_high_bit_depth(image, shape, value_type)
        high = float(np.asarray(image).max()) * 257 if value_type == ValueType.TRUNCATED_TO_BYTES else 255.0
        if "A" in image.getbands() or "transparency" in image.info:
            # The stored colour of transparent pixels is arbitrary.
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        image = image.convert(mode)
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(image)
    return DecodedImage(pixels[None] if shape[0] == 1 else pixels.transpose(2, 0, 1), value_type, 0.0, high)


def _decode_high_bit_depth(image: Any, shape: tuple[int, int, int], value_type: ValueType) -> DecodedImage:
    """A grey image of more than 8 bits with its stored values; the scale depends on all images of the set."""
    from PIL import Image, ImageOps

    stored = np.asarray(image)
    low, high = float(stored.min()), float(stored.max())
    grey = Image.fromarray(stored.astype(np.float32))
    if grey.size != (shape[2], shape[1]):
        grey = ImageOps.fit(grey, (shape[2], shape[1]), Image.Resampling.BICUBIC)
    return DecodedImage(np.repeat(np.asarray(grey)[None], shape[0], 0), value_type, low, high)


# --- one scale for all images of a set


class StoredValues(NamedTuple):
    """How the values of the images of a set are stored in their files.

    Attributes:
        value_type: `ValueType` of each image, (N,).
        low: Lowest stored value of each, (N,).
        high: Highest stored value of each, (N,).
    """

    value_type: Array
    low: Array
    high: Array

    def of_type(self, value_type: ValueType) -> Array:
        """Indices of the images of a type."""
        return np.flatnonzero(self.value_type == value_type)


def common_bit_depth(stored: StoredValues, names: Sequence[str], bits: int | None, location: str) -> int:
    """The bit depth by which `scale_to_unit_range` scales integers; 0 if there are none.

    Args:
        stored: The stored values of all images.
        names: File names for messages.
        bits: Bit depth of integers; None: derived from the highest value.
        location: Start of messages.

    Raises:
        DataError: Values are negative, or floats outside [0, 1].
        ConfigError: Values exceed `bits`.
    """
    integers, floats = stored.of_type(ValueType.INTEGERS), stored.of_type(ValueType.FLOATS)
    for i in integers[stored.low[integers] < 0][:1]:
        raise DataError(f"{location}: {names[i]} holds negative values, from {stored.low[i]:.0f}; {_SAVE_AS_ARRAYS}")
    for i in floats[~((stored.low[floats] >= 0) & (stored.high[floats] <= 1))][:1]:
        raise DataError(
            f"{location}: {names[i]} holds floating-point values in [{stored.low[i]:.6g}, {stored.high[i]:.6g}], which "
            f"must lie in [0, 1]; {_SAVE_AS_ARRAYS}"
        )
    return _bit_depth(float(stored.high[integers].max()), bits) if len(integers) else 0


def scale_to_unit_range(x: Array, value_types: Array, bit_depth: int) -> None:
    """Scale images (n, C, H, W) of stored values, float32, to [0, 1] in place."""
    for i, value_type in enumerate(value_types):
        if value_type != ValueType.FLOATS:
            x[i] /= 2**bit_depth - 1 if value_type == ValueType.INTEGERS else 255
    np.clip(x, 0, 1, out=x)  # bicubic resizing may overshoot


_SAVE_AS_ARRAYS = "scale them, or save them as arrays for benchmark=arrays, with their benchmark.source.value_range"


def _bit_depth(high: float, bits: int | None) -> int:
    if bits is None:
        return next((number for number in _COMMON_BIT_DEPTHS if high < 2**number), _COMMON_BIT_DEPTHS[-1])
    if high >= 2**bits:
        needed = int(high).bit_length()
        raise ConfigError("benchmark.source.bits", bits, f"values go up to {high:.0f}, which takes {needed} bits")
    return bits


def check_truncation(stored: StoredValues, bits: int | None, location: str) -> None:
    """Raise DataError for 16-bit colour images that are too dark to be reduced to 8 bits, unless `bits` is 16."""
    truncated = stored.of_type(ValueType.TRUNCATED_TO_BYTES)
    if not len(truncated) or bits == 16:
        return
    high = float(stored.high[truncated].max())
    if bits is None and high >= 2**15:
        return
    raise DataError(
        f"{location}: images of 16 bits a channel, of which the upper 8 are read, hold values up to about "
        f"{high:.0f} of 65535; convert them to 8 bits, or set benchmark.source.bits=16 if they are that dark"
    )
