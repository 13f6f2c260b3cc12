"""The wheel contains all files and runs from any directory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import gr_cli

ROOT = Path(gr_cli.__file__).parent.parent


def test_the_wheel_runs_from_another_directory(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("gr_cli", "conf", "pyproject.toml", "README.md", "LICENSE"):
        path = ROOT / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path / "wheels", source], check=True)
    (wheel,) = (tmp_path / "wheels").glob("gr_cli-*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    assert all((site / "gr_cli" / guide).is_file() for guide in ("README.md", "conf/README.md", "results/README.md"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = os.environ | {"PYTHONPATH": str(site)}
    where = [sys.executable, "-c", "import gr_cli, gr_cli.conf; print(gr_cli.__file__, gr_cli.conf.__file__)"]
    paths = subprocess.run(where, cwd=elsewhere, env=environment, check=True, capture_output=True, text=True).stdout
    assert all(path.startswith(str(site)) for path in paths.split())
    done = subprocess.run(
        [sys.executable, "-m", "gr_cli", "preset=smoke", "train.iterations=3"],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list((elsewhere / "outputs").glob("*/*/*/accuracy_matrix.csv"))
    assert any((site).rglob("LICENSE.md"))
