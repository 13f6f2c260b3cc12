"""Messages of gr-report."""

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from gr_cli.report.cli import main
from helpers.run_folders import write_run
from helpers.situations import Hands, Situation, Table


def reported(*words: str, harm: Callable[[Path], object] = lambda folder: None) -> Situation:
    """Call `gr-report` on a finished run after a change of its folder."""

    def do(hands: Hands) -> tuple[int, str, str]:
        harm(hands.over())
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(words)
        return code, out.getvalue(), err.getvalue()

    return do


def without_vega(hands: Hands) -> tuple[int, str, str]:
    """Hides the package with the scripts of Vega-Lite."""
    hands.monkeypatch.setitem(sys.modules, "vl_convert", None)
    return reported("--html", "page.html")(hands)


def add_run(folder: Path) -> None:
    """Write a run of seed 5."""
    write_run(Path("outputs"), 5)


REPORT: Table = {
    "terminal/arguments.py": [
        ("arguments={}: {}; see {} --help", reported("--nonsense"), "unrecognized arguments: --nonsense"),
        ("--output={}: must end in {}; or name its format by --format", reported("--output", "table")),
    ],
    "report/cli.py": [
        ("can't be written, there is no folder {}; make it first", reported("--output", "nowhere/table.csv")),
        ("arguments={}: is a folder; name folders before the options", reported("--metrics", "forgetting", "outputs")),
        ("--{}=-: must be a name, not standard output; without --output the table", reported("--html", "-")),
        (
            "--baseline={}: can't be combined with --runs; remove one of them",
            reported("--runs", "--baseline", "strategy=finetune"),
        ),
        (
            "--watch={}: can't be combined with other options: remove --{}; make",
            reported("--watch", "--output", "table.csv"),
        ),
    ],
    "report/page.py": [("--html needs the package {}: pip install {}", without_vega)],
    "system/files.py": [
        (
            "can't be created",
            reported("--figures", "taken", harm=lambda folder: Path("taken").write_text("a file")),
        )
    ],
    "results/discovery.py": [
        ("is not a folder; name folders of runs", reported("nowhere")),
        ("no run here (no status.json)", reported("empty", harm=lambda folder: Path("empty").mkdir())),
    ],
    "report/sorting.py": [("rows can't be sorted by it; there are {}", reported("--sort", "-beauty"))],
    "report/selection.py": [
        ("must be <name>=<value>, or with !=, <, <=, > or >=", reported("--where", "strategy")),
        ("{} needs a number", reported("--where", "seed<many")),
        ("{} needs one number", reported("--where", "average_accuracy<0.1,0.2")),
        ("no such run; {} is {}", reported("--where", "strategy=beauty")),
        ("{} must be a number, {}", reported("--where", "average_accuracy=good")),
        ("must be a fraction between {} and {}", reported("--where", "average_accuracy>80")),
        ("no run fulfils all of these; leave some out", reported("--where", "seed=0", "seed=5", harm=add_run)),
        ("{} can be {}; give more of the name", reported("--where", "_target_=3")),
        ("no run has a setting or metric {}; settings are those of config.yaml", reported("--where", "beauty=3")),
    ],
    "report/metric_names.py": [
        ("no such metric{}", reported("--metrics", "beauty")),
        ("needs a run of strategy={}", reported("--metrics", "intransigence")),
        ("no such column; {} has {}", reported("--metrics", "evaluations.beauty")),
        ("no key {}; rows of {} have the keys {}; name one", reported("--metrics", "evaluations.loss@beauty=0")),
        ("no finished run has a value there; look into {}.csv", reported("--metrics", "evaluations.loss@task=77")),
    ],
    "report/baseline.py": [
        ("must be <column>=<value> with a column among {}", reported("--baseline", "beauty=3")),
        ("no such run; {} is one of {}", reported("--baseline", "strategy=beauty")),
    ],
}
