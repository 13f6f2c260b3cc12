"""Images decoded to arrays of one shape: bytes, or fractions where any image has more than 8 bits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gr_cli.errors import ConfigError, DataError

# What Pillow opens, but only with the help of other programs.
_UNSUPPORTED_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_FORMATS_WITH_ORIENTATION = {"AVIF", "JPEG", "MPO", "TIFF", "WEBP"}
_EXIF_ORIENTATION = 0x0112  # a tag of EXIF; from 5 on, a camera was held upright
_GREY_MODES = {"1", "L", "LA", "La"}
_COMMON_BIT_DEPTHS = (8, 10, 12, 14, 16, 24, 32)  # depths that cameras and scanners have

Array = np.ndarray[Any, Any]


class ValueType(IntEnum):
    """How the values of an image are stored."""

    BYTES = 0
    INTEGERS = 1  # greys of more than 8 bits
    FLOATS = 2
    TRUNCATED_TO_BYTES = 3  # 16 bits a channel, of which Pillow reads the upper 8


class ImageHeader(NamedTuple):
    """What an image file says before it is decoded: (height, width), and how values are stored."""

    size: tuple[int, int]
    grey: bool
    value_type: ValueType


class DecodedImage(NamedTuple):
    """A decoded image (C, H, W): bytes, or floats whose scale `depth` tells; its lowest and highest stored value."""

    values: Array
    value_type: ValueType
    low: float = 0.0
    high: float = 0.0


@lru_cache(maxsize=1)
def supported_extensions() -> frozenset[str]:
    """How the names of files end that Pillow can decode by itself."""
    from PIL import Image

    known = Image.registered_extensions()
    return frozenset(end for end, kind in known.items() if kind in Image.OPEN and kind not in _UNSUPPORTED_FORMATS)


def read_header(path: str) -> ImageHeader | None:
    """The header of an image; None if it can't be told, which decoding will say."""
    try:
        with _open_image(path) as image:
            width, height = image.size
            turned = image.format in _FORMATS_WITH_ORIENTATION and image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
            depth = _value_type(image)
            grey = image.mode in _GREY_MODES or depth in (ValueType.INTEGERS, ValueType.FLOATS)
            return ImageHeader((width, height) if turned else (height, width), grey, depth)
    except Exception:
        return None


def _open_image(path: str) -> Any:
    from PIL import Image

    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("it is no regular file")  # a pipe would be waited for, a device never ends
    return Image.open(path)


def _value_type(image: Any) -> ValueType:
    if image.mode == "F":
        return ValueType.FLOATS
    if image.mode.startswith("I"):
        return ValueType.INTEGERS
    # The raw mode of a tile, such as RGB;16B, is where Pillow says what is in the file.
    return ValueType.TRUNCATED_TO_BYTES if any(";16" in str(tile[3]) for tile in image.tile) else ValueType.BYTES


def decode_image(path: str, shape: tuple[int, int, int]) -> DecodedImage:
    """An image, its shorter side scaled to `shape` (C, H, W) and cut at the centre; what is transparent on white,
    and of several frames the first."""
    from PIL import Image, ImageOps

    mode, (height, width) = "L" if shape[0] == 1 else "RGB", shape[1:]
    with _open_image(path) as opened:
        opened.draft(mode, (2 * width, 2 * height))  # a large JPEG needs not be decoded in full
        depth = _value_type(opened)
        image: Image.Image = opened
        if opened.format in _FORMATS_WITH_ORIENTATION:
            image = ImageOps.exif_transpose(opened)
        if depth in (ValueType.INTEGERS, ValueType.FLOATS):
            return _decode_high_bit_depth(image, shape, depth)
        high = float(np.asarray(image).max()) * 257 if depth == ValueType.TRUNCATED_TO_BYTES else 255.0
        if "A" in image.getbands() or "transparency" in image.info:
            # What is stored where nothing is to be seen is anything: one tool's black, another's stripes.
            seen = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
        image = image.convert(mode)
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(image)
    return DecodedImage(pixels[None] if shape[0] == 1 else pixels.transpose(2, 0, 1), depth, 0.0, high)


def _decode_high_bit_depth(image: Any, shape: tuple[int, int, int], depth: ValueType) -> DecodedImage:
    """A grey image of more than 8 bits, as it is stored: the scale is that of the whole set, which is known later."""
    from PIL import Image, ImageOps

    stored = np.asarray(image)
    low, high = float(stored.min()), float(stored.max())
    grey = Image.fromarray(stored.astype(np.float32))
    if grey.size != (shape[2], shape[1]):
        grey = ImageOps.fit(grey, (shape[2], shape[1]), Image.Resampling.BICUBIC)
    return DecodedImage(np.repeat(np.asarray(grey)[None], shape[0], 0), depth, low, high)


# --- one scale for all images of a set


def scale_to_unit_range(
    x: Array, decoded_images: Sequence[DecodedImage], names: Sequence[str], bits: int | None, place: str
) -> int:
    """Bring the images `x` (N, C, H, W) float32, which hold stored values, to [0, 1] in place, all by one scale.

    Args:
        x: the images.
        seen: of each its depth, lowest and highest value.
        names: their files, for errors.
        bits: of integers; None: as many as the highest value of all images needs.
        place: the data set, for errors.

    Returns:
        the bits of integers; 0 if there are none.

    Raises:
        DataError: values that have no place in [0, 1].
        ConfigError: values that need more than `bits`.
    """
    depths = np.array([pixels.value_type for pixels in decoded_images])
    for pixels, name in zip(decoded_images, names, strict=True):
        if pixels.value_type == ValueType.INTEGERS and pixels.low < 0:
            raise DataError(f"{place}: {name} holds negative values, from {pixels.low:.0f}; {_SAVE_AS_ARRAYS}")
        if pixels.value_type == ValueType.FLOATS and not 0 <= pixels.low <= pixels.high <= 1:
            raise DataError(
                f"{place}: {name} holds floating-point values in [{pixels.low:.6g}, {pixels.high:.6g}], which must lie "
                f"in [0, 1]; {_SAVE_AS_ARRAYS}"
            )
    integers = depths == ValueType.INTEGERS
    found = (
        _bit_depth(max((p.high for p in decoded_images if p.value_type == ValueType.INTEGERS), default=0.0), bits)
        if any(integers)
        else 0
    )
    for i, depth in enumerate(depths):
        if depth != ValueType.FLOATS:
            x[i] /= 2**found - 1 if depth == ValueType.INTEGERS else 255
    np.clip(x, 0, 1, out=x)  # scaling an image to a size may go beyond
    return found


_SAVE_AS_ARRAYS = "scale them, or save them as arrays for benchmark=arrays, with their benchmark.source.value_range"


def _bit_depth(high: float, bits: int | None) -> int:
    if bits is None:
        return next((number for number in _COMMON_BIT_DEPTHS if high < 2**number), _COMMON_BIT_DEPTHS[-1])
    if high >= 2**bits:
        needed = int(high).bit_length()
        raise ConfigError("benchmark.source.bits", bits, f"values go up to {high:.0f}, which takes {needed} bits")
    return bits


def check_truncation(decoded_images: Sequence[DecodedImage], bits: int | None, place: str) -> None:
    """Refuse colours of 16 bits that would be cut to a few levels because they hold fewer.

    Raises:
        DataError: the upper 8 bits of all such images are dark, and `bits` does not say that 16 are meant.
    """
    high = max(
        (pixels.high for pixels in decoded_images if pixels.value_type == ValueType.TRUNCATED_TO_BYTES), default=None
    )
    if high is None or (bits is None and high >= 2**15) or bits == 16:
        return
    raise DataError(
        f"{place}: images of 16 bits a channel, of which the upper 8 are read, hold values up to about {high:.0f} of "
        "65535; convert them to 8 bits, or say benchmark.source.bits=16 if they are that dark"
    )
