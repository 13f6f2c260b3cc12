"""Decoding of images: formats, modes, sizes and bit depths."""

import numpy as np
import pytest
import torch
from PIL import Image

from gr_cli.errors import ConfigError, DataError
from helpers.image_files import RNG, colour16, folder, pixels, put, read


@pytest.mark.parametrize("ending", ["png", "jpg", "JPEG", "bmp", "gif", "webp", "tif", "ppm"])
def test_every_format(ending):
    for part in ("train", "test"):
        for name in ("a", "b"):
            put(f"images/{part}/{name}/x.{ending}", pixels(8, 8, 3))
    assert read().train.x.shape == (2, 3, 8, 8)


def test_mode_is_grey_only_if_all_images_are():
    for part in ("train", "test"):
        for name in ("a", "b"):
            put(f"images/{part}/{name}/x.png", pixels(4, 4))
    grey = put("images/train/a/x.png", pixels(4, 4))
    data = read()
    assert data.train.x.shape == (2, 1, 4, 4) and np.array_equal(data.train.x[0, 0], grey)
    assert read(mode="rgb").train.x.shape == (2, 3, 4, 4)
    colour = put("images/train/b/x.png", pixels(4, 4, 3))
    data = read()
    assert np.array_equal(data.train.x[0], np.stack([grey] * 3))
    assert np.array_equal(data.train.x[1].permute(1, 2, 0), colour)
    weights = np.array([0.299, 0.587, 0.114])
    assert np.abs(read(mode="grey").train.x[1, 0].numpy() - colour @ weights).max() <= 1


def test_images_get_the_most_frequent_size():
    folder(each=4)
    wide = np.zeros((12, 30, 3), np.uint8)
    wide[:, 5:25] = 255  # more than its centre of 12x10 is white
    put("images/train/cat/wide.png", wide)
    data = read()
    assert data.train.x.shape[1:] == (3, 6, 5)
    assert data.train.x[4].min() == 255
    assert read(size=8).train.x.shape[1:] == (3, 8, 8)
    assert read(size=[3, 7]).train.x.shape[1:] == (3, 3, 7)


def on_white(image: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) of an image (H, W, 4) on white."""
    opaque = image[..., 3:] / 255
    return opaque * image[..., :3] + (1 - opaque) * 255


def test_palettes_transparency_and_bilevel_images():
    sixteen = (pixels(4, 4).astype(np.uint16) << 8) + 77
    palette = Image.fromarray(pixels(4, 4, 3)).quantize(8)
    palette.info["transparency"] = bytes([0, 128, 255])
    glass, faint = pixels(4, 4, 4), pixels(4, 4, 2)
    glass[0, 0, 3] = 0  # transparent
    for part in ("train", "test"):
        put(f"images/{part}/a/sixteen.png", sixteen)
        put(f"images/{part}/a/z.png", glass)
        put(f"images/{part}/b/palette.png", palette)
        put(f"images/{part}/b/two.png", Image.fromarray(pixels(4, 4) > 127))
        put(f"images/{part}/b/zfaint.png", faint)
    x = read().train.x
    assert np.array_equal(x[0, 0], (sixteen / 65535).astype(np.float32))
    x = 255 * x
    shades = np.asarray(palette.convert("RGBA"))
    for i, image in ((1, glass), (2, shades), (4, np.repeat(faint, (3, 1), 2))):
        assert np.abs(x[i].permute(1, 2, 0).numpy() - on_white(image)).max() <= 1
    assert x[1, :, 0, 0].tolist() == [255, 255, 255]
    assert set(x[3].unique().tolist()) == {0, 255}


DEEP = [
    (np.uint16, "png", 4095, 12),
    (np.uint16, "tif", 4095, 12),
    (np.uint16, "png", 255, 8),
    (np.uint16, "png", 1000, 10),
    (np.uint16, "png", 65535, 16),
    (np.int32, "tif", 100_000, 24),
    (np.int32, "tif", 2**31 - 1, 32),
]


@pytest.mark.parametrize(("dtype", "ending", "highest", "bits"), DEEP)
def test_high_bit_depth_greys_share_one_scale(capsys, dtype, ending, highest, bits):
    dark, bright = (RNG.integers(0, high, (4, 4)).astype(dtype) for high in (highest // 16, highest + 1))
    bright[0, 0] = highest
    for part, name, image in (
        ("train", "a", dark),
        ("train", "b", dark + 1),
        ("test", "a", bright),
        ("test", "b", dark),
    ):
        put(f"images/{part}/{name}/x.{ending}", image)
    put("images/train/a/bytes.png", byte := pixels(4, 4))
    data = read()
    assert data.train.x.dtype == torch.float32 and data.spec.value_range == (0.0, 1.0)
    assert np.array_equal(data.train.x[0, 0], (byte / np.float32(255)))
    for pixels_, image in ((data.train.x[1, 0], dark), (data.test.x[0, 0], bright)):
        assert np.abs(pixels_.numpy() - image / (2**bits - 1)).max() <= 2**-24
        assert len(pixels_.unique()) == len(np.unique(image)) or bits == 32
    assert f"grey values of more than 8 bits are read as {bits} bits, by the highest value" in capsys.readouterr().err
    assert torch.equal(read(bits=bits).train.x, data.train.x) and "read as" not in capsys.readouterr().err
    needed = highest.bit_length()
    with pytest.raises(ConfigError, match=rf"bits={needed - 1}: values go up to {highest}, which takes {needed} bits"):
        read(bits=needed - 1)


def test_16_bit_greys_with_8_bit_values_equal_8_bit_greys():
    shades = [pixels(6, 5) for _ in range(4)]
    places = [f"{part}/{name}" for part in ("train", "test") for name in ("a", "b")]
    for folder_, image in zip(places, shades, strict=True):
        put(f"images/{folder_}/x.png", image)
    values, _ = read().train.batch(torch.arange(2))
    for folder_, image in zip(places, shades, strict=True):
        put(f"images/{folder_}/x.png", image.astype(np.uint16))
    assert torch.equal(read(bits=8).train.x, values)


def test_floats_in_unit_range_are_greys_and_others_are_refused():
    x = [RNG.random((4, 4), np.float32) for _ in range(4)]
    for i, folder_ in enumerate(("train/a", "train/b", "test/a", "test/b")):
        put(f"images/{folder_}/x.tif", x[i])
    assert read().train.x.shape == (2, 1, 4, 4) and np.array_equal(read().train.x[:, 0], x[:2])
    for bad, shown in ((255 * x[0], r"\[\d.*\]"), (x[0] - 2, r"\[-.*\]"), (x[0] * np.float32("nan"), r"\[nan, nan\]")):
        put("images/train/b/x.tif", bad)
        with pytest.raises(
            DataError, match=rf"train/b/x.tif holds floating-point values in {shown}, which must lie in"
        ):
            read()
    put("images/train/b/x.tif", np.full((4, 4), -5, np.int32))
    with pytest.raises(DataError, match=r"train/b/x.tif holds negative values, from -5; scale them, or save them as"):
        read()


def test_high_bit_depth_greys_are_resized():
    ramp = (np.arange(64, dtype=np.uint16) * 60).reshape(8, 8)
    for i, folder_ in enumerate(("train/a", "train/b", "test/a", "test/b")):
        put(f"images/{folder_}/x.png", ramp + np.uint16(i))
    x = read(size=4, bits=12).train.x
    assert x.shape == (2, 1, 4, 4) and x.min() >= 0 and x.max() <= 1
    expected = ramp.reshape(4, 2, 4, 2).mean((1, 3)) / 4095
    assert np.abs(x[0, 0].numpy() - expected)[1:3, 1:3].max() < 0.01


def test_dark_16_bit_colours_are_refused():
    images = [RNG.integers(0, 4096, (4, 4, 3)) for _ in range(4)]
    places = ("train/a", "train/b", "test/a", "test/b")
    for folder_, image in zip(places, images, strict=True):
        colour16(f"images/{folder_}/x.png", image)
    with pytest.raises(DataError, match=r"16 bits a channel, of which the upper 8 are read, hold values up to about 3"):
        read()
    assert read(bits=16).train.x.max() == 15
    for folder_, image in zip(places, images, strict=True):
        colour16(f"images/{folder_}/x.png", image * 16)
    assert np.array_equal(read().train.x[0], (images[0] * 16 >> 8).transpose(2, 0, 1))


def test_exif_rotation_is_applied():
    picture = Image.fromarray(
        np.repeat(np.array([[0, 255]], np.uint8), 16, 0).repeat(8, 1)
    )  # 16x16, bright on the right
    lying = Image.Exif()
    lying[0x0112] = 6  # rotated clockwise by 90 degrees
    for part in ("train", "test"):
        put(f"images/{part}/a/x.jpg", picture, exif=lying)
        put(f"images/{part}/b/x.jpg", picture)
    x = read().train.x[:, 0].float()
    assert x[0, :7].mean() < 10 and x[0, 9:].mean() > 245
    assert x[1, :, :7].mean() < 10 and x[1, :, 9:].mean() > 245
