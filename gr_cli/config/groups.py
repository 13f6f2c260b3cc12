"""The groups of options in conf/, each in one row: whatever goes through groups reads this table."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

OUTPUTS = Path("outputs")
CONF = Path(str(files("gr_cli.conf")))  # the folder of the shipped options


@dataclass(frozen=True)
class ConfigGroup:
    """A folder of conf/, of which a run takes one option.

    name: its folder, and its name on the command line.
    provides: arguments that its components get by these names if they ask for them; such a setting may stay null.
    describes_component: whether an option has a node of its own in the configuration, with a `_target_`.
    names_run: whether its option is part of a run's title, tags and folder.
    is_parent_folder: whether that part is a folder of its own, which holds those of all methods.
    identifies: whether it decides what a run computes.
    stacks: whether runs trained as one program may differ in those of its settings that are marked `PerReplica`.
    """

    name: str
    provides: tuple[str, ...] = ()
    describes_component: bool = True
    in_run_name: bool = False
    is_parent_folder: bool = False
    affects_result: bool = True
    stackable: bool = False


CONFIG_GROUPS = (
    ConfigGroup("strategy", provides=("generator",), in_run_name=True, stackable=True),
    ConfigGroup(
        "generator",
        provides=(
            "spec",
            "num_classes",
            "feature_size",
            "hidden_dims",
            "num_tasks",
        ),
        in_run_name=True,
        stackable=True,
    ),
    ConfigGroup(
        "benchmark",
        provides=("seed", "data_root", "download", "cache_root", "device"),
        in_run_name=True,
        is_parent_folder=True,
    ),
    ConfigGroup("model", provides=("input_size", "output_size", "image_shape", "moments"), stackable=True),
    ConfigGroup("optimizer"),
    ConfigGroup("gradient_rule", stackable=True),
    ConfigGroup("tracker", affects_result=False),
    ConfigGroup("preset", describes_component=False),
    ConfigGroup("benchmark/features", describes_component=False),
    ConfigGroup("generator/optimizer", describes_component=False),
    ConfigGroup("generator/gradient_rule", describes_component=False),
    ConfigGroup("strategy/regularizer", describes_component=False),
)

GROUPS = tuple(group.name for group in CONFIG_GROUPS)
NESTED_GROUPS = tuple(name for name in GROUPS if "/" in name)
# Of the groups with a node of their own: what `build` provides by name.
PROVIDED_ARGUMENTS = {group.name: group.provides for group in CONFIG_GROUPS if group.describes_component}
NAME_GROUPS = tuple(group.name for group in CONFIG_GROUPS if group.in_run_name)
PARENT_FOLDER_GROUPS = tuple(group.name for group in CONFIG_GROUPS if group.is_parent_folder)
METHOD_GROUPS = tuple(name for name in NAME_GROUPS if name not in PARENT_FOLDER_GROUPS)
STACKABLE_GROUPS = tuple(group.name for group in CONFIG_GROUPS if group.stackable)
RESULT_NEUTRAL_GROUPS = tuple(group.name for group in CONFIG_GROUPS if not group.affects_result)
