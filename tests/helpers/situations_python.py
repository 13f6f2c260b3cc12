"""Messages of runs that are started and loaded from Python."""

from pathlib import Path

import gr_cli
from helpers.situations import TINY, Hands, Situation, Table


def started(*words: object, **settings: object) -> Situation:
    """Start a run from Python."""
    return lambda hands: gr_cli.run(*words, **settings)


def of_a_run(read: object) -> Situation:
    """Read something of a finished tiny run."""
    return lambda hands: read(gr_cli.load_run(hands.over()))


def with_a_large_picture(hands: Hands) -> object:
    folder = hands.over()
    hands.monkeypatch.setattr("gr_cli.python.pictures._MAX_PICTURE_BYTES", 3)
    (folder / "figures" / "accuracy_matrix.png").write_bytes(b"1234")
    return gr_cli.load_run(folder).plot()


def without_tables(hands: Hands) -> object:
    folder = hands.left()
    (folder / "history.csv").unlink()
    return gr_cli.load_run(folder).history


def of_failed_runs(hands: Hands) -> object:
    return gr_cli.sweep(*TINY, "optimizer=sgd", "optimizer.lr=1e30", "seed=0,1").plot()


PYTHON: Table = {
    "python/overrides.py": [
        ("must be texts such as 'seed=1'", started("seed")),
        ("must be a number, a text, a list or a mapping", started(seed=Path)),
    ],
    "python/start.py": [("is for the command line", started("inspect=true"))],
    "python/run_result.py": [("has no figure", of_a_run(lambda run: run.plot("nothing")))],
    "python/pictures.py": [("can't be read ({}); remove it", with_a_large_picture)],
    "python/many_runs.py": [("no run has finished", of_failed_runs)],
    "results/frames.py": [
        ("has no table", of_a_run(lambda run: run.tables["nothing"])),
        ("the tables are written after the first task", without_tables),
    ],
}
