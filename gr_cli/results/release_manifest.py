"""The manifest of a release: its files with their SHA-256, and what the claim of privacy says about them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt, Predicate

from gr_cli.config.arguments import dataclass_from_dict
from gr_cli.errors import FolderError, one_line
from gr_cli.results.not_covered import NOT_COVERED
from gr_cli.system.reading import open_regular, read_error_reason, read_json

MANIFEST, README, CONFIG, TABLE = "manifest.json", "README.md", "config.yaml", "privacy.csv"
NETWORKS = {"generator": "generator.pt", "solver": "solver.pt"}  # file of each network

_Number = Annotated[float, Gt(0)]
_PlainName = Annotated[str, Predicate(lambda name: name == Path(name).name)]


@dataclass(frozen=True)
class ReleasedFile:
    """A file of a release.

    Attributes:
        sha256: Its hash, as hexadecimal digits.
        content: What it holds.
    """

    sha256: str
    content: str


@dataclass(frozen=True)
class ReleasedTask:
    """A task of the stream.

    Attributes:
        classes: Names of its classes.
        first_unit: Output unit of the first; the others follow.
    """

    classes: tuple[str, ...]
    first_unit: int


@dataclass(frozen=True)
class Manifest:
    """Content of manifest.json.

    Attributes:
        version: Format of the release, 1.
        claim: What is claimed of the files, in a sentence.
        simulated: Whether noise follows from the run's seed.
        epsilon: ε of all files together.
        delta: δ of all files together.
        unit: What is protected: one training sample.
        across: Whether a sample may be in one task (`tasks`) or in all (`stream`).
        composition: How ε follows from single accesses.
        spec: Specification of a sample.
        tasks: Tasks in order, with names and output units of their classes.
        files: Files by name.
    """

    version: Literal[1]
    claim: str
    simulated: bool
    epsilon: _Number
    delta: _Number
    unit: str
    across: str
    composition: str
    spec: dict[str, Any]
    tasks: tuple[ReleasedTask, ...]
    files: Annotated[dict[_PlainName, ReleasedFile], Predicate(lambda files: CONFIG in files)]

    def as_dict(self) -> dict[str, Any]:
        """The manifest as plain values."""
        return asdict(self)


def sha256(content: bytes) -> str:
    """SHA-256 as hexadecimal digits, as `sha256sum` prints it."""
    return hashlib.sha256(content).hexdigest()


def read_release(path: Path) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest of the release in the folder `path`, and the content of its files, compared with their hashes.

    Raises:
        FolderError: There is no release, or one of its files is missing or was changed.
    """
    try:
        manifest = dataclass_from_dict(Manifest, read_json(path / MANIFEST))
    except (OSError, ValueError) as error:
        raise FolderError(
            f"{path / MANIFEST}: is not the manifest of a release ({read_error_reason(error)}); name a folder that "
            "gr-run release=<run> wrote"
        ) from error
    contents = {}
    for name, file in manifest.files.items():
        try:
            with open_regular(path / name) as opened:
                contents[name] = opened.read()
        except (OSError, ValueError) as error:
            raise FolderError(
                f"{path / name}: can't be read ({read_error_reason(error)}); release the run again into a new folder"
            ) from error
        if sha256(contents[name]) != file.sha256:
            raise FolderError(
                f"{path / name}: was damaged or changed since it was released; release the run again into a new folder"
            )
    return manifest, contents


def readme(manifest: Manifest, notes: Sequence[str]) -> str:
    """The README of a release, for readers of the folder.

    Args:
        manifest: Its manifest, without the README itself.
        notes: Paragraphs about this release.
    """
    rows = [f"| {name} | {file.content} | `{file.sha256}` |" for name, file in manifest.files.items()]
    lines = [
        "# Files released from a run of gr-run",
        "",
        f"**{manifest.claim}**",
        "",
        *_budget_lines(manifest),
        "",
        "| file | content | SHA-256 |",
        "| --- | --- | --- |",
        *rows,
        "",
        "The claim covers these files only. Not covered is everything else that the run wrote: "
        f"{', '.join(NOT_COVERED)}.",
        "",
        *(line for note in notes for line in (note, "")),
        "Python: `gr_cli.load_release(folder)` checks the hashes and loads the networks.",
        "",
    ]
    return "\n".join(lines)


def _budget_lines(manifest: Manifest) -> list[str]:
    where = "in one task" if manifest.across == "tasks" else "in every task"
    return [
        f"- ε = {manifest.epsilon:.6g} at δ = {manifest.delta:.6g}, for all files together ({manifest.composition}).",
        f"- Protected is one training {manifest.unit}, which may be {where}; neighbouring data sets differ by one that "
        "is added or removed.",
        "- Other runs on the same samples spend budgets of their own, which add up.",
    ]


def task_names(tasks: Sequence[Mapping[str, Any]]) -> tuple[ReleasedTask, ...]:
    """The tasks of a release from those in a checkpoint."""
    return tuple(
        ReleasedTask(tuple(one_line(name) for name in task["classes"]), int(task["first_unit"])) for task in tasks
    )
