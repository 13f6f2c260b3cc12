"""What the command lines of `gr-report` and `gr-audit` have in common: one-line errors, and the format of a table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from gr_cli.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ConfigErrors, and which accepts no abbreviations.

    Args:
        program: Name of the command.
        **options: Further arguments of `argparse.ArgumentParser`.
    """

    def __init__(self, program: str, **options: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(program, formatter_class=formatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise a ConfigError for wrong arguments."""
        raise ConfigError("arguments", " ".join(sys.argv[1:]), message, f"see {self.prog} --help")


def output_format(chosen: str | None, output: str | None, suffixes: Mapping[str, str]) -> str:
    """The format of a table: as chosen, or by the ending of the file, or for a terminal or not.

    Args:
        chosen: Value of `--format`.
        output: Value of `--output`; None: standard output.
        suffixes: Endings of files by format.

    Raises:
        ConfigError: The file has another ending.
    """
    if output is None:
        return chosen or ("table" if sys.stdout.isatty() else "markdown")
    by_suffix = {suffix: name for name, suffix in suffixes.items()}
    table_format = chosen or by_suffix.get(Path(output).suffix, "")
    if table_format not in suffixes:
        raise ConfigError("--output", output, f"must end in {', '.join(by_suffix)}", "or name its format by --format")
    return table_format
