"""Folders of runs that a worker without the command's file system trains in a copy, which is brought back.

The copy of a run is made before it is trained, so that it resumes from its checkpoint. While it is trained, the files
that have changed are brought back at every heartbeat, and all of them at its end: after the loss of the worker the run
resumes, on whatever node, from the last checkpoint that was brought back.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from gr_cli.results.folder import HEARTBEAT_SECONDS, NEXT, RunFolder
from gr_cli.system.files import make_folder, remove_file, write_bytes
from gr_cli.system.locks import LOCK_FILE
from gr_cli.system.reading import read_bytes

STATUS = "status.json"
Files = Mapping[str, bytes]
"""Content of files by their path inside the folder of a run."""
_Stamps = dict[str, tuple[int, int, int]]


class Store(Protocol):
    """Where the folders of runs are kept."""

    def fetch(self, folder: Path) -> Files:
        """The files of a run; none if it has not begun."""

    def store(self, folder: Path, files: Files, names: Collection[str] | None) -> None:
        """Write files of a run.

        Args:
            folder: Its folder.
            files: The files to write.
            names: Names of all files of the run; others are removed. None: nothing is removed.
        """


class FolderStore:
    """Keeps the folders of runs below the current directory.

    Args:
        directory: The directory that the status of a run shall name, in which its command was started; None: as it is.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory

    def fetch(self, folder: Path) -> Files:
        return {name: read_bytes(folder / name) for name in _stamps(folder)}

    def store(self, folder: Path, files: Files, names: Collection[str] | None) -> None:
        # The status last: it describes the other files.
        for name in sorted(files, key=lambda name: name == STATUS):
            path = _inside(folder, name)
            make_folder(path.parent)
            write_bytes(path, files[name])
        if STATUS in files and self._directory is not None:
            RunFolder(folder).write_status(json.loads(files[STATUS]) | {"directory": str(self._directory)})
        if names is not None:
            for name in _stamps(folder).keys() - set(names):
                remove_file(folder / name)


def _inside(folder: Path, name: str) -> Path:
    """The path of a file inside a folder.

    Raises:
        ValueError: It leads out of the folder.
    """
    relative = Path(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(f"{name}: leads out of the folder of the run")
    return folder / relative


@contextmanager
def working_copies(store: Store, folders: Sequence[Path], seconds: float = HEARTBEAT_SECONDS) -> Iterator[None]:
    """Copy the folders of runs here from a store, and bring their files back during the block and at its end.

    Args:
        store: Where they are kept.
        folders: The folders, relative to the current directory, here and there.
        seconds: Between two times at which changed files are brought back.
    """
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        FolderStore().store(folder, store.fetch(folder), None)
    sent = {folder: _stamps(folder) for folder in folders}
    stopped = threading.Event()

    def send(final: bool) -> None:
        for folder in folders:
            stamps = _stamps(folder)
            changed = {name: read_bytes(folder / name) for name in stamps if stamps[name] != sent[folder].get(name)}
            if changed or final:
                store.store(folder, changed, stamps if final else None)
            sent[folder] = stamps

    def send_changes() -> None:
        while not stopped.wait(seconds):
            with suppress(Exception):  # such as a file that was replaced meanwhile; the last time raises it
                send(final=False)

    thread = threading.Thread(target=send_changes, name="bring-back", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        send(final=True)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def _stamps(folder: Path) -> _Stamps:
    """Identity, size and time of each file of a run, by name; temporary files and links are left out."""
    stamps: _Stamps = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            # A checkpoint that is not committed yet would be taken for the newest one later.
            if name in (LOCK_FILE, NEXT) or (name.startswith(".") and name.endswith(".tmp")) or path.is_symlink():
                continue
            with suppress(FileNotFoundError):
                info = path.stat()
                stamps[path.relative_to(folder).as_posix()] = (info.st_ino, info.st_size, info.st_mtime_ns)
    return dict(sorted(stamps.items()))
