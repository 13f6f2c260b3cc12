import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gr_cli import cli


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Small networks gain nothing from more, and tests shall not depend on the machine.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs in an empty folder, so that `outputs/` is its own, and what is kept for other runs, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GR_CACHE_ROOT", str(tmp_path / "cache"))


@pytest.fixture
def gr_run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call the command line in this process: exit code, stdout, stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        code = cli.main(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def mnist_root() -> str:
    root = os.environ.get("GR_DATA_ROOT", "")
    if not (Path(root) / "MNIST" / "raw").is_dir() or not root:
        pytest.skip("GR_DATA_ROOT names no folder that holds MNIST")
    return root
