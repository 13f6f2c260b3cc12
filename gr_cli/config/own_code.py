"""Hashes of the source files of own modules that a configuration names, which are part of a run's identity."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from gr_cli.config.groups import RESULT_NEUTRAL_GROUPS
from gr_cli.config.instantiate import foreign_targets
from gr_cli.errors import ConfigError

CODE_HASHES = "code_hashes"  # entry of a configuration: hash by the name of a top-level module or package
_MAX_FILES, _MAX_BYTES = 1000, 16 << 20  # of a package
# Specification of the import of a module, and hash of its file, by name: as they were when they were first seen here.
_imported: dict[str, tuple[object, str]] = {}


def code_hashes(config: Mapping[str, Any]) -> dict[str, str]:
    """The hashes of the own modules and packages that a configuration names and that affect its result, by name.

    Raises:
        ConfigError: A file was edited after this process had imported it, or a package is too large.
    """
    relevant = {group: node for group, node in config.items() if group not in RESULT_NEUTRAL_GROUPS}
    targets_by_name: dict[str, list[str]] = {}
    for target in sorted(foreign_targets(relevant)):
        targets_by_name.setdefault(target.partition(".")[0], []).append(target)
    for name, targets in targets_by_name.items():
        _check_imported(name, targets)
    hashes = {name: own_code_hash(name) for name in sorted(targets_by_name)}
    return {name: code_hash for name, code_hash in hashes.items() if code_hash is not None}


def own_code_hash(name: str) -> str | None:
    """Hash of the source files of a top-level module or package; None unless it is one outside installed packages.

    Raises:
        ConfigError: It is a package of too many files.
    """
    files = sorted((str(path.relative_to(root)), path) for root in _own_locations(name) for path in _sources(root))
    if len(files) > _MAX_FILES or sum(path.stat().st_size for _, path in files) > _MAX_BYTES:
        limits = f"{_MAX_FILES} files or {_MAX_BYTES >> 20} MiB"
        raise ConfigError(
            "_target_", name, f"is a package of more than {limits}", "move what it names to a module of its own"
        )
    content = hashlib.blake2b(digest_size=4)
    for relative, path in files:
        source = path.read_bytes()
        content.update(f"{relative}\0{len(source)}\0".encode() + source)
    return content.hexdigest() if files else None


def describe_own_code(name: str) -> str:
    """The file of a top-level module, or the folder of a package; its name if there is none."""
    return next((str(path) for path in _own_locations(name)), name)


def _own_locations(name: str) -> list[Path]:
    """The file of a module or the folders of a package, unless it is installed. Nothing is imported."""
    if name == "gr_cli" or not name.isidentifier():
        return []
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a module without a file, such as `__main__`
        return []
    if spec is None:
        return []
    # A package without __init__.py has a location for each entry of sys.path, which may have an entry twice.
    entries = spec.submodule_search_locations or [spec.origin or ""]
    paths = list(dict.fromkeys(Path(entry).absolute() for entry in entries))
    return [path for path in paths if path.exists() and not any(map(path.is_relative_to, _installed()))]


def _sources(location: Path) -> Iterator[Path]:
    """The Python files of a module or package, one more than the limit at most."""
    if location.is_file():
        yield location
        return
    number = 0
    for folder, folders, names in os.walk(location):
        folders[:] = sorted(name for name in folders if name.isidentifier() and name != "__pycache__")
        for path in (Path(folder, name) for name in sorted(names) if name.endswith(".py")):
            number += 1
            yield path
            if number > _MAX_FILES:
                return


@cache
def _installed() -> tuple[Path, ...]:
    """Folders of the standard library and of installed packages."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(map(Path, sorted({*paths, *site.getsitepackages(), site.getusersitepackages()})))


def _check_imported(name: str, targets: Sequence[str]) -> None:
    """Check that the files of a top-level module or package are as they were when they were imported.

    After an edit, the edited modules and those of the targets, which may have imported from them, must be reloaded.

    Raises:
        ConfigError: One was not, and this process would train by the code before.
    """
    if not _own_locations(name):
        return
    current: dict[str, tuple[object, str]] = {}
    for module_name, module in sorted(sys.modules.items()):
        path = Path(getattr(module, "__file__", None) or "")
        if module_name.partition(".")[0] == name and path.is_file():
            current[module_name] = getattr(module, "__spec__", None), hashlib.blake2b(path.read_bytes()).hexdigest()
    known = [each for each in current if each in _imported]
    edited = [each for each in known if _imported[each][1] != current[each][1]]
    of_targets = {target.rpartition(".")[0] for target in targets}
    # Every import has a specification of its own, also that of importlib.reload.
    stale = [
        each
        for each in known
        if edited and (each in edited or each in of_targets) and _imported[each][0] is current[each][0]
    ]
    if stale:
        first = Path(str(sys.modules[edited[0]].__file__))
        remedy = f"reload {', then '.join(stale)} by importlib.reload, or start Python anew"
        raise ConfigError("_target_", targets[0], f"was imported before {first} was edited", remedy)
    _imported.update(current)
