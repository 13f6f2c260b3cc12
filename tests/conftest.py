import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gr_cli.cli.main import main
from helpers.interruption import StopAt, csvs, only_run, without_pictures


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Small networks gain nothing from more, and tests shall not depend on the machine.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """What starts the tests may have them ignore signals, and all that they start: Ctrl-C, the shell of a script that
    starts them in the background; the end of the terminal, nohup."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs in an empty folder, so that `outputs/` is its own, and what is kept for other runs, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GR_CACHE_ROOT", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run that shall stop still waits for comes in the end, however slow the machine; tests of what does not
    come say how long they wait."""
    for constant in ("runner.step_monitor.GRACE_SECONDS", "trackers.observer._PATIENCE"):
        monkeypatch.setattr(f"gr_cli.{constant}", 600.0)


@pytest.fixture
def gr_run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call the command line in this process: exit code, stdout, stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        code = main(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def interrupted(gr_run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Call the command line, and stop it, as by Ctrl-C, `at` an iteration of a stage: what it says to that."""

    def call(*words: str, at: tuple[int, int] = (1, 2)) -> str:
        with monkeypatch.context() as patch:
            patch.setattr("gr_cli.terminal.run_view.Terminal", lambda **_: StopAt(*at))
            code, _, err = gr_run(*words)
        assert code == 130, err
        return err

    return call


@pytest.fixture
def goes_on(
    gr_run: Callable[..., tuple[int, str, str]],
    interrupted: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Callable[..., None]:
    """Assert that a run that is interrupted and goes on leaves what it leaves undisturbed. In between, `forget`, as if
    another process went on."""

    def check(*words: str, at: tuple[int, int] = (1, 2), forget: Callable[[], None] = lambda: None) -> None:
        assert gr_run(*words)[0] == 0
        whole = csvs(only_run())
        (tmp_path / "broken").mkdir()
        monkeypatch.chdir(tmp_path / "broken")
        interrupted(*words, at=at)
        forget()
        assert gr_run(f"resume={only_run()}")[0] == 0
        assert csvs(only_run()) == whole

    return check


@pytest.fixture
def mnist_root() -> str:
    root = os.environ.get("GR_DATA_ROOT", "")
    if not (Path(root) / "MNIST" / "raw").is_dir() or not root:
        pytest.skip("GR_DATA_ROOT names no folder that holds MNIST")
    return root


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of the test draw nothing."""
    without_pictures(monkeypatch)
