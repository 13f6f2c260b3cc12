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


def list_images(root: Path, location: str) -> ImageListing:
    """The images below `root`.

    Raises:
        DataError: There are no images in class folders, or too few of a class.
    """
    if not root.is_dir():
        raise DataError(f"{location}: {root} {'is a file' if root.exists() else 'is not there'}; name a folder")
    splits = _split_folders(root, location)
    by_split = {split: _subfolders_by_name(root / split, location) for split in splits}
    names = sorted({name for folders_by_name in by_split.values() for name in folders_by_name}, key=_natural_sort_key)
    files_by_split = {
        split: {
            name: sorted(_files_below(root, Path(split, folders_by_name[name]))) if name in folders_by_name else []
            for name in names
        }
        for split, folders_by_name in by_split.items()
    }
    images = {
        split: {name: list(filter(_is_image, folders_by_name[name])) for name in names}
        for split, folders_by_name in files_by_split.items()
    }
    classes = [name for name in names if any(folders_by_name[name] for folders_by_name in images.values())]
    if not classes:
        raise DataError(f"{location}: holds no images in folders of classes; put them into {root}/<class>/")
    _check_classes(images, classes, location, root)
    files, counts = [], []
    for split in splits:
        for label, name in enumerate(classes):
            files += [file._replace(label=label) for file in images[split][name]]
        counts.append(len(files))
    num_other_files = sum(
        len(folders_by_name) for folders in files_by_split.values() for folders_by_name in folders.values()
    ) - len(files)
    empty_folders = tuple(name for name in names if name not in classes)
    ignored_folders = tuple(f"{name}/" for name in sorted(_subfolders(root)) if len(splits) == 2 and name not in splits)
    return ImageListing(
        root,
        tuple(classes),
        tuple(files),
        counts[0] if len(splits) == 2 else None,
        num_other_files,
        empty_folders,
        ignored_folders,
    )


def _split_folders(root: Path, location: str) -> list[str]:
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
            f"{location}: holds {training}/ beside {others}, and none of these is called test or val; "
            f"rename the one that is for testing, or set benchmark.source.path={root / training}"
        )
    return [training] if testing is None else [training, testing]


def _contains_images(folder: Path) -> bool:
    """Whether a folder itself contains images, as a class folder does."""
    with os.scandir(folder) as entries:
        return any(_has_image_extension(entry.name) and not entry.name.startswith(".") for entry in entries)


def _check_classes(
    images: dict[str, dict[str, list[ImageFile]]], classes: Sequence[str], location: str, root: Path
) -> None:
    """Raise DataError for a single class, or a class with too few images, before decoding starts."""
    if len(classes) == 1:
        raise DataError(
            f"{location}: holds images of one class only, {classes[0]}, and there must be two; "
            f"if its folders are the classes, set benchmark.source.path={root / classes[0]}"
        )
    for split, files_by_class in images.items():
        for name in classes:
            required = 1 if len(images) == 2 else 2  # one each for training and testing
            if (number := len(files_by_class[name])) < required:
                location_note = f" in {split}/" if split else ""
                raise DataError(
                    f"{location}: class {name} has {number or 'no'} image{location_note}, and needs {required} at "
                    "least; add some, or remove its folders"
                )


def _subfolders(folder: Path) -> list[str]:
    return [entry.name for entry in os.scandir(folder) if os.path.isdir(entry.path) and not entry.name.startswith(".")]


def _subfolders_by_name(folder: Path, location: str) -> dict[str, str]:
    """Subfolders by their names in Unicode NFC.

    Raises:
        DataError: Two names are equal in NFC.
    """
    by_name: dict[str, str] = {}
    for name in sorted(_subfolders(folder)):
        normal = unicodedata.normalize("NFC", name)
        if normal in by_name:
            raise DataError(
                f"{location}: {folder} holds two folders called {normal}, which are stored in two Unicode normal "
                "forms; put their images into one"
            )
        by_name[normal] = name
    return by_name


def _natural_sort_key(name: str) -> list[str | int]:
    """Sort key by which `2` comes before `10`."""
    return [int(chunk) if i % 2 else chunk for i, chunk in enumerate(re.split(r"(\d+)", name))]


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
