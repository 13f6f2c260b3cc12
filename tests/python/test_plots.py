"""Figures from Python: they show the tables, and are matplotlib's own."""

import json
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

import gr_cli
from gr_cli.errors import ConfigError, FolderError
from gr_cli.python.plots import comparison_figure
from helpers.situations import TINY


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished tiny run."""
    with chdir(tmp_path_factory.mktemp("finished")):
        return gr_cli.run(*TINY, progress=False)


def test_a_plot_shows_the_matrix_and_can_be_restyled_and_saved(finished):
    figure = finished.plot()
    assert isinstance(figure, Figure) and figure._repr_png_().startswith(b"\x89PNG")
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), 100 * finished.matrix.to_numpy())
    before = figure._repr_png_()
    axes.set_xlabel("restyled")
    assert figure._repr_png_() != before
    for suffix, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        figure.savefig(f"matrix.{suffix}")
        assert Path(f"matrix.{suffix}").read_bytes().startswith(start)


def test_curves_losses_and_tables_are_drawn(finished):
    curves = finished.plot("accuracy_curves").axes[0].lines
    ends = {line.get_label(): line.get_ydata()[-1] for line in curves if not line.get_label().startswith("_")}
    assert ends["task 0"] == pytest.approx(100 * finished.matrix.loc[1, 0])
    assert ends["mean so far"] == pytest.approx(100 * finished.matrix.loc[1].mean())
    assert finished.plot("losses").axes[0].get_xlabel() == "iteration"
    assert finished.plot("calibration").axes


def test_plots_do_not_change_the_state_of_pyplot(finished):
    with pyplot.rc_context({"font.size": 31.0}):
        settings = dict(pyplot.rcParams)
        figure = finished.plot()
        assert {text.get_fontsize() for text in figure.axes[0].get_xticklabels()} == {7.0}
        figure.canvas.draw()
        assert {text.get_fontsize() for text in figure.axes[0].get_xticklabels()} == {7.0}
        assert not pyplot.get_fignums() and dict(pyplot.rcParams) == settings


def test_matplotlib_is_imported_by_the_first_plot_with_the_settings_of_the_user(finished):
    """In a subprocess, because matplotlib reads its settings once."""
    Path("matplotlibrc").write_text("lines.linewidth: 7\n", encoding="utf-8")
    script = (
        f"import gr_cli, sys; run = gr_cli.load_run({json.dumps(str(finished.folder))}); run._repr_html_()\n"
        "assert 'matplotlib' not in sys.modules; run.plot()\n"
        "import matplotlib; assert matplotlib.rcParams['lines.linewidth'] == 7\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_plot_of_generated_samples(finished):
    """They are shown pixel by pixel as they were drawn."""
    expected = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    (finished.folder / "figures").mkdir(exist_ok=True)
    Image.fromarray(expected).save(finished.folder / "figures" / "samples_task_0.png")
    finished.plot("samples_task_0").savefig("shown.png")
    with Image.open("shown.png") as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), expected)


def test_units_have_prefixes(finished):
    """Bytes of costs and of a sweep's chart, as in gr-report --figures."""
    titles = {axes.get_title(loc="left"): axes for axes in finished.plot("costs").axes}
    stored = int(finished.tables["costs"]["stored_bytes"].iloc[-1])
    (line,) = titles["stored bytes (KiB)"].lines
    assert stored >= 1024 and line.get_ydata()[-1] == pytest.approx(stored / 1024)
    axes = comparison_figure([finished.folder], "stored_bytes").axes[0]
    assert axes.get_xlabel() == "stored bytes (KiB)"
    with pytest.raises(ConfigError, match=r"^metric=beauty: no such metric"):
        comparison_figure([finished.folder], "beauty")


@pytest.mark.parametrize("name", ["config.yaml", "status.json"])
def test_a_damaged_run_is_refused_in_one_line(finished, name):
    run = gr_cli.load_run(shutil.copytree(finished.folder, "damaged"))
    Path("damaged/figures").mkdir(exist_ok=True)
    Image.new("RGB", (4, 4)).save("damaged/figures/accuracy_matrix.png")  # is not shown in place of the tables
    Path("damaged", name).write_text("{", encoding="utf-8")
    with pytest.raises(FolderError, match=f"damaged: can't draw 'accuracy_matrix' .*{name}") as error:
        run.plot()
    assert "\n" not in str(error.value)


def test_plot_of_a_run_that_has_not_finished(interrupted):
    """It shows the tasks so far."""
    interrupted(*TINY)
    (path,) = Path("outputs").rglob("status.json")
    run = gr_cli.load_run(path.parent)
    assert run.state == "interrupted"
    np.testing.assert_allclose(run.plot().axes[0].images[0].get_array(), 100 * run.matrix.to_numpy())
