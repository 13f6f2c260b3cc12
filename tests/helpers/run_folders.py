"""Synthetic run folders for tests of reports: the files of a run with made-up numbers."""

import copy
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from gr_cli.config.settings import Settings, result_relevant, short_hash
from gr_cli.evaluation.measures.sample_quality import SampleQuality
from gr_cli.results.accuracy import ACCURACY, accuracy_row
from gr_cli.results.folder import RunFolder
from gr_cli.results.record import Record
from gr_cli.results.stored_config import read_config
from gr_cli.results.tables import TableFormat, TableRow

TASKS = 3
AUDIT_HEADER = "after_task,task,part,attack,metric,value,low,high,n"
SAMPLE_QUALITY = TableFormat(SampleQuality.name, SampleQuality.description, SampleQuality.columns)
CONFIG: dict[str, Any] = {
    "benchmark": {"_target_": "gr_cli.benchmarks.split", "classes_per_task": 2},
    "model": {"_target_": "gr_cli.models.SimpleMLP", "hidden_sizes": [256, 128]},
    "generator": None,
    "strategy": {"_target_": "gr_cli.strategies.Finetune"},
    "optimizer": {"_target_": "gr_cli.optimizers.Adam", "lr": 0.001, "betas": [0.9, 0.999]},
    "gradient_rule": {"_target_": "gr_cli.nn.gradient_rules.GradientRule"},
    "seed": 0,
    "scenario": "class",
    "train": {"iterations": 20, "epochs": None, "batch_size": 32, "active_classes": "seen"},
    "augment": {"noise": 0.0, "shift": 0},
    "log": {"every": 10},
    "evaluate": {"every": None},
    "checkpoint": {"every_seconds": 60},
    "device": "auto",
    "threads": None,
    "precision": "float32",
    "data_root": "/elsewhere",
    "cache_root": "/elsewhere",
    "download": True,
    "fresh": False,
}
REPLAY = {"_target_": "gr_cli.strategies.GenerativeReplay", "replay_weight": 1.0, "batch_size": 32}
CHOICES = {"benchmark": "split_digits", "model": "mlp", "strategy": "finetune", "optimizer": "adam", "preset": "none"}


def changed(config: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """`config` with settings changed by dotted name, dots written as two underscores."""
    config = copy.deepcopy(config)
    for name, value in settings.items():
        *path, last = name.split("__")
        node = config
        for part in path:
            node = node[part]
        node[last] = value
    return config


def write_run(
    root: Path,
    seed: int = 0,
    strategy: str = "finetune",
    state: str = "finished",
    accuracy: float | None = None,
    overrides: tuple[str, ...] = (),
    name: str = "",
    status: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """Write a run folder below `root`, with random results, or with `accuracy` on every task at the end."""
    nodes = {"finetune": None, "joint": None, "generative_replay": REPLAY}
    config = changed(CONFIG, seed=seed)
    config["strategy"] = nodes[strategy] or {"_target_": f"gr_cli.strategies.{strategy.title()}"}
    choices = CHOICES | {"strategy": strategy}
    if nodes[strategy]:
        config["generator"] = {"_target_": "gr_cli.generators.VAE", "latent_dim": 32}
        choices["generator"] = "vae"
    mine = Settings(changed(config, **settings), choices, (*overrides, f"seed={seed}", f"strategy={strategy}"))
    folder = RunFolder(root / (name or mine.folder(Path()).name + f"-{strategy}"))
    folder.figures.mkdir(parents=True)
    folder.write_config(mine.as_yaml())
    record = record_of(f"{seed} {mine.identity}", accuracy)
    if nodes[strategy]:
        record.add_rows(SAMPLE_QUALITY, sample_quality_rows(f"{seed} {mine.identity}", seed))
    metrics = record.metrics(False, {"solver": 50})
    if state == "finished":
        folder.write_tables(record, metrics)
    facts = {"updated": "2026-01-01T00:00:00+00:00", "seed": seed, "overrides": list(mine.overrides), "host": "nowhere"}
    facts |= {"choices": choices, "command": " ".join(["gr-run", *mine.overrides]), "versions": {"torch": "2.9"}}
    folder.write_status({"state": state, "reason": None, **facts, **(status or {})})
    return folder.path


def record_of(name: str, accuracy: float | None) -> Record:
    draw, record = random.Random(name), Record()
    for after in range(-1, TASKS):
        for task in range(TASKS):
            value = draw.random() if accuracy is None or after < TASKS - 1 else accuracy
            record.add_rows(ACCURACY, [accuracy_row(after, 20 * (after >= 0), task, "test", value, 0.5, 70, True)])
        if after >= 0:
            losses = [{"current": draw.random(), "total": draw.random()} for _ in range(2)]
            record.history += [{"task": after, "iteration": 10 * i, **row} for i, row in enumerate(losses, 1)]
            record.timing.append(
                {
                    "task": after,
                    "solver_seconds": draw.random(),
                    "evaluation_seconds": 0.1,
                    "peak_memory_mib": 500.0 + after,
                }
            )
    return record


def sample_quality_rows(name: str, seed: int) -> list[TableRow]:
    """Rows of sample quality. Task 0 has one class; in seed 1 none of its samples is generated at the end."""
    draw, rows = random.Random(name), []
    for after in range(TASKS):
        for task in (*range(after + 1), "all"):
            values: list[float | None] = [draw.random() for _ in range(8)]
            values[1] = 2 * draw.random()  # share
            if task == 0:
                values[2] = None
                if seed == 1 and after == TASKS - 1:
                    values = [None, 0.0, None, None, None, None, 0.0, None]
            names = [column.name for column in SAMPLE_QUALITY.columns]
            rows.append(dict(zip(names, (after, task, 100, 70, 0.97, *values), strict=True)))
    return rows


def auc(seed: int, after: int, task: int | str) -> float:
    """A made-up area under the curve of the attack on the solver."""
    return 0.5 + 0.1 * seed + 0.01 * after + (0 if isinstance(task, str) else 0.001 * (task + 1))


def write_audit(
    run: Path,
    seed: int = 0,
    name: str = "0a1b2c3d",
    overrides: Sequence[str] = (),
    shadows: int = 16,
    rate: str = "",
    identity: str | None = None,
    generator: bool = True,
) -> Path:
    """Write an audit of a run: the solver after each task; after the last one the generator, too."""
    lines = [AUDIT_HEADER]
    for after in range(TASKS):
        for task in (*range(after + 1), "all"):
            for attack, more in (("likelihood_ratio", 0.0), ("threshold", 0.3)):
                lines.append(f"{after},{task},solver,{attack},auc,{auc(seed, after, task) + more:.6f},,,80")
                lines.append(f"{after},{task},solver,{attack},tpr_at_fpr_0.01,{rate},,,80")
            if generator and after == TASKS - 1:
                lines.append(f"{after},{task},generator,likelihood_ratio,auc,0.75,0.7,0.8,80")
    folder = run / "audit" / name
    folder.mkdir(parents=True)
    (folder / "membership.csv").write_text("\n".join(lines) + "\n")
    identity = identity or short_hash(result_relevant(read_config(run)[0]))
    described = {"config_hash": identity, "seed": seed, "overrides": list(overrides), "draws": list(range(shadows))}
    (folder / "audit.json").write_text(json.dumps(described))
    return folder


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())
