"""Images in folders, one folder per class, decoded once and cached as one tensor."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import PIL
import torch
from annotated_types import Le, Len

from gr_cli.benchmarks.base import Samples
from gr_cli.benchmarks.sources.base import Dataset, TestShare
from gr_cli.benchmarks.sources.image_decoding import (
    DecodedImage,
    ValueType,
    check_truncation,
    decode_image,
    read_header,
    scale_to_unit_range,
)
from gr_cli.benchmarks.sources.image_listing import ImageListing, list_images
from gr_cli.benchmarks.sources.load import train_test_split
from gr_cli.benchmarks.sources.validation import join_names
from gr_cli.errors import ConfigError, DataError
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.system.cache import Tensors, cached, content_hash
from gr_cli.system.file_stamps import wait_for_next_tick
from gr_cli.system.memory import available_memory
from gr_cli.system.messages import print_status, with_progress
from gr_cli.types import NonNegativeInt, PositiveInt

Mode = Literal["auto", "grey", "rgb"]
Bits = Annotated[PositiveInt, Le(32)]
Size = PositiveInt | Annotated[Sequence[PositiveInt], Len(2, 2)]
T = TypeVar("T")

_VERSION = 4  # part of the cache key: increase it when the computation changes
_FILES_PER_CHUNK = 64  # files per task of a thread


@dataclass(frozen=True)
class _ImageFolderSettings:
    """Settings of an `ImageFolder` that determine its tensor and its splits."""

    size: tuple[int, int] | None
    mode: Mode
    test_share: float
    test_seed: int
    skip_broken: bool
    bits: int | None
    cache_folder: Path


class ImageFolder:
    """Images in folders: `train/<class>/` and `test/<class>/` (or `val/`), or one folder per class.

    Reads every format of Pillow. Classes are in natural order of their names (`2` before `10`). Images are resized by
    their shorter side and cropped at the centre. The decoded tensor is cached; the cache is renewed when a file's name,
    size, time or inode changes. Other files and folders without images are ignored, and so are links, except those to a
    class folder or an image.

    Args:
        path: Folder of the images; required.
        size: Height and width in pixels, or `[height, width]`; null: the most frequent size.
        mode: Colour mode; `auto`: grey if all images are. Transparent pixels are drawn on white; only the first frame
            of an animation is used.
        test_share: Share of each class that becomes the test set, where there is no test folder.
        test_seed: Seed of that test split, independent of the run's seed.
        skip_broken: Leave out images that can't be decoded, instead of an error.
        bits: Bit depth of grey images with more than 8 bits, divided by 2^bits - 1; `auto`: the smallest of 8, 10, 12,
            14, 16, 24 and 32 that holds the largest value of all images.
        cache_root: Folder of the cache; the tensor lies in `images/` below it.
    """

    def __init__(
        self,
        path: str | None = None,
        size: Size | None = None,
        mode: Mode = "auto",
        test_share: TestShare = 0.2,
        test_seed: NonNegativeInt = 0,
        skip_broken: bool = False,
        bits: Bits | Literal["auto"] = "auto",
        cache_root: str = "~/.cache/gr_cli",
    ) -> None:
        if path is None:
            raise ConfigError(
                "benchmark.source.path",
                None,
                "must be a folder that holds a folder of images for each class",
                "set benchmark.source.path=<folder>",
            )
        self.root = Path(path).expanduser().resolve()
        self.location, self.remedy = f"benchmark.source.path={path}", "make sure that each class has images there"
        height_width = None if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])
        cache_folder = Path(cache_root).expanduser() / "images"
        self._settings = _ImageFolderSettings(
            height_width, mode, test_share, test_seed, skip_broken, None if bits == "auto" else bits, cache_folder
        )
        self.cache_name = str((self.root, self._settings))

    def load(self) -> Dataset:
        return _load_dataset(list_images(self.root, self.location), self._settings, self.location)


@lru_cache(maxsize=2)  # shared by the runs of a sweep
def _load_dataset(listing: ImageListing, settings: _ImageFolderSettings, location: str) -> Dataset:
    settings_hash = content_hash(str(listing.root), settings.size, settings.mode, settings.skip_broken, settings.bits)
    files_hash = content_hash(
        _VERSION, PIL.__version__, [(file.name, file.label, *file.stamp) for file in listing.files]
    )
    wait_for_next_tick(file.stamp for file in listing.files)
    cached_tensors = cached(
        settings.cache_folder / f"{settings_hash}-{files_hash}.pt", lambda: _decode_all(listing, settings, location)
    )
    x, valid, bits = cached_tensors["x"], cached_tensors["valid"], int(cached_tensors["bits"])
    if bits and settings.bits is None:
        print_status(
            f"{location}: grey values of more than 8 bits are read as {bits} bits, by the highest value; "
            f"benchmark.source.bits={bits} or another depth selects it"
        )
    if not valid.all():
        broken = [file.name for file, is_valid in zip(listing.files, valid.tolist(), strict=True) if not is_valid]
        print_status(
            f"{location}: images that can't be decoded are left out, {len(broken):,} in all, the first is {broken[0]}"
        )
    y = torch.tensor([file.label for file in listing.files])[valid]
    if listing.num_train is None:
        train, test = train_test_split(x, y, settings.test_share, settings.test_seed)
    else:
        num_train = int(valid[: listing.num_train].sum())
        train, test = Samples(x[:num_train], y[:num_train]), Samples(x[num_train:], y[num_train:])
    return Dataset(train, test, listing.classes, SampleSpec(tuple(train.store.shape[1:])))


# --- decoding


def _decode_all(listing: ImageListing, settings: _ImageFolderSettings, location: str) -> Tensors:
    """All images that can be decoded as one tensor `x`, which files these are (`valid`), and the bit depth (`bits`).

    Raises:
        ConfigError: The images don't fit into memory.
        DataError: An image can't be decoded, and broken ones are not skipped.
    """
    print_status(
        f"{len(listing.files):,} images of {len(listing.classes)} classes in {listing.root} are decoded "
        f"and cached in {settings.cache_folder}{_ignored_note(listing)}"
    )
    paths = [str(listing.root / file.name) for file in listing.files]
    shape, high_bit_depth = _common_shape(paths, settings)
    num_bytes = len(paths) * prod(shape) * (4 if high_bit_depth else 1)
    if num_bytes > available_memory(torch.device("cpu")):
        raise ConfigError(
            "benchmark.source.size",
            settings.size if settings.size is None else list(settings.size),
            f"{len(paths):,} images of {shape[1]}x{shape[2]} pixels take {num_bytes / 2**30:,.1f} GiB, "
            "and there is less",
            "try benchmark.source.size=64",
        )
    x = np.empty((len(paths), *shape), np.float32 if high_bit_depth else np.uint8)

    def decode(i: int) -> DecodedImage | str:
        try:
            pixels = decode_image(paths[i], shape)
            x[i] = pixels.values
            return pixels._replace(values=_EMPTY)
        except Exception as error:  # each decoder raises its own types
            return " ".join(str(error).replace(repr(paths[i]), "it").split())[:120] or type(error).__name__

    results = _map_in_threads(decode, range(len(paths)), "images decoded")
    problems = [result if isinstance(result, str) else "" for result in results]
    broken = [i for i, problem in enumerate(problems) if problem]
    if broken and not settings.skip_broken:
        first = broken[0]
        raise DataError(
            f"{location}: {len(broken):,} of {len(paths):,} images can't be decoded, the first is "
            f"{listing.files[first].name} ({problems[first]}); repair or remove them, or set "
            "benchmark.source.skip_broken=true"
        )
    valid = torch.tensor([not problem for problem in problems])
    x = x if not broken else x[valid.numpy()]
    decoded_images = [result for result in results if not isinstance(result, str)]
    names = [file.name for file, problem in zip(listing.files, problems, strict=True) if not problem]
    check_truncation(decoded_images, settings.bits, location)
    bits = scale_to_unit_range(x, decoded_images, names, settings.bits, location) if high_bit_depth else 0
    return {"x": torch.from_numpy(x), "valid": valid, "bits": torch.tensor(bits)}


def _ignored_note(listing: ImageListing) -> str:
    """The files and folders that are ignored, as the end of a status line; empty if there are none."""
    ignored = []
    if listing.num_other_files:
        ignored.append(f"{listing.num_other_files:,} other file{'s' if listing.num_other_files > 1 else ''}")
    if listing.empty_folders:
        ignored.append(f"folders without images ({join_names(listing.empty_folders)})")
    if listing.ignored_folders:
        ignored.append(f"folders of neither split ({join_names(listing.ignored_folders)})")
    return f"; ignored: {', '.join(ignored)}" if ignored else ""


_EMPTY = np.empty(0)


def _map_in_threads(function: Callable[[Any], T], items: Sequence[Any], label: str) -> list[T]:
    """`function` of each item, in threads; decoders release the interpreter lock."""
    chunks = [items[start : start + _FILES_PER_CHUNK] for start in range(0, len(items), _FILES_PER_CHUNK)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda chunk: [function(item) for item in chunk], chunks)
        return list(with_progress((result for chunk in results for result in chunk), len(items), label))


def _common_shape(paths: Sequence[str], settings: _ImageFolderSettings) -> tuple[tuple[int, int, int], bool]:
    """The shape (C, H, W) that all images get, and whether any has more than 8 bits per grey value."""
    headers = [header for header in _map_in_threads(read_header, paths, "image headers read") if header is not None]
    grey = settings.mode == "grey" or (settings.mode == "auto" and all(header.grey for header in headers))
    size = settings.size or (Counter(header.size for header in headers).most_common(1)[0][0] if headers else (1, 1))
    return (1 if grey else 3, *size), any(
        header.value_type in (ValueType.INTEGERS, ValueType.FLOATS) for header in headers
    )
