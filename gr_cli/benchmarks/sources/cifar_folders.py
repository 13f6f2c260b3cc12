"""CIFAR-10 and CIFAR-100 as class folders: the published images as files, with CIFAR's own labels."""

from __future__ import annotations

from pathlib import Path

from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.benchmarks.sources.image_cache import DecodingSettings
from gr_cli.benchmarks.sources.image_folder import ImageFolderSettings, load_image_folder
from gr_cli.benchmarks.sources.image_listing import list_images
from gr_cli.benchmarks.sources.validation import join_names
from gr_cli.errors import DataError
from gr_cli.system.mapping import Storage

_CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
# Names of the classes in the order of their labels, which is that of the alphabet.
CLASS_NAMES = {
    "CIFAR10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "CIFAR100": tuple(_CIFAR100_NAMES.split()),
}
_DECODING = DecodingSettings((32, 32), "rgb", None)


def cifar_folder(root: Path, name: str) -> Path | None:
    """The folder below `root` in which class folders of the data set lie; None if there are none of this set."""
    return root / name.lower() if name in CLASS_NAMES else None


def load_cifar_folders(folder: Path, name: str, location: str, cache_root: Path, storage: Storage) -> Dataset:
    """The images in `folder`/train/<class>/ and `folder`/test/<class>/.

    They are those of torchvision's files, by class and file name instead of in the order of those files.

    Args:
        folder: Folder of the images.
        name: `CIFAR10` or `CIFAR100`.
        location: Start of messages.
        cache_root: Folder of the cache; the decoded images lie in `images/` below it.
        storage: Whether the images are read into memory or memory-mapped.

    Raises:
        DataError: There are other classes, no test images, or images that can't be decoded.
    """
    location = f"{location} in {folder.name}/"
    listing, expected = list_images(folder, location), CLASS_NAMES[name]
    if listing.num_train is None:
        raise DataError(f"{location} has no training and test images; put them into train/<class>/ and test/<class>/")
    missing = [label for label in expected if label not in listing.classes]
    unknown = [label for label in listing.classes if label not in expected]
    if missing or unknown:
        problems = [f"lacks {join_names(missing)}"] * bool(missing) + [f"has {join_names(unknown)}"] * bool(unknown)
        raise DataError(
            f"{location} {' and '.join(problems)}; its folders must have the names of the {len(expected)} classes, "
            "which determine the labels"
        )
    files = f"{folder.name}/{{train,test}}/<class>/"
    return load_image_folder(
        listing, ImageFolderSettings(_DECODING, cache_root / "images", storage, files=files), location
    )
