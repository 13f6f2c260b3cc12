"""Figures of a run are drawn with matplotlib's defaults, and a failing figure does not end the run."""

import os
import subprocess
import sys
from typing import Any

import pytest

from helpers.situations import TINY

# --- settings of matplotlib


HOSTILE_SETTINGS = "text.usetex: True\nbackend: module://my_module\nsavefig.format: svg\nfigure.dpi: 1\nnonsense: 1\n"


@pytest.mark.parametrize("where", ["here", "home", "named", "latin", "no file", "backend", "unwritable"])
def test_figures_do_not_depend_on_the_users_matplotlib_settings(tmp_path, where):
    """In a subprocess, because matplotlib reads its settings once."""
    (tmp_path / "my_module.py").write_text("raise SystemExit('was imported')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    rc = tmp_path / "matplotlibrc"
    if where in ("here", "named", "latin"):
        rc.write_bytes(HOSTILE_SETTINGS.encode() + (b"\xe9" if where == "latin" else b""))
    if where == "no file":
        os.mkfifo(rc)
    if where == "named":
        rc.rename(tmp_path / "other")
        environment["MATPLOTLIBRC"] = str(tmp_path / "other")
    if where in ("home", "unwritable"):
        (tmp_path / "config").mkdir(mode=0o555 if where == "unwritable" else 0o755)
        environment["MPLCONFIGDIR"] = str(tmp_path / "config" / ("a" if where == "unwritable" else ""))
    if where == "home":
        (tmp_path / "config" / "matplotlibrc").write_text(HOSTILE_SETTINGS)
    if where == "unwritable":
        (tmp_path / "config" / "a").write_text("no folder")
    if where == "backend":
        environment["MPLBACKEND"] = "nonsense"
    script = (
        "from pathlib import Path\n"
        "from gr_cli.results import charts\nfrom gr_cli.results import figures\n"
        "from gr_cli.results.charts import Curve\n"
        "from gr_cli.results.statistics import Summary\n"
        "figures.draw_accuracy_matrix({0: [0.5, 0.1], 1: [0.3, 0.9]}, ['$a', 'b_{'], '$title', Path('matrix.png'))\n"
        "curves = [Curve('$x', {float(i): Summary(i / 9, None, None, 1) for i in range(1, 10)})]\n"
        "figure = charts.sweep_chart(curves, 'x', 'y', 100.0, True)\n"
        "Path('sweep.svg').write_text(charts.svg_element(figure, 'n'), encoding='utf-8')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    from PIL import Image

    with Image.open(tmp_path / "matrix.png") as picture:
        assert picture.format == "PNG" and picture.width > 300
    assert "$x" in (tmp_path / "sweep.svg").read_text(encoding="utf-8")


def test_figures_do_not_depend_on_settings_of_this_process_and_keep_them(tmp_path):
    import matplotlib

    from gr_cli.results import figures

    with matplotlib.rc_context({"text.usetex": True, "figure.dpi": 1, "savefig.transparent": True}):
        figures.draw_accuracy_curves({0: [0.5, 0.1], 1: [0.3, 0.9]}, ["a", "b"], "title", tmp_path / "curves.png")
        assert matplotlib.rcParams["text.usetex"] and matplotlib.rcParams["figure.dpi"] == 1
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.usefixtures("pictures")
def test_a_figure_that_can_t_be_drawn_does_not_end_the_run(gr_run, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no fonts\x1b")

    monkeypatch.setattr("gr_cli.results.figures.draw_accuracy_matrix", fail)
    code, _, err = gr_run(*TINY)
    assert code == 0 and err.count("\n") == 1
    assert "a figure can't be drawn and is skipped (RuntimeError: no fonts\\x1b)" in err
