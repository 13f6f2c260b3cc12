"""Figures for papers by `gr-report --figures`, and those of a run with many tasks."""

import re
from pathlib import Path

import pytest

from gr_cli.report.cli import main
from gr_cli.results import figures
from helpers.run_folders import write_run


@pytest.mark.parametrize(("down", "across"), [(20, 20), (21, 21), (100, 100), (1, 400)])
def test_pictures_of_many_tasks_stay_small(tmp_path, down, across):
    from PIL import Image

    rows = {after: [0.5] * across for after in range(down)}
    figures.draw_accuracy_matrix(rows, [f"permutation {i}" for i in range(across)], "many", tmp_path / "matrix.png")
    with Image.open(tmp_path / "matrix.png") as image:
        assert max(image.size) < 2700


def test_figures_for_papers_are_as_wide_as_a_column_and_hold_their_fonts():
    write_run(Path("runs"))
    assert main(["runs", "--metrics", "average_accuracy", "--figures", "figures"]) == 0
    files = sorted(Path("figures").iterdir())
    kinds = {f"1_finetune_{kind}" for kind in ("curves", "losses", "matrix")}
    assert {file.stem for file in files} == kinds | {"average_accuracy"} and len(files) == 8
    write_run(Path("others"), strategy="generative_replay")
    assert main(["others", "--metrics", "sample_coverage", "--figures", "others"]) == 0
    assert {f"1_generative_replay_{kind}.svg" for kind in ("curves", "losses", "sample_quality", "matrix")} < {
        file.name for file in Path("others").iterdir()
    }
    for file in [*files, *Path("others").glob("*sample_quality.*")]:
        data = file.read_bytes()
        if file.suffix == ".svg":
            assert float(re.search(rb'width="([\d.]+)pt"', data)[1]) == pytest.approx(3.35 * 72, abs=0.1)
            assert b"<text" not in data
        else:
            assert float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+)", data)[1]) == pytest.approx(3.35 * 72, abs=0.1)
            assert b"/FontFile2" in data and b"/Type3" not in data
