"""Figures show what they should; charts are drawn with matplotlib's defaults; a failing figure does not end the run."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gr_cli.results import figures
from gr_cli.results.canvas import Canvas, _dashed
from gr_cli.results.chart_style import COLOURS, heat_colour, heat_colours
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
        "from gr_cli.results.curves import Curve\n"
        "from gr_cli.results.statistics import Summary\n"
        "figures.draw_accuracy_matrix({0: [0.5, 0.1], 1: [0.3, 0.9]}, ['$a', 'b_{'], '$title', Path('matrix.png'))\n"
        "curves = [Curve('$x', {float(i): Summary(i / 9, None, None, 1) for i in range(1, 10)})]\n"
        "charts.save_for_paper(charts.sweep_chart(curves, 'x', 'y', 100.0), Path('sweep'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    from PIL import Image

    with Image.open(tmp_path / "matrix.png") as picture:
        assert picture.format == "PNG" and picture.width > 300
    svg = (tmp_path / "sweep.svg").read_text(encoding="utf-8")
    assert "<svg" in svg and "<text" not in svg and (tmp_path / "sweep.pdf").read_bytes().startswith(b"%PDF")


def test_charts_do_not_depend_on_settings_of_this_process_and_keep_them(tmp_path):
    import matplotlib

    from gr_cli.results import charts
    from gr_cli.results.statistics import Summary

    cells = {(i, j): Summary(0.5, None, None, 1) for i in range(2) for j in range(2)}
    charts.save_for_paper(charts.heat_map(cells), tmp_path / "plain")
    with matplotlib.rc_context({"text.usetex": True, "figure.dpi": 1, "savefig.transparent": True}):
        charts.save_for_paper(charts.heat_map(cells), tmp_path / "other")
        assert (tmp_path / "other.svg").read_bytes() == (tmp_path / "plain.svg").read_bytes()
        assert matplotlib.rcParams["text.usetex"] and matplotlib.rcParams["figure.dpi"] == 1


# --- pictures of a run

INK = (0, 0, 0)


def picture(path: Path) -> np.ndarray[Any, Any]:
    """The pixels (H, W, 3) of a picture."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def box_of(pixels: np.ndarray[Any, Any], colour: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the pixels of a colour."""
    ys, xs = (pixels == np.array(colour)).all(-1).nonzero()
    return int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())


def test_pictures_of_a_run_need_no_matplotlib(tmp_path):
    script = (
        "import sys; from pathlib import Path; import torch; from gr_cli.results import figures\n"
        "figures.draw_accuracy_matrix({0: [1.0]}, ['a'], 'title', Path('a.png'))\n"
        "figures.draw_accuracy_curves({0: [1.0]}, ['a'], 'title', Path('b.png'))\n"
        "figures.draw_sample_sheet(torch.rand(4, 1, 8, 8), 'title', Path('c.png'))\n"
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, cwd=tmp_path, timeout=300)


def test_the_matrix_has_a_cell_of_its_colour_for_each_accuracy(tmp_path):
    path = tmp_path / "matrix.png"
    figures.draw_accuracy_matrix({0: [1.0, 0.0], 1: [0.5, None]}, ["a", "b"], "title", path)
    pixels = picture(path)
    left, top, right, bottom = box_of(pixels, heat_colours(np.array(1.0)))
    lowest = box_of(pixels, heat_colours(np.array(0.0)))
    assert lowest[0] == right + 1 and lowest[1] == top and lowest[3] == bottom
    below = pixels[bottom + 3, left + 5 : right - 5]
    assert (below == heat_colours(np.array(0.5))).all()
    assert (pixels[bottom + 3, right + 5 : lowest[2] - 5] == 255).all()  # no accuracy, no colour


@pytest.mark.parametrize("number", [5, 100])
def test_names_of_tasks_are_not_cut_off(number, tmp_path):
    path, names = tmp_path / "matrix.png", [f"a task with a long name {i}" for i in range(number)]
    figures.draw_accuracy_matrix({i: [1.0] * number for i in range(number)}, names, "title", path)
    assert (picture(path)[:, :5] == 255).all()  # the margin at the left


def test_the_colour_map_is_viridis():
    import matplotlib

    shares = np.linspace(0, 1, 256)
    expected = 255 * matplotlib.colormaps["viridis"](shares)[:, :3]
    assert np.abs(heat_colours(shares) - expected).max() <= 1.5
    assert heat_colours(np.array([np.nan])).tolist() == [[255, 255, 255]]
    assert heat_colour(-3.0) == heat_colour(0.0) == "#440154"


def test_curves_go_through_their_points(tmp_path):
    """Task 0: 100 % after its training, 0 % after the next one. Task 1: a single point, 100 %."""
    path = tmp_path / "curves.png"
    figures.draw_accuracy_curves({0: [1.0, 0.0], 1: [0.0, 1.0]}, ["a", "b"], "title", path)
    pixels = picture(path)
    plot = pixels[:420]  # without the legend
    blue, orange = (tuple(bytes.fromhex(colour[1:])) for colour in COLOURS[:2])
    left, top, right, bottom = box_of(plot, blue)
    marker = 9  # pixels
    x, y, last_x, last_y = box_of(plot, orange)
    assert abs(last_x - x - marker) <= 2 and abs(last_y - y - marker) <= 2
    assert abs(last_x - right) <= 1 and abs(y - top) <= 1
    middle_x, middle_y = (left + right) // 2, (top + bottom) // 2
    assert (plot[middle_y - 4 : middle_y + 5, middle_x - 4 : middle_x + 5] == blue).all(-1).any()


@pytest.mark.parametrize("number", [1, 3, 20, 21, 100])
def test_any_number_of_tasks_is_drawn(tmp_path, number):
    rows = {i: [0.5 if j <= i else None for j in range(number)] for i in range(number)}
    names = [f"a long name in {i} \u0432 $_{{" for i in range(number)]
    figures.draw_accuracy_matrix(rows, names, "title", tmp_path / "matrix.png")
    figures.draw_accuracy_curves(rows, names, "title", tmp_path / "curves.png")
    assert picture(tmp_path / "matrix.png").shape[1] == picture(tmp_path / "curves.png").shape[1] == 690
    assert picture(tmp_path / "curves.png").shape[0] < 1500


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_shows_each_sample_in_pixels_of_equal_size(tmp_path, channels):
    tiles = torch.rand(7, channels, 5, 6, generator=torch.Generator().manual_seed(0))
    figures.draw_sample_sheet(tiles, "title", tmp_path / "sheet.png", columns=4)
    pixels, size = picture(tmp_path / "sheet.png"), 660 // (4 * 7)
    left, top = (pixels.shape[1] - 4 * 7 * size) // 2, round(0.35 * 150)
    sheet = pixels[top : top + 2 * 6 * size, left : left + 4 * 7 * size]
    grid = sheet[size // 2 :: size, size // 2 :: size].reshape(2, 6, 4, 7, 3)
    shown = torch.from_numpy(grid.transpose(0, 2, 4, 1, 3).reshape(8, 3, 6, 7).copy())
    expected = (255 * tiles).round().byte().expand(7, 3, 5, 6)
    assert torch.equal(shown[:7, :, :5, :6], expected)
    assert (shown[:, :, 5] == 128).all() and (shown[7] == 128).all()


def test_rows_of_values_are_a_heat_map(tmp_path):
    values = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).view(2, 1, 1, 2)
    for names in ((), ("height", "width")):
        figures.draw_sample_sheet(values, "title", tmp_path / "values.png", names=names)
        pixels = picture(tmp_path / "values.png")[:, :470]  # without the colour bar
        low, high = (box_of(pixels, heat_colours(np.array(share))) for share in (0.0, 1.0))
        assert low == high  # each in two opposite corners


def test_dashes_follow_the_line():
    lines = list(_dashed([(0.0, 0.0), (4.0, 0.0), (4.0, 6.0)], [3.0, 2.0]))
    assert lines == [[(0.0, 0.0), (3.0, 0.0)], [(4.0, 1.0), (4.0, 4.0)]]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(1, 5, [1, 2, 3, 4, 5]), (0, 0, [0]), (1, 11, [2, 4, 6, 8, 10]), (1, 100, list(range(10, 101, 10)))],
)
def test_ticks_are_round_numbers(low, high, ticks):
    assert figures.integer_ticks(low, high) == ticks


def test_text_is_drawn_as_it_is_and_turned(tmp_path):
    canvas = Canvas(2, 2)
    canvas.text((150, 150), "$x_{$", 20)
    level = canvas.image.copy()
    left, top, right, bottom = box_of(np.asarray(level), INK)
    assert right - left > bottom - top and abs(left + right - 300) < 8
    turned = Canvas(2, 2)
    turned.text((150, 150), "$x_{$", 20, angle=90)
    left, top, right, bottom = box_of(np.asarray(turned.image), INK)
    assert bottom - top > right - left


@pytest.mark.usefixtures("pictures")
def test_a_figure_that_can_t_be_drawn_does_not_end_the_run(gr_run, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no fonts\x1b")

    monkeypatch.setattr("gr_cli.results.figures.draw_accuracy_matrix", fail)
    code, _, err = gr_run(*TINY)
    assert code == 0 and err.count("\n") == 1
    assert "a figure can't be drawn and is skipped (RuntimeError: no fonts\\x1b)" in err
