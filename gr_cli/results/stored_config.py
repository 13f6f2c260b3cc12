"""A run folder, read back."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gr_cli.config.arguments import matches
from gr_cli.config.instantiate import foreign_targets
from gr_cli.config.settings import Settings
from gr_cli.errors import ConfigError, FolderError
from gr_cli.results.folder import RunFolder
from gr_cli.system.reading import read_error_reason, read_yaml


def stored_settings(path: Path, trust: Collection[str] = ()) -> Settings:
    """The settings of the run in `path`, from its config.yaml and status.json.

    A folder may come from anywhere, so it can't make this program import code: components other than those of this
    program must be among `trust`, by their dotted names or by that of a package that holds them.

    Raises:
        FolderError: there is no run, or it names code that is not trusted.
    """
    with _as_folder_error(path):
        config, choices = read_config(path)
        check_trust(path, foreign_targets(config), trust)
        return Settings.validated(config, choices, (RunFolder(path).status() or {}).get("overrides", []))


def check_config(path: Path) -> None:
    """Refuse a folder whose config.yaml can't be read as one.

    Raises:
        FolderError: says why.
    """
    with _as_folder_error(path):
        read_config(path)


@contextmanager
def _as_folder_error(path: Path) -> Iterator[None]:
    """Make a FolderError of what reading the configuration of the run in `path` raises."""
    try:
        yield
    except OSError as error:
        raise FolderError(f"{path}: holds no run (config.yaml: {error.strerror}); name the folder of one") from error
    except ConfigError as error:
        raise FolderError(f"{path / 'config.yaml'}: {error}") from error
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        if (RunFolder(path).status() or {}).get("mode") == "python":
            raise FolderError(
                f"{path}: is of a ContinualTrainer, whose model only the program that made it can build; "
                "its weights are in checkpoint.pt"
            ) from error
        raise FolderError(
            f"{path / 'config.yaml'}: is not the configuration of a run of gr-run ({read_error_reason(error)}); "
            "name the folder of one"
        ) from error


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What config.yaml in `path` says, and its choices, unchecked. Reading makes nothing of what it names.

    Raises:
        OSError, ValueError: it can't be read, or is no configuration.
    """
    config = read_yaml(path / "config.yaml")
    choices: dict[str, str] = config.pop("choices", None)
    if not matches(choices, dict[str, str]):
        raise ValueError("config.yaml has no `choices`, which name an option of each group")
    return config, choices


def check_trust(path: Path, targets: Collection[str], trust: Collection[str]) -> None:
    """Refuse code that the folder at `path` names and `trust` does not.

    Raises:
        FolderError: says how to agree.
    """
    unknown = [name for name in targets if not any(name == known or name.startswith(f"{known}.") for known in trust)]
    if unknown:
        raise FolderError(
            f"{path / 'config.yaml'}: names code that is not of this program: {', '.join(unknown)}; "
            f"if it is yours, say trust={','.join(dict.fromkeys(unknown))}"
        )


def check_unchanged(path: Path) -> None:
    """Refuse a config.yaml that is not the one that the run in `path` wrote, if status.json is there to tell.

    Raises:
        FolderError: it was damaged or changed.
    """
    folder = RunFolder(path)
    if (status := folder.status()) is not None:
        with _as_folder_error(path):
            folder.check_file("config.yaml", status)
