"""`scripts/run` installs what a run needs, `scripts/test` what tests need; by uv where it is there, or else by pip."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Stands in for Python: logs what it is asked for, and makes an environment of which it is the Python itself.
PYTHON = """#!/usr/bin/env bash
case "$1 $2" in
    "-m venv")
        echo "venv ${@:3}" >> "$LOG"
        rm -rf .venv; mkdir -p .venv/bin
        cp "$0" .venv/bin/python
        [ "${4:-}" = --without-pip ] || touch .venv/pip
        printf '#!/usr/bin/env bash\\necho "run $*"\\n' > .venv/bin/gr-run
        chmod +x .venv/bin/gr-run ;;
    "-m pip") echo "pip ${@:3}" >> "$LOG"; exit "${INSTALLED:-0}" ;;
    "-m pytest") echo "tests ${@: -1}" ;;
    "-c import pip") [ -e .venv/pip ] ;;
esac
"""
UV = '#!/usr/bin/env bash\necho "uv $*" >> "$LOG"\nexit "${INSTALLED:-0}"\n'
BY_PIP, BY_UV = "pip install --quiet --editable ", "uv pip install --quiet --python .venv/bin/python --editable "

Call = Callable[..., tuple[int, str, list[str]]]


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def call(tmp_path) -> Call:
    """Calls a script in a copy of the scripts; returns exit code, stdout and the logged commands."""
    home = tmp_path / "gr"
    shutil.copytree(ROOT / "scripts", home / "scripts")
    shutil.copy(ROOT / "pyproject.toml", home)
    (tmp_path / "bin").mkdir()
    executable(tmp_path / "bin" / "python3", PYTHON)

    def call(script: str, *words: str, uv: bool = False, installed: int = 0) -> tuple[int, str, list[str]]:
        log = tmp_path / "log"
        log.write_text("")
        (tmp_path / "bin" / "uv").unlink(missing_ok=True)
        if uv:
            executable(tmp_path / "bin" / "uv", UV)
        system = os.pathsep.join(
            part for part in os.environ["PATH"].split(os.pathsep) if not (Path(part) / "uv").exists()
        )
        environment = {
            **os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{system}", "LOG": str(log),
            "INSTALLED": str(installed), "PYTHON": "python3",
        }  # fmt: skip
        command: Sequence[str] = (str(home / "scripts" / script), *words)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout, log.read_text().splitlines()

    return call


@pytest.mark.parametrize(("uv", "made", "install"), [(False, "", BY_PIP), (True, " --without-pip", BY_UV)])
def test_a_run_installs_what_it_needs_and_tests_add_the_rest(call, uv, made, install):
    assert call("run", "seed=1", uv=uv) == (0, "run seed=1\n", [f"venv --clear{made} .venv", f"{install}."])
    assert call("run", "seed=2", uv=uv) == (0, "run seed=2\n", [])
    assert call("test", "-x", uv=uv) == (0, "tests -x\n", [f"{install}.[dev]"])
    assert call("run", uv=uv) == (0, "run \n", [])
    assert call("test", "-x", uv=uv) == (0, "tests -x\n", [])


def test_an_environment_for_tests_is_one_for_runs(call):
    assert call("test", "-x")[2] == ["venv --clear .venv", f"{BY_PIP}.[dev]"]
    assert call("run")[2] == []


def test_other_requirements_are_installed_when_they_are_needed(call, tmp_path):
    call("test")
    with (tmp_path / "gr" / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert call("run")[2] == [f"{BY_PIP}."]
    assert call("run")[2] == []
    assert call("test")[2] == [f"{BY_PIP}.[dev]"]
    assert call("test")[2] == []


@pytest.mark.parametrize("uv", [False, True])
def test_an_installation_that_failed_is_repeated(call, uv):
    install = BY_UV if uv else BY_PIP
    code, out, _ = call("run", uv=uv, installed=1)
    assert code == 1 and out == ""
    assert call("run", uv=uv)[::2] == (0, [f"{install}."])
    assert call("test", uv=uv, installed=1)[0] == 1
    # What is half installed may have replaced what a run needs.
    assert call("run", uv=uv)[::2] == (0, [f"{install}."])
    assert call("test", uv=uv)[2] == [f"{install}.[dev]"]


def test_a_broken_environment_is_made_anew(call, tmp_path):
    environment = tmp_path / "gr" / ".venv"
    call("run", uv=True)
    assert call("test")[2] == ["venv --clear .venv", f"{BY_PIP}.[dev]"]  # uv is gone, and there is no pip
    shutil.rmtree(environment / "bin")
    (environment / ".made-for-run").unlink()
    assert call("run")[2] == ["venv --clear .venv", f"{BY_PIP}."]


def test_without_a_python_there_is_one_line(call, tmp_path):
    executable(tmp_path / "bin" / "python3", "#!/usr/bin/env bash\nexit 1\n")
    assert call("run") == (2, "", [])
