"""Release what the claim of privacy of a finished run covers: networks, configuration and privacy.csv."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from gr_cli.config.settings import Settings
from gr_cli.errors import FolderError
from gr_cli.results.availability import check_outside_runs
from gr_cli.results.folder import RunFolder
from gr_cli.results.not_covered import NOT_COVERED
from gr_cli.results.release_manifest import (
    CONFIG,
    MANIFEST,
    NETWORKS,
    README,
    TABLE,
    Manifest,
    ReleasedFile,
    readme,
    sha256,
    task_names,
)
from gr_cli.results.stored_config import check_code, stored_settings
from gr_cli.runner.claim import Claim, check_claim
from gr_cli.runner.load import load_state
from gr_cli.runner.released_networks import released_networks
from gr_cli.system.files import folder_error, json_text, make_folder, write_bytes
from gr_cli.system.reading import read_bytes

# The settings that describe the released networks and the claim. Left out are the seed, what only its owner should
# know of a run (paths, the draw of members), and what does not concern the networks.
_RELEASED_SETTINGS = (
    "scenario",
    "train",
    "augment",
    "normalise",
    "precision",
    "privacy",
    "model",
    "generator",
    "strategy",
    "optimizer",
    "gradient_rule",
)
_CONTENT = {
    "generator": "weights or statistics of the generator",
    "solver": "weights of the solver",
}


@dataclass(frozen=True)
class Released:
    """Outcome of a release.

    Attributes:
        folder: The new folder.
        manifest: Its manifest.
    """

    folder: Path
    manifest: Manifest

    @property
    def lines(self) -> list[str]:
        """Lines for a reader."""
        manifest = self.manifest
        return [
            f"released: {self.folder}",
            manifest.claim,
            *(f"  {name:<14}{file.content}" for name, file in manifest.files.items()),
            f"not covered: {', '.join(NOT_COVERED)}",
        ]


def release(
    path: Path, to: Path | None = None, trust: Collection[str] = (), settings: Settings | None = None
) -> Released:
    """Write what the claim of a run covers to a new folder, whole or not at all.

    Args:
        path: Folder of the run.
        to: The new folder; None: `<options>-<hash>-release` beside that of the run, a name without the seed.
        trust: Dotted names of code that the run's settings may import.
        settings: Settings of the run; None: those in the folder.

    Raises:
        ConfigError: The run claims no privacy.
        FolderError: It is not finished, its claim is void, or the new folder exists.
    """
    settings, folder = settings or stored_settings(path, trust), RunFolder(path)
    check_code(path, settings)
    claim = check_claim(settings, folder)
    target = (default_folder(settings, path) if to is None else to).absolute()
    saved = load_state(settings, folder)
    with _new_folder(target) as temporary:
        contents = {
            NETWORKS[name]: (_tensor_file({"claim": claim.text, "states": states}), _CONTENT[name])
            for name, states in released_networks(settings, saved, claim).items()
        }
        contents[CONFIG] = _config_text(settings, claim).encode(), "settings without the seed"
        contents[TABLE] = read_bytes(path / TABLE), "ε and δ by class and task, and in all"
        manifest = _manifest(claim, saved, {n: ReleasedFile(sha256(c), text) for n, (c, text) in contents.items()})
        text = readme(manifest, _notes(settings, claim)).encode()
        files = {**manifest.files, README: ReleasedFile(sha256(text), "this description")}
        manifest = replace(manifest, files=files)
        for name, (content, _) in contents.items():
            write_bytes(temporary / name, content)
        write_bytes(temporary / README, text)
        write_bytes(temporary / MANIFEST, json_text(manifest.as_dict()).encode())
    return Released(target, manifest)


def default_folder(settings: Settings, path: Path) -> Path:
    """The folder of a release if no other is named: beside that of the run, and without the seed, which gives seeded
    noise away.
    """
    name = path.resolve().name.replace(f"seed{settings.seed}-", "")
    return path.resolve().with_name(f"{name}-release")


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` at the end of the block, unless an exception leaves it.

    Raises:
        FolderError: `target` exists, lies in a run's folder, or can't be created.
    """
    check_outside_runs(target)
    if os.path.lexists(target):
        raise FolderError(f"{target}: exists, and a release overwrites nothing; name a new folder by to=<folder>")
    make_folder(target.parent)
    prefix = f".{target.name}.release."
    for leftover in target.parent.glob(f"{prefix}*.tmp"):  # of a killed process
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = target.with_name(f"{prefix}{os.getpid()}.tmp")
    try:
        try:
            temporary.mkdir()
        except OSError as error:
            raise folder_error(target, error) from error
        yield temporary
        try:
            temporary.rename(target)
        except OSError as error:
            raise folder_error(target, error) from error
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary)


def _tensor_file(values: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(dict(values), file)
    return file.getvalue()


def _config_text(settings: Settings, claim: Claim) -> str:
    config = {name: _without_seeds(settings.config[name]) for name in _RELEASED_SETTINGS}
    choices = {group: choice for group, choice in settings.choices.items() if group != "tracker"}
    text = yaml.safe_dump({**config, "choices": choices}, sort_keys=False, allow_unicode=True)
    return f"# {claim.text}\n{text}"


def _without_seeds(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: _without_seeds(entry) for name, entry in value.items() if "seed" not in name}


def _manifest(claim: Claim, saved: Mapping[str, Any], files: dict[str, ReleasedFile]) -> Manifest:
    privacy, spent = claim.privacy, claim.spent
    return Manifest(
        version=1,
        claim=claim.text,
        simulated=not privacy.secure,
        epsilon=spent.epsilon,
        delta=spent.delta,
        unit=privacy.unit,
        across=privacy.across,
        composition=spent.composition,
        spec=saved["spec"],
        tasks=task_names(saved["tasks"]),
        files=files,
    )


def _notes(settings: Settings, claim: Claim) -> list[str]:
    """Paragraphs of the README about this release."""
    order = settings.config["benchmark"].get("class_order", "fixed")
    if order != "shuffled":
        return ["The names and the order of the classes are public settings, and not derived from samples or seed."]
    note = "The names of the classes are public; their order was drawn by the seed, and is in the networks' outputs."
    narrows = " It narrows the seed down; benchmark.class_order=fixed does not."
    return [note if claim.privacy.secure else note + narrows]
