"""`scripts/bench_start.py` measures whole commands beside the import of torch."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_start.py"


@pytest.fixture
def bench_start():
    spec = importlib.util.spec_from_file_location("bench_start", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_commands_are_measured_in_turns_beside_the_import(bench_start, monkeypatch, capsys):
    figures = iter([(9.0, 9.0)] * 2 + [(2.0, 1.0), (5.0, 2.0)] + [(4.0, 1.0), (3.0, 1.5)] + [(2.0, 1.0), (3.0, 1.5)])
    called = []

    def measured(command, folder):
        called.append(command)
        assert Path(folder).is_dir()
        return next(figures)

    monkeypatch.setattr(bench_start, "measured", measured)
    monkeypatch.setattr(sys, "argv", ["bench_start.py", "--turns", "3", "preset=smoke seed=1"])
    bench_start.main()
    assert [command[1:] for command in called[:2]] == [("-c", "import torch"), ("preset=smoke", "seed=1", "fresh=true")]
    rows = capsys.readouterr().out.splitlines()[2:]
    # Medians of three turns; the first turn is left out.
    assert rows == [
        "| `import torch` | 2.00 | 1.00 | 1.00 | 1.00 |",
        "| `preset=smoke seed=1` | 3.00 | 1.50 | 1.50 | 1.50 |",
    ]


def test_a_process_is_measured(bench_start, tmp_path):
    wall, cpu = bench_start.measured((sys.executable, "-c", "print(1)"), str(tmp_path))
    assert wall > 0 and cpu > 0
