"""Read the settings of a run back from its folder, without importing code that the folder names."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gr_cli.config.arguments import matches
from gr_cli.config.instantiate import foreign_targets
from gr_cli.config.own_code import CODE_HASHES, describe_own_code, own_code_hash
from gr_cli.config.settings import Settings
from gr_cli.errors import ConfigError, FolderError
from gr_cli.results.folder import RunFolder
from gr_cli.system.reading import read_error_reason, read_yaml


def stored_settings(path: Path, trust: Collection[str] = ()) -> Settings:
    """The settings of a run, from its config.yaml and status.json.

    Args:
        path: Folder of the run. It may be from anywhere, and must not make this program import arbitrary code.
        trust: Dotted names of components, or of packages that contain them, that may be imported although they are not
            part of this program.

    Raises:
        FolderError: There is no run, its settings are invalid, or it names code that is not trusted.
    """
    with _as_folder_error(path):
        config, choices = read_config(path)
        check_trust(path, foreign_targets(config), trust)
        return Settings.validated(config, choices, (RunFolder(path).status() or {}).get("overrides", []))


def stored_choices(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The configuration in the folder `path` and the option chosen in each config group. Values are not validated.

    Raises:
        FolderError: config.yaml is missing, or is not the configuration of a run.
    """
    with _as_folder_error(path):
        return read_config(path)


@contextmanager
def _as_folder_error(path: Path) -> Iterator[None]:
    """Turn errors of reading the configuration of the run in `path` into a FolderError."""
    try:
        yield
    except OSError as error:
        raise FolderError(
            f"{path}: is not the folder of a run (config.yaml: {error.strerror}); name the folder of a run"
        ) from error
    except ConfigError as error:
        raise FolderError(f"{path / 'config.yaml'}: {error}") from error
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        if (RunFolder(path).status() or {}).get("mode") == "python":
            raise FolderError(
                f"{path}: is the folder of a ContinualTrainer; only the script that built its model can build it "
                "again, and load the weights in checkpoint.pt"
            ) from error
        raise FolderError(
            f"{path / 'config.yaml'}: is not the configuration of a run of gr-run ({read_error_reason(error)}); "
            "name the folder of a run"
        ) from error


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The configuration in config.yaml and the option chosen in each config group. Values are not validated.

    Raises:
        OSError, ValueError: It can't be read, or is not the configuration of a run.
    """
    config = read_yaml(path / "config.yaml")
    choices: dict[str, str] = config.pop("choices", None)
    if not matches(choices, dict[str, str]):
        raise ValueError("config.yaml has no `choices` with an option of each config group")
    if not matches(config.get(CODE_HASHES, {}), dict[str, str]):
        raise ValueError(f"{CODE_HASHES} in config.yaml is no hash by name")
    return config, choices


def check_code(path: Path, settings: Settings) -> None:
    """Check that the own modules that a run names are as they were when it was started.

    Raises:
        FolderError: One was edited.
    """
    if edited := edited_code(settings.config):
        raise FolderError(
            f"{path}: {edited} was edited since the run was started; restore it, or start a new run by the same command"
        )


def edited_code(config: Mapping[str, Any]) -> str | None:
    """The own module or package that was edited since the run of a configuration was started; None if there is none."""
    hashes = config.get(CODE_HASHES, {})
    return next((describe_own_code(name) for name, value in hashes.items() if own_code_hash(name) != value), None)


def check_trust(path: Path, targets: Collection[str], trust: Collection[str]) -> None:
    """Check that a run names no code outside this program that is not trusted.

    Args:
        path: Folder of the run, for the message.
        targets: Dotted names of code outside this program that the run names.
        trust: Dotted names that are trusted, or of packages that contain them.

    Raises:
        FolderError: There is such code; the message says how to trust it.
    """
    untrusted = [
        name for name in targets if not any(name == trusted or name.startswith(f"{trusted}.") for trusted in trust)
    ]
    if untrusted:
        raise FolderError(
            f"{path / 'config.yaml'}: names code that is not part of this program: {', '.join(untrusted)}; "
            f"if you trust it, add trust={','.join(dict.fromkeys(untrusted))}"
        )


def check_unchanged(path: Path) -> None:
    """Check config.yaml in `path` against its checksum, if there is a status.json.

    Raises:
        FolderError: It was damaged or changed.
    """
    folder = RunFolder(path)
    if (status := folder.status()) is not None:
        with _as_folder_error(path):
            folder.check_file("config.yaml", status)
