"""The image files of an image folder, with their classes and splits."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gr_cli.benchmarks.sources.image_decoding import supported_extensions
from gr_cli.benchmarks.sources.validation import join_names
from gr_cli.errors import DataError
from gr_cli.system.file_stamps import ABSENT, FileStamp

_TRAIN_FOLDER_NAMES, _TEST_FOLDER_NAMES = ("train", "training"), ("test", "testing", "val", "valid", "validation")


class ImageFile(NamedTuple):
    """An image file.

    Attributes:
        name: Path below the root.
        label: Label of its class.
        stamp: Size, times and inode.
    """

    name: str
    label: int
    stamp: FileStamp


@dataclass(frozen=True)
class ImageListing:
    """The contents of an image folder.

    Attributes:
        root: The folder.
        classes: Names of the classes.
        files: Images, training before test.
        num_train: Number of training images; None: the folder has no split.
        num_other_files: Number of files that are not images, without hidden ones.
        empty_folders: Class folders without images.
        ignored_folders: Folders beside those of the splits.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[ImageFile, ...]
    num_train: int | None
    num_other_files: int
    empty_folders: tuple[str, ...]
    ignored_folders: tuple[str, ...]


def list_images(root: Path, place: str) -> ImageListing:
    """The images below `root`.

    Raises:
        DataError: There are no images in class folders, or too few of a class.
    """
    if not root.is_dir():
        raise DataError(f"{place}: {root} {'is a file' if root.exists() else 'is not there'}; name a folder")
    parts = _split_folders(root, place)
    by_part = {part: _subfolders_by_name(root / part, place) for part in parts}
    names = sorted({name for found in by_part.values() for name in found}, key=_natural_sort_key)
    inside = {
        part: {name: sorted(_files_below(root, Path(part, found[name]))) if name in found else [] for name in names}
        for part, found in by_part.items()
    }
    images = {part: {name: list(filter(_is_image, found[name])) for name in names} for part, found in inside.items()}
    classes = [name for name in names if any(found[name] for found in images.values())]
    if not classes:
        raise DataError(f"{place}: holds no images in folders of classes; put them into {root}/<class>/")
    _check_classes(images, classes, place, root)
    files, counts = [], []
    for part in parts:
        for label, name in enumerate(classes):
            files += [file._replace(label=label) for file in images[part][name]]
        counts.append(len(files))
    others = sum(len(found) for folders in inside.values() for found in folders.values()) - len(files)
    empty = tuple(name for name in names if name not in classes)
    aside = tuple(f"{name}/" for name in sorted(_subfolders(root)) if len(parts) == 2 and name not in parts)
    return ImageListing(
        root, tuple(classes), tuple(files), counts[0] if len(parts) == 2 else None, others, empty, aside
    )


def _split_folders(root: Path, place: str) -> list[str]:
    """Names of the training and test folder; of a training folder alone; or "" if the root holds the class folders.

    Raises:
        DataError: There is a training folder beside others, and none of these is a test folder.
    """
    folders = sorted(_subfolders(root))
    by_name = {name.lower(): name for name in folders}
    training = next((by_name[name] for name in _TRAIN_FOLDER_NAMES if name in by_name), None)
    testing = next((by_name[name] for name in _TEST_FOLDER_NAMES if name in by_name), None)
    if training is None or (testing is None and len(folders) > 1 and _contains_images(root / training)):
        return [""]  # a class may be named `train`
    if testing is None and len(folders) > 1:
        others = join_names([name for name in folders if name != training])
        raise DataError(
            f"{place}: holds {training}/ beside {others}, and none of these is called test or val; "
            f"rename the one that is for testing, or say benchmark.source.path={root / training}"
        )
    return [training] if testing is None else [training, testing]


def _contains_images(folder: Path) -> bool:
    """Whether a folder itself contains images, as a class folder does."""
    with os.scandir(folder) as entries:
        return any(_has_image_extension(entry.name) and not entry.name.startswith(".") for entry in entries)


def _check_classes(
    images: dict[str, dict[str, list[ImageFile]]], classes: Sequence[str], place: str, root: Path
) -> None:
    """Raise DataError for a single class, or a class with too few images, before decoding starts."""
    if len(classes) == 1:
        raise DataError(
            f"{place}: holds images of one class only, {classes[0]}, and there must be two; "
            f"if its folders are the classes, say benchmark.source.path={root / classes[0]}"
        )
    for part, found in images.items():
        for name in classes:
            least = 1 if len(images) == 2 else 2  # one each for training and testing
            if (number := len(found[name])) < least:
                where = f" in {part}/" if part else ""
                raise DataError(
                    f"{place}: class {name} has {number or 'no'} image{where}, and needs {least} at least; "
                    "add some, or remove its folders"
                )


def _subfolders(folder: Path) -> list[str]:
    return [entry.name for entry in os.scandir(folder) if os.path.isdir(entry.path) and not entry.name.startswith(".")]


def _subfolders_by_name(folder: Path, place: str) -> dict[str, str]:
    """Subfolders by their names in Unicode NFC.

    Raises:
        DataError: Two names are equal in NFC.
    """
    found: dict[str, str] = {}
    for name in sorted(_subfolders(folder)):
        normal = unicodedata.normalize("NFC", name)
        if normal in found:
            raise DataError(
                f"{place}: {folder} holds two folders called {normal}, which are stored in two Unicode normal forms; "
                "put their images into one"
            )
        found[normal] = name
    return found


def _natural_sort_key(name: str) -> list[str | int]:
    """Sort key by which `2` comes before `10`."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]


def _files_below(root: Path, folder: Path) -> Iterator[ImageFile]:
    """All files in a folder and its subfolders, without hidden ones."""
    for entry in os.scandir(root / folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(root, folder / entry.name)
            continue
        try:
            if entry.is_dir():  # a link to a folder
                continue
            stamp = FileStamp.from_stat(entry.stat())
        except OSError:  # a broken or circular link counts as an image that can't be decoded
            stamp = ABSENT
        yield ImageFile(f"{folder}/{entry.name}", 0, stamp)


def _is_image(file: ImageFile) -> bool:
    return _has_image_extension(file.name)


def _has_image_extension(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in supported_extensions()
