"""`inspect=true` summarizes a benchmark and draws its samples without training."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

RNG = np.random.default_rng(0)


def write(x: np.ndarray, y: np.ndarray, x_test: np.ndarray | None = None, y_test: np.ndarray | None = None) -> None:
    tests = {} if x_test is None else {"x_test": x_test, "y_test": y if y_test is None else y_test}
    np.savez("set.npz", **{"x_train": x, "y_train": y} | tests)


def coloured(n: int) -> np.ndarray:
    return RNG.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


ARRAYS = ("benchmark=arrays", "benchmark.source.path=set.npz", "inspect=true")
Y = np.arange(40) % 4


@pytest.fixture
def inspected(gr_run):
    def call(*words: str) -> str:
        code, out, err = gr_run(*words)
        assert code == 0, err
        folders = [path.relative_to("outputs").parts[0] for path in Path("outputs").rglob("*") if path.is_file()]
        assert set(folders) <= {"inspect"}  # no run
        return out

    return call


def rows(out: str) -> list[list[str]]:
    """The cells of the printed table."""
    return [[cell.strip() for cell in re.split("[│|]", line)[1:-1]] for line in out.splitlines() if "│" in line]


def test_summary_has_classes_counts_shape_and_range(inspected):
    write(
        coloured(40),
        np.array(["ant", "bee", "cat", "dog"])[Y],
        coloured(8),
        np.array(["ant", "bee", "cat", "dog"])[Y[:8]],
    )
    out = inspected(*ARRAYS, "benchmark.validation_share=0.2")
    assert out.splitlines()[0] == "arrays · 2 tasks · seed 0"
    assert "shape (3, 8, 8) · stored as uint8 · values in [0, 1]" in out
    assert rows(out) == [
        ["0", "ant, bee", "16", "4", "4", "0 to 1"],
        ["1", "cat, dog", "16", "4", "4", "0 to 1"],
    ]
    assert "warning" not in out


def test_samples_of_each_task_are_drawn(inspected):
    x = np.zeros((40, 8, 8, 3), np.uint8)
    x[Y == 1, ..., 0] = x[Y == 2, ..., 1] = x[Y == 3, ..., 2] = 255
    x[:, 0, 0, 0] = np.arange(40)
    write(x, Y, x)
    (picture,) = Path("outputs/inspect").rglob("*.png") if inspected(*ARRAYS) else ()
    assert picture.parent.name.startswith("arrays-")
    with Image.open(picture) as image:
        colours = {colour[:3] for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert {(255, 0, 0), (0, 255, 0), (0, 0, 255)} <= colours
    inspected(*ARRAYS, "seed=1")
    assert len(list(Path("outputs/inspect").iterdir())) == 2


def test_drawn_samples_are_spread_over_a_class(inspected):
    x = np.zeros((400, 8, 8, 3), np.uint8)
    x[200:, ..., 0] = 255  # the second half is red
    write(x, np.arange(400) % 4, x)
    inspected(*ARRAYS)
    (picture,) = Path("outputs/inspect").rglob("*.png")
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    red, black = ((pixels == colour).all(1).sum() for colour in ([255, 0, 0], [0, 0, 0]))
    assert 0.5 < red / black < 2


@pytest.mark.parametrize("channels", [2, 4])
def test_images_with_other_than_three_channels_are_drawn(inspected, channels):
    write(RNG.random((40, channels, 8, 8)), Y)
    assert "samples.png" in inspected(*ARRAYS, "benchmark.source.layout=NCHW")


def test_imbalance_duplicates_and_constant_channels_are_warned_of(inspected):
    y = np.array([0] * 30 + [1] * 5 + [2] * 30 + [3] * 6)
    x = coloured(71)
    x[..., 1] = 77
    again = np.array([0, 30, 31, 32, 40, 41, 68, 69])
    write(x, y, np.concatenate([x[again], 255 - x[:8]]), np.concatenate([y[again], y[:8]]))
    out = inspected(*ARRAYS)
    assert "warning: class 0 has 30 training samples, and class 1 5" in out
    assert "warning: 8 of 16 test samples are also training samples, the first in task 0 1" in out
    assert "warning: 1 of 3 channels never change: 1" in out


def test_moderate_imbalance_is_not_warned_of(inspected):
    write(coloured(36), np.array([0] * 15 + [1] * 3 + [2] * 15 + [3] * 3), coloured(4), np.arange(4))
    assert "warning" not in inspected(*ARRAYS)


def test_long_vectors_have_no_picture(inspected):
    x = RNG.standard_normal((40, 65)).astype(np.float32)
    x[:, 3] = 2.0
    write(x, Y)
    out = inspected(*ARRAYS)
    assert "shape (65,) · stored as float32 · values unbounded" in out
    assert "warning: 1 of 65 channels never change: 3" in out
    assert "there is no picture" in out and not Path("outputs").exists()


def test_samples_that_all_tasks_share_are_read_once(inspected, monkeypatch):
    from gr_cli.evaluation import inspection

    reads = []
    original = inspection._channel_range
    monkeypatch.setattr(inspection, "_channel_range", lambda part: reads.append(part) or original(part))
    overrides = (
        "benchmark=permuted_mnist",
        "~benchmark.source.name",
        "benchmark.source._target_=gr_cli.benchmarks.Digits",
    )
    out = inspected(*overrides, "benchmark.tasks=30", "inspect=true")
    assert len(reads) == 1
    assert len(rows(out)) == 30
    assert "shape (1, 12, 12)" in out


def test_default_benchmark_and_features(inspected):
    out = inspected("inspect=true")
    assert rows(out)[0][1:4] == ["0, 1", "289", "71"]
    out = inspected("inspect=true", "benchmark/features=conv_random")
    assert "values unbounded" in out


def test_mistakes_are_one_line(gr_run):
    for words, message in (
        (("inspect=perhaps",), "inspect=perhaps: must be true or false"),
        (
            ("-m", "inspect=true", "seed=0,1"),
            "inspect=true: shows one benchmark, and can't be used in a sweep; leave",
        ),
        ((*ARRAYS,), "benchmark.source.path=set.npz: is not there"),
    ):
        code, out, err = gr_run(*words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err
        assert not Path("outputs").exists()


def test_unwritable_picture_is_one_line(gr_run):
    Path("outputs").write_text("a file")
    code, _, err = gr_run("inspect=true")
    assert (code, err.count("\n")) == (2, 1)
    assert "can't be created" in err


def test_inspection_does_not_change_the_run_folder(gr_run):
    assert gr_run("strategy=finetune", "train.iterations=1")[0] == 0
    (folder,) = Path("outputs/split_digits/finetune").iterdir()
    assert "inspect" not in folder.name
    code, out, _ = gr_run(f"resume={folder}")
    assert code == 0 and "finished before" in out
