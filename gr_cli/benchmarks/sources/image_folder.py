"""Images in folders, one folder per class, decoded once and cached as one array."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import PIL
import torch
from annotated_types import Le, Len

from gr_cli.benchmarks.base import Samples
from gr_cli.benchmarks.sources.base import Dataset, TestShare
from gr_cli.benchmarks.sources.image_cache import DecodingSettings, Mode, broken_images_error, decoded_images
from gr_cli.benchmarks.sources.image_listing import ImageListing, list_images
from gr_cli.benchmarks.sources.load import train_test_split
from gr_cli.errors import ConfigError
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.system.array_files import ArrayFile
from gr_cli.system.cache import content_hash
from gr_cli.system.file_stamps import wait_for_next_tick
from gr_cli.system.mapping import Storage
from gr_cli.system.messages import print_status
from gr_cli.types import NonNegativeInt, PositiveInt

Bits = Annotated[PositiveInt, Le(32)]
Size = PositiveInt | Annotated[Sequence[PositiveInt], Len(2, 2)]

_VERSION = 5  # part of the cache key: increase it when the computation changes
_MAX_IN_MEMORY = 2  # data sets that the runs of a sweep share


@dataclass(frozen=True)
class ImageFolderSettings:
    """Settings of an image folder that determine its data set, and how it is stored.

    Attributes:
        decoding: Size, colour mode and bit depth.
        cache_folder: Folder of the decoded images.
        storage: Whether they are read into memory or memory-mapped.
        test_share: Share of each class that becomes the test set, where there is no test folder.
        test_seed: Seed of that test split.
        skip_broken: Leave out images that can't be decoded.
        remedy: What to do about them otherwise, with which the message ends.
        files: Layout of the files, for provenance, where a source reads several.
    """

    decoding: DecodingSettings
    cache_folder: Path
    storage: Storage
    test_share: float = 0.2
    test_seed: int = 0
    skip_broken: bool = False
    remedy: str = "repair or remove them"
    files: str = ""


class ImageFolder:
    """Images in folders: `train/<class>/` and `test/<class>/` (or `val/`), or one folder per class.

    Reads every format of Pillow. Classes are in natural order of their names (`2` before `10`). Images are resized by
    their shorter side and cropped at the centre. Decoded images are cached; the cache is renewed when a file's name,
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
        cache_root: Folder of the cache; the decoded images lie in `images/` below it.
        storage: Whether decoded images are read into memory or memory-mapped; `auto`: mapped if they take more than a
            quarter of the available memory.
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
        storage: Storage = "auto",
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
        decoding = DecodingSettings(height_width, mode, None if bits == "auto" else bits)
        remedy = "repair or remove them, or set benchmark.source.skip_broken=true"
        self._settings = ImageFolderSettings(
            decoding, cache_folder, storage, test_share, test_seed, skip_broken, remedy
        )
        self.cache_name = str((self.root, decoding, test_share, test_seed, skip_broken))

    def load(self) -> Dataset:
        data = load_image_folder(list_images(self.root, self.location), self._settings, self.location)
        decoding = self._settings.decoding
        chosen = {"size": decoding.size is None, "mode": decoding.mode == "auto", "bits": decoding.bits is None}
        return replace(data, format_follows_samples=tuple(name for name, is_chosen in chosen.items() if is_chosen))


# Data sets by the name of their cached array and the settings of their split; shared by the runs of a sweep.
_recent: OrderedDict[tuple[object, ...], Dataset] = OrderedDict()


def load_image_folder(listing: ImageListing, settings: ImageFolderSettings, location: str) -> Dataset:
    """The images of `listing`, decoded or from the cache.

    Args:
        listing: The image files.
        settings: Settings.
        location: Start of messages.

    Raises:
        DataError: Images can't be decoded.
    """
    settings_hash = content_hash(str(listing.root), settings.decoding)
    stamps = ((file.name, file.label, *file.stamp) for file in listing.files)
    name = f"{settings_hash}-{content_hash(_VERSION, PIL.__version__, *stamps)}"
    key = (name, settings, location)
    if key not in _recent:
        wait_for_next_tick(file.stamp for file in listing.files)
        path = settings.cache_folder / f"{name}.bin"
        images = decoded_images(listing, settings.decoding, path, settings.storage, location)
        _recent[key] = _split_images(listing, images, settings, location)
    _recent.move_to_end(key)
    while len(_recent) > _MAX_IN_MEMORY:
        _recent.popitem(last=False)
    return _recent[key]


def _split_images(listing: ImageListing, images: ArrayFile, settings: ImageFolderSettings, location: str) -> Dataset:
    x, broken, bits = images.values, images.facts["broken"], images.facts["bits"]
    if bits and settings.decoding.bits is None:
        print_status(
            f"{location}: grey values of more than 8 bits are read as {bits} bits, by the highest value; "
            f"benchmark.source.bits={bits} or another depth selects it"
        )
    if broken:
        first = listing.files[broken[0]].name
        if not settings.skip_broken:
            problem = images.facts["problem"]
            raise broken_images_error(location, len(broken), len(listing.files), first, problem, settings.remedy)
        print_status(
            f"{location}: images that can't be decoded are left out, {len(broken):,} in all, the first is {first}"
        )
    valid = torch.ones(len(listing.files), dtype=torch.bool)
    valid[broken] = False
    y = torch.tensor([file.label for file in listing.files])[valid]
    if listing.num_train is None:
        train, test = train_test_split(x, y, settings.test_share, settings.test_seed)
    else:
        num_train = int(valid[: listing.num_train].sum())
        rows = torch.arange(len(y)).tensor_split([num_train])
        train, test = (Samples(x, y[part], index=part) for part in rows)
    return Dataset(train, test, listing.classes, SampleSpec(tuple(x.shape[1:])), files=settings.files)
