"""Black-box attacks on the generator of a finished run."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from gr_cli.audit.generated import draw_memorised, generated_table, generator_of_run
from gr_cli.errors import ConfigError, FolderError
from gr_cli.evaluation import black_box
from gr_cli.nn.sample_spec import SampleSpec

TINY = ("train.iterations=4", "log.every=2", "evaluate.generated_samples=0", "threads=1", "train.tasks=2")


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr(black_box, "_BOOTSTRAP_DRAWS", 20)
    monkeypatch.setattr(black_box, "NUM_GENERATED", 200)


def test_table_of_a_run_has_a_row_for_each_trained_task(made):
    folder = made(*TINY, "generator=vae")
    before = torch.get_rng_state()
    run = generator_of_run(folder)
    rows = generated_table(run).rows
    assert [(row["after_task"], row["task"], row["generated"]) for row in rows] == [(1, 0, 200), (1, 1, 200)]
    for row in rows:
        assert row["monte_carlo_auc_low"] <= row["monte_carlo_auc"] <= row["monte_carlo_auc_high"]
        assert row["distance_ratio_low"] <= row["distance_ratio"] <= row["distance_ratio_high"]
    assert torch.equal(before, torch.get_rng_state())
    assert generated_table(generator_of_run(folder)).csv_text() == generated_table(run).csv_text()


def test_memorised_samples_are_drawn_outside_of_the_run(made, tmp_path):
    folder = made(*TINY, "generator=vae")
    run = generator_of_run(folder)
    draw_memorised(run, folder, tmp_path / "pairs.png")
    with Image.open(tmp_path / "pairs.png") as picture:
        assert picture.width > 8 * 10
    with pytest.raises(ConfigError, match="contains training samples"):
        draw_memorised(run, folder, folder / "figures" / "pairs.png")


def test_samples_without_a_picture_are_refused(made, tmp_path):
    folder = made(*TINY, "generator=vae")
    run = replace(generator_of_run(folder), spec=SampleSpec((1000,), None))
    with pytest.raises(ConfigError, match="have no picture"):
        draw_memorised(run, folder, tmp_path / "pairs.png")


def test_runs_without_generator_are_refused(made):
    with pytest.raises(FolderError, match="has no generator"):
        generator_of_run(made(*TINY, "strategy=finetune"))
