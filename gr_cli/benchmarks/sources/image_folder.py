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

_VERSION = 3  # part of the cache key: increase it when the computation changes
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
    """Images in folders: `train/<class>/` and `test/<class>/` (or `val/`), or one folder per class and a split.

    Reads every format of Pillow. Classes are in natural order of their names (`2` before `10`). Images are resized by
    their shorter side and cropped at the centre. The decoded tensor is cached; the cache is renewed when a file's name,
    size, time or inode changes. Other files and folders without images are ignored, and so are links, except those to a
    class folder or an image.

    Args:
        path: The folder.
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
                "say benchmark.source.path=<folder>",
            )
        self.root = Path(path).expanduser().resolve()
        self.location, self.remedy = f"benchmark.source.path={path}", "make sure that each class has images there"
        both = None if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])
        kept_in = Path(cache_root).expanduser() / "images"
        self._settings = _ImageFolderSettings(
            both, mode, test_share, test_seed, skip_broken, None if bits == "auto" else bits, kept_in
        )
        self.cache_name = str((self.root, self._settings))

    def load(self) -> Dataset:
        return _load_dataset(list_images(self.root, self.location), self._settings, self.location)


@lru_cache(maxsize=2)  # shared by the runs of a sweep
def _load_dataset(listing: ImageListing, choices: _ImageFolderSettings, place: str) -> Dataset:
    what = content_hash(str(listing.root), choices.size, choices.mode, choices.skip_broken, choices.bits)
    content = content_hash(_VERSION, PIL.__version__, [(file.name, file.label, *file.stamp) for file in listing.files])
    wait_for_next_tick(file.stamp for file in listing.files)
    found = cached(choices.cache_folder / f"{what}-{content}.pt", lambda: _decode_all(listing, choices, place))
    x, sound, bits = found["x"], found["sound"], int(found["bits"])
    if bits and choices.bits is None:
        print_status(
            f"{place}: greys of more than 8 bits are taken as {bits} bits, by their highest value; "
            f"benchmark.source.bits={bits} or another depth selects it"
        )
    if not sound.all():
        broken = [file.name for file, whole in zip(listing.files, sound.tolist(), strict=True) if not whole]
        print_status(
            f"{place}: images that can't be decoded are left out, {len(broken):,} in all, the first is {broken[0]}"
        )
    y = torch.tensor([file.label for file in listing.files])[sound]
    if listing.num_train is None:
        train, test = train_test_split(x, y, choices.test_share, choices.test_seed)
    else:
        training = int(sound[: listing.num_train].sum())
        train, test = Samples(x[:training], y[:training]), Samples(x[training:], y[training:])
    return Dataset(train, test, listing.classes, SampleSpec(tuple(train.store.shape[1:])))


# --- what there is


# --- decoding


def _decode_all(listing: ImageListing, choices: _ImageFolderSettings, place: str) -> Tensors:
    """All images that can be decoded as one tensor `x`, which files these are (`valid`), and the bit depth (`bits`).

    Raises:
        ConfigError: The images don't fit into memory.
        DataError: An image can't be decoded, and broken ones are not skipped.
    """
    over = (
        [f"{listing.num_other_files:,} other file{'s' if listing.num_other_files > 1 else ''}"]
        if listing.num_other_files
        else []
    )
    over += [f"folders without images ({join_names(listing.empty_folders)})"] if listing.empty_folders else []
    over += [f"folders of neither split ({join_names(listing.ignored_folders)})"] if listing.ignored_folders else []
    passed = f"; ignored: {', '.join(over)}" if over else ""
    print_status(
        f"{len(listing.files):,} images of {len(listing.classes)} classes in {listing.root} are decoded, "
        f"and kept in {choices.cache_folder}{passed}"
    )
    paths = [str(listing.root / file.name) for file in listing.files]
    shape, deep = _common_shape(paths, choices)
    needed = len(paths) * prod(shape) * (4 if deep else 1)
    if needed > available_memory(torch.device("cpu")):
        raise ConfigError(
            "benchmark.source.size",
            choices.size if choices.size is None else list(choices.size),
            f"{len(paths):,} images of {shape[1]}x{shape[2]} pixels take {needed / 2**30:,.1f} GiB, and there is less",
            "try benchmark.source.size=64",
        )
    x = np.empty((len(paths), *shape), np.float32 if deep else np.uint8)

    def decode(i: int) -> DecodedImage | str:
        try:
            pixels = decode_image(paths[i], shape)
            x[i] = pixels.values
            return pixels._replace(values=_EMPTY)
        except Exception as error:  # each decoder raises its own types
            return " ".join(str(error).replace(repr(paths[i]), "it").split())[:120] or type(error).__name__

    found = _map_in_threads(decode, range(len(paths)), "images decoded")
    faults = [one if isinstance(one, str) else "" for one in found]
    broken = [i for i, fault in enumerate(faults) if fault]
    if broken and not choices.skip_broken:
        first = broken[0]
        raise DataError(
            f"{place}: {len(broken):,} of {len(paths):,} images can't be decoded, the first is "
            f"{listing.files[first].name} ({faults[first]}); repair or remove them, or say "
            "benchmark.source.skip_broken=true"
        )
    sound = torch.tensor([not fault for fault in faults])
    x = x if not broken else x[sound.numpy()]
    seen = [one for one in found if not isinstance(one, str)]
    names = [file.name for file, fault in zip(listing.files, faults, strict=True) if not fault]
    check_truncation(seen, choices.bits, place)
    bits = scale_to_unit_range(x, seen, names, choices.bits, place) if deep else 0
    return {"x": torch.from_numpy(x), "sound": sound, "bits": torch.tensor(bits)}


_EMPTY = np.empty(0)


def _map_in_threads(do: Callable[[Any], T], items: Sequence[Any], what: str) -> list[T]:
    """`function` of each item, in threads; decoders release the interpreter lock."""
    pieces = [items[start : start + _FILES_PER_CHUNK] for start in range(0, len(items), _FILES_PER_CHUNK)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(lambda piece: [do(item) for item in piece], pieces)
        return list(with_progress((found for piece in done for found in piece), len(items), what))


def _common_shape(paths: Sequence[str], choices: _ImageFolderSettings) -> tuple[tuple[int, int, int], bool]:
    """The shape (C, H, W) that all images get, and whether any has more than 8 bits per grey value."""
    seen = [found for found in _map_in_threads(read_header, paths, "images looked at") if found is not None]
    grey = choices.mode == "grey" or (choices.mode == "auto" and all(found.grey for found in seen))
    size = choices.size or (Counter(found.size for found in seen).most_common(1)[0][0] if seen else (1, 1))
    return (1 if grey else 3, *size), any(found.value_type in (ValueType.INTEGERS, ValueType.FLOATS) for found in seen)
