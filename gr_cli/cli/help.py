"""What `gr-run --help` prints, read off the configuration itself without composing it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from textwrap import wrap

from gr_cli.config.groups import CONF, GROUPS, NESTED_GROUPS

_INTRO = """\
gr-run: continual learning experiments with generative replay

usage:
  gr-run [GROUP=OPTION ...] [SETTING=VALUE ...]       one run
  gr-run -m strategy.replay_weight=0.5,1,2 ...        a sweep: one run for each combination
  gr-run resume=FOLDER                                go on with an interrupted run
  gr-run verify=FOLDER                                repeat a run: does it come out the same?
  gr-run audit=FOLDER                                 raw training samples in a run's folder: 0 as the run says,
                                                      1 against what it says, 3 not all could be read
  gr-run benchmark=... inspect=true                   show what a benchmark holds; nothing is trained
  gr-report [FOLDER ...]                              compare runs: tables, a page, figures (see gr-report --help)
  gr-run --cfg job ...                                print the composed configuration, run nothing
  gr-run --config-dir DIR ...                         add options of your own from DIR/<group>/<option>.yaml
  gr-run --version | --hydra-help | -sc install=bash  version | Hydra's flags | tab completion

examples:
  gr-run                                              generative replay on handwritten digits, no download
  gr-run strategy=generative_replay generator=conv_vae
  gr-run benchmark=split_mnist preset=dgr_paper seed=3
  gr-run -m strategy.replay_weight=0.5,1,2 'seed=range(5)' hydra/launcher=batched
"""


_ORDER = {kind: place for place, kind in enumerate((*GROUPS, "hydra/launcher"))}


def split_config_dirs(argv: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The folders of a `--config-dir` among `words`, and the other words."""
    flags = ("--config-dir", "-cd")
    after = [b for a, b in pairwise(argv) if a in flags]
    joined = [word for word in argv if word.startswith(tuple(f"{flag}=" for flag in flags))]
    found = [Path(word) for word in (*after, *(word.partition("=")[2] for word in joined))]
    return found, [word for word in argv if word not in (*flags, *after, *joined)]


def help_text(argv: Sequence[str]) -> str:
    """The whole help; options of a `--config-dir` among `words` are listed too."""
    options: dict[str, dict[str, Path]] = {}
    for root in (CONF, *split_config_dirs(argv)[0]):
        # One level, and the nested groups: a folder of one's own may hold anything below.
        for pattern in ("[!_]*", *NESTED_GROUPS, "hydra/launcher"):
            for file in root.glob(f"{pattern}/*.yaml"):
                options.setdefault(file.parent.relative_to(root).as_posix(), {})[file.stem] = file
    source = (CONF / "config.yaml").read_text(encoding="utf-8")
    defaults, _, rest = source.partition("\nseed:")
    chosen = dict(line.strip("- ").split(": ") for line in defaults.splitlines() if ": " in line)
    lines = [_INTRO, "groups (* is the default):"]
    for kind in sorted(options, key=lambda kind: (_ORDER.get(kind, len(_ORDER)), kind)):
        marked = sorted(f"{name}*" if chosen.get(kind) == name else name for name in options[kind])
        lines += wrap("  ".join(marked), 118, initial_indent=f"  {kind:<20} ", subsequent_indent=23 * " ")
    presets = [
        f"  {name:<26} {said}" for name, file in sorted(options["preset"].items()) if (said := _first_sentence(file))
    ]
    settings = ("seed:" + rest.partition("\nhydra:")[0]).strip().splitlines()
    return "\n".join(
        [*lines, "", "presets:", *presets, "", "settings and their defaults:", *(f"  {line}" for line in settings)]
    )


def _first_sentence(file: Path) -> str:
    """What the comment at the top of an option says first."""
    lines = file.read_text(encoding="utf-8").splitlines()
    comment = takewhile(lambda line: line.startswith("# "), (line for line in lines if not line.startswith("# @")))
    return " ".join(line.removeprefix("# ") for line in comment).partition(". ")[0].rstrip(".")
