import copy
import gc
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from itertools import compress
from operator import not_
from pathlib import Path

import pytest
import torch
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.defaults_list import DefaultsList, create_defaults_list
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from gr_cli.audit.cli import main as audit
from gr_cli.cli.main import main
from gr_cli.report.cli import main as report
from gr_cli.results.folder import RunFolder
from gr_cli.runner import run, run_figures
from helpers.interruption import StopAt, csvs, only_run
from helpers.situations import TINY

PICTURES = ("draw_samples", "draw_matrix")
KEPT_VARIABLES = ("GR_DATA_ROOT", "GR_CACHE_ROOT")  # of which tests set the second one themselves


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Small networks gain nothing from more, and tests shall not depend on the machine.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_environment() -> Iterator[None]:
    """Unset the variables of a developer's shell that change what commands do, for fixtures of a module, too."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("GR_") and name not in KEPT_VARIABLES]:
            patch.delenv(name)
        yield


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Restore the default handlers of signals: a shell that starts the tests in the background, or nohup, makes them
    ignored."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="session")
def _fast() -> Iterator[None]:
    """Skip work that takes longer than a tiny run and that few tests need: pictures, fsync, repeated composition."""
    Plugins.instance()  # fills the registry, with classes that are not those one may import
    source_class = SourcesRegistry.instance().resolve("pkg")
    read, files = source_class._read_config, {}
    list_defaults, merge = create_defaults_list, ConfigLoaderImpl._compose_config_from_defaults_list
    lists: dict[object, DefaultsList] = {}
    merged: dict[object, DictConfig] = {}

    def once(source: object, path: object) -> object:
        # The shipped YAML files never change; to copy what they hold takes a sixth of the time.
        if path not in files:
            files[path] = read(source, path)
        return copy.deepcopy(files[path])

    def listed_once(
        repo: IConfigRepository, config_name: object, overrides_list: list[Override], **more: object
    ) -> DefaultsList:
        # Which files are merged depends on the chosen options, not on values.
        if has_own_files(repo):
            return list_defaults(repo, config_name, overrides_list, **more)
        overrides = [each for each in overrides_list if not each.is_sweep_override()]
        chooses = [repo.group_exists(each.key_or_group) and not isinstance(each.value(), dict) for each in overrides]
        chosen = list(compress(overrides, chooses))
        key = (config_name, *(each.input_line for each in chosen), *more.items())
        if key not in lists:
            lists[key] = list_defaults(repo, config_name, chosen, **more)
        return replace(lists[key], config_overrides=list(compress(overrides, map(not_, chooses))))

    def merged_once(loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        # To merge them takes longer than many a run; several tests begin with the same options.
        if has_own_files(repo):
            return merge(loader, defaults, repo)
        key = tuple((each.config_path, each.package, each.is_self, each.primary) for each in defaults)
        if key not in merged:
            merged[key] = merge(loader, defaults, repo)
            if len(merged) > 64:
                del merged[next(iter(merged))]
        return copy.deepcopy(merged[key])

    def has_own_files(repo: IConfigRepository) -> bool:
        return any(source.scheme() == "file" for source in repo.get_sources())

    gc.freeze()  # what is imported stays; it need not be looked through for garbage again and again
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_loader_impl, "create_defaults_list", listed_once)
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", merged_once)
        patch.setattr(source_class, "_read_config", once)
        patch.setattr(os, "fsync", lambda _: None)  # the power does not fail while tests run
        for name in PICTURES:
            patch.setattr(run, name, lambda *_: None)
        yield


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of the test draw their pictures."""
    for name in PICTURES:
        monkeypatch.setattr(run, name, getattr(run_figures, name))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs in an empty folder with its own `outputs/` and cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GR_CACHE_ROOT", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long grace periods, so that slow machines don't time out; tests of a timeout set their own."""
    for constant in ("runner.step_monitor.GRACE_SECONDS", "trackers.observer._GRACE_SECONDS"):
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
def gr_audit(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call `gr-audit` in this process: exit code, stdout, stderr."""

    def call(*words: object) -> tuple[int, str, str]:
        code = audit(list(map(str, words)))
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, ...], tuple[int, int] | None], Path]:
    """A directory in which the command line was called, made once per session, or interrupted at an iteration."""
    homes: dict[tuple[object, ...], Path] = {}

    def make(words: tuple[str, ...], at: tuple[int, int] | None) -> Path:
        if (words, at) not in homes:
            home = tmp_path_factory.mktemp("made")
            with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                patch.chdir(home)
                patch.setenv("GR_CACHE_ROOT", str(home / "cache"))
                if at is not None:
                    patch.setattr("gr_cli.terminal.run_display.TerminalObserver", lambda **_: StopAt(*at))
                assert main(list(words)) == (0 if at is None else 130)
            homes[words, at] = home
        return homes[words, at]

    return make


@pytest.fixture
def made(_made: Callable[..., Path]) -> Callable[..., Path]:
    """A copy of the outputs of `gr_run`, or of `interrupted` if `at` is given; the folder if there is one run."""

    def copied(*words: str, at: tuple[int, int] | None = None) -> Path:
        shutil.copytree(_made(words, at) / "outputs", "outputs", dirs_exist_ok=True)
        for path in Path("outputs").glob("*/*/*/status.json"):
            RunFolder(path.parent).write_status(json.loads(path.read_text()) | {"directory": str(Path.cwd())})
        return only_run() if "-m" not in words else Path("outputs")

    return copied


@pytest.fixture
def folder(made: Callable[..., Path]) -> Path:
    """The folder of a finished tiny run."""
    return made(*TINY)


@pytest.fixture
def gr_report(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call `gr-report` in this process: exit code, stdout, stderr."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = report([str(word) for word in words])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def interrupted(gr_run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Call the command line and interrupt it, as by Ctrl-C, `at` an iteration of a stage; returns what it printed."""

    def call(*words: str, at: tuple[int, int] = (1, 2)) -> str:
        with monkeypatch.context() as patch:
            patch.setattr("gr_cli.terminal.run_display.TerminalObserver", lambda **_: StopAt(*at))
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
    """Assert that an interrupted and resumed run leaves the tables of an undisturbed one. `forget` in between simulates
    another process."""

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
