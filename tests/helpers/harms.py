"""Replacements for a file of a run: pipes, sockets, endless or empty files, other contents."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Harm = Callable[[Path], object]

PROGRESS = {"tasks_learned": 1, "tasks": 2, "iteration": 1, "iterations": 3, "done": 1, "total": 6}


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def listening(path: Path) -> None:
    path.unlink()
    os.mknod(path, stat.S_IFSOCK | 0o600)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def text(content: str | bytes) -> Harm:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def says(**fields: Any) -> Harm:
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def configures(name: str, value: Any) -> Harm:
    def harm(path: Path) -> None:
        config = yaml.safe_load(path.read_text())
        *groups, last = name.split(".")
        node = config
        for group in groups:
            node = node[group]
        node[last] = value
        path.write_text(yaml.safe_dump(config))

    return harm
