"""The config groups in conf/, one row each. Everything that goes through the groups reads this table."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

CONF = Path(str(files("gr_cli.conf")))  # the folder of the shipped options


@dataclass(frozen=True)
class ConfigGroup:
    """A folder of conf/. A run has at most one option of it.

    Attributes:
        name: The folder, and the name on the command line.
        meaning: What its options are, for help and reference.
        provides: Arguments that the program passes to components that accept them; such a setting may be null.
        describes_component: Whether its options are nodes of their own in the configuration, with a `_target_`.
        in_run_name: Whether the option is part of a run's title, tags and folder.
        is_parent_folder: Whether that part is a parent folder, which contains those of all methods.
        affects_result: Whether the option changes the result of a run.
        stackable: Whether runs trained as one program may differ in settings marked `VariesPerReplica`.
    """

    name: str
    meaning: str
    provides: tuple[str, ...] = ()
    describes_component: bool = True
    in_run_name: bool = False
    is_parent_folder: bool = False
    affects_result: bool = True
    stackable: bool = False


CONFIG_GROUPS = (
    ConfigGroup(
        "strategy",
        "How forgetting of earlier tasks is prevented.",
        provides=("generator",),
        in_run_name=True,
        stackable=True,
    ),
    ConfigGroup(
        "generator",
        "The generative model that replayed samples are drawn from.",
        provides=("spec", "num_classes", "class_size", "feature_size", "hidden_dims", "num_tasks", "privacy", "live"),
        in_run_name=True,
        stackable=True,
    ),
    ConfigGroup(
        "benchmark",
        "The data set, and how it is split into a stream of tasks.",
        provides=("seed", "data_root", "download", "cache_root", "storage", "device", "live"),
        in_run_name=True,
        is_parent_folder=True,
    ),
    ConfigGroup(
        "model",
        "The solver: the network that is trained on the tasks.",
        provides=("input_size", "output_size", "input_shape", "moments", "live"),
        stackable=True,
    ),
    ConfigGroup("optimizer", "The optimiser of the solver, and of a generator without an optimiser of its own."),
    ConfigGroup(
        "gradient_rule",
        "What is done to the gradient of a loss before the optimiser's step.",
        provides=("privacy", "steps", "batch_size"),
        stackable=True,
    ),
    ConfigGroup("tracker", "A tracker of experiments that losses and metrics are logged to.", affects_result=False),
    ConfigGroup("preset", "The settings of a paper, or the best found for a benchmark.", describes_component=False),
    ConfigGroup(
        "benchmark/features", "A frozen feature extractor for the benchmark's images.", describes_component=False
    ),
    ConfigGroup("generator/optimizer", "The generator's own optimiser; null: the solver's.", describes_component=False),
    ConfigGroup(
        "generator/gradient_rule", "The generator's own gradient rule; null: the solver's.", describes_component=False
    ),
    ConfigGroup(
        "strategy/regularizer",
        "A penalty on changes of parameters that are important for earlier tasks.",
        describes_component=False,
    ),
)

GROUPS = tuple(group.name for group in CONFIG_GROUPS)
NESTED_GROUPS = tuple(name for name in GROUPS if "/" in name)
# Arguments that the program passes, by group, for the groups whose options describe a component.
PROVIDED_ARGUMENTS = {group.name: group.provides for group in CONFIG_GROUPS if group.describes_component}
NAME_GROUPS = tuple(group.name for group in CONFIG_GROUPS if group.in_run_name)
PARENT_FOLDER_GROUPS = tuple(group.name for group in CONFIG_GROUPS if group.is_parent_folder)
METHOD_GROUPS = tuple(name for name in NAME_GROUPS if name not in PARENT_FOLDER_GROUPS)
STACKABLE_GROUPS = tuple(group.name for group in CONFIG_GROUPS if group.stackable)
# Components that stand for an object passed from Python, by the dotted name of their settings.
LIVE_TARGETS = {
    "model": "gr_cli.training.live_networks.live_model",
    "generator": "gr_cli.training.live_networks.live_generator",
    "benchmark": "gr_cli.benchmarks.live_data.live_benchmark",
    "benchmark.source": "gr_cli.benchmarks.live_data.live_tensors",
}
RESULT_NEUTRAL_GROUPS = tuple(group.name for group in CONFIG_GROUPS if not group.affects_result)
