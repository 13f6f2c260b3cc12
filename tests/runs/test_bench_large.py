"""The sets that scripts/bench_large.py makes, and how it holds a command within a limit."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gr_cli.benchmarks import Arrays
from gr_cli.benchmarks.sources.load import load_dataset
from gr_cli.system.mapping import is_mapped
from helpers.image_files import read

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_large.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_large", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_array_is_sparse_and_is_mapped_in_place(bench):
    bench.write_images(Path("x.npy"), 200)
    x = np.load("x.npy", mmap_mode="r")
    assert x.shape == (200, 3, 64, 64) and x.dtype == np.uint8 and x.offset == 4096
    written = x.reshape(200, -1).any(1)
    assert written.nonzero()[0].tolist() == list(range(0, 200, 17)) and len(set(range(0, 170, 17))) == 10
    data = load_dataset(Arrays("x.npy", "y.npy", storage="mapped"))
    assert is_mapped(data.train.store) and len(data.classes) == 10 and len(data.train) + len(data.test) == 200


def test_the_image_files_are_a_set_of_ten_classes(bench):
    bench.write_files(Path("images"), 40)
    data = read(storage="mapped")
    assert len(data.classes) == 10 and data.spec.shape == (3, 64, 64) and len(data.train) + len(data.test) == 40


@pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc are those of Linux")
def test_a_command_is_held_within_the_limit_and_its_peak_is_seen(bench, capsys):
    code = "import time; x = b'1' * (200 << 20); time.sleep(1)"
    outcome = bench.limited([sys.executable, "-c", code], 1.0, Path())
    assert 200 << 20 <= outcome.anonymous <= 300 << 20
    assert math.isnan(outcome.opening)  # it is no run
    with pytest.raises(SystemExit):
        bench.limited([sys.executable, "-c", code], 0.1, Path())
    assert "MemoryError" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc are those of Linux")
def test_training_begins_when_a_new_run_has_a_configuration(bench):
    code = "import pathlib, sys; p = pathlib.Path('outputs/a/b', sys.argv[1]); p.mkdir(parents=True)"
    code += "; (p / 'config.yaml').touch()"
    for name in ("c", "d"):
        outcome = bench.limited([sys.executable, "-c", code, name], 1.0, Path())
        assert 0 < outcome.opening <= outcome.seconds
