"""All files of a folder as arrays of numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from gr_cli.evaluation.audit_formats import MAX_BYTES, ContentReader, NumberArray
from gr_cli.results.folder import AUDIT_FOLDER
from gr_cli.system.reading import open_regular

# Files with these suffixes but of no known format are reported as unread.
_KNOWN_SUFFIXES = {".pt", ".pth", ".npy", ".npz", ".pkl", ".zip", ".gz", ".xz", ".png", ".jpg", ".jpeg", ".gif"}


class FolderReader:
    """Reads all regular files below a folder, each up to a size limit, without following links.

    Attributes:
        unread: Reason for each location that could not be read; complete once `arrays` is exhausted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.unread: dict[str, str] = {}

    def arrays(self) -> Iterator[NumberArray]:
        """All numbers in all files."""
        for file in self._files():
            location = printable(str(file.relative_to(self._path)))
            reader = ContentReader()
            try:
                content = _read_bytes(file)
            except (OSError, ValueError) as error:
                self.unread[location] = str(getattr(error, "strerror", None) or error)
                continue
            yield from reader.read(location, content)
            if file.match(".*.tmp"):
                reader.unread[location] = "half-written; wait for the process that writes it, or remove it"
            elif file.suffix.lower() in _KNOWN_SUFFIXES and not reader.recognised:
                reader.unread.setdefault(location, f"is not the {file.suffix} file that its name implies")
            self.unread |= reader.unread

    def _files(self) -> Iterator[Path]:
        def record_error(error: OSError) -> None:
            name = os.path.relpath(error.filename, self._path)
            self.unread[printable(name)] = error.strerror or "can't be listed"

        root = self._path.resolve()
        for folder, folders, files in os.walk(self._path, onerror=record_error):
            folders.sort()
            audit = self._path / AUDIT_FOLDER
            if Path(folder) == self._path and audit.is_dir() and not audit.is_symlink():
                folders.remove(AUDIT_FOLDER)  # shadow runs, which may store samples of their own
            for name in sorted([*files, *(name for name in folders if (Path(folder) / name).is_symlink())]):
                path = Path(folder) / name
                if not path.is_symlink():
                    yield path
                elif not _resolve_link(path).is_relative_to(root):
                    self.unread[printable(str(path.relative_to(self._path)))] = "is a link out of the folder"


def _resolve_link(link: Path) -> Path:
    try:
        return link.resolve()
    except (OSError, RuntimeError):  # a circular link
        return link.parent.resolve()


def _read_bytes(path: Path) -> bytes:
    """The bytes of a regular file; FIFOs and devices are refused, so that reading never blocks."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise ValueError(f"is larger than {MAX_BYTES >> 20} MiB")
        return file.read(MAX_BYTES)


def printable(name: str) -> str:
    """A file name with unprintable characters replaced by `?`."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
