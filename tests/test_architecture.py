"""Architecture: layers of imports, third-party libraries, defaults, docstrings."""

import ast
import inspect
from pathlib import Path

import pytest
import yaml

import gr_cli
from gr_cli.config.groups import NESTED_GROUPS as NESTED_GROUPS
from gr_cli.config.groups import PROVIDED_ARGUMENTS
from gr_cli.config.instantiate import import_target

PACKAGE = Path(gr_cli.__file__).parent
CONF = PACKAGE.parent / "conf"
OPTIONS = sorted(path for group in PROVIDED_ARGUMENTS for path in (CONF / group).glob("*.yaml"))
NESTED = sorted(path for group in NESTED_GROUPS for path in (CONF / group).glob("*.yaml"))
# Options that inherit from another one only list differences, which need not equal the defaults.
BASES = [path for path in [*OPTIONS, *NESTED] if "_target_" in (yaml.safe_load(path.read_text()) or {})]


# Packages and modules of gr_cli by layer; each imports from itself and from layers below.
LAYERS = (
    ("python",),
    ("audit",),
    ("cli", "report"),
    ("runner", "terminal"),
    ("evaluation", "trackers"),
    ("training",),
    ("strategies",),
    ("benchmarks", "generators", "models"),
    ("nn", "results"),
    ("privacy",),
    ("config",),
    ("system", "scenario", "optimizers"),
    ("errors", "types", "_version"),
)
LAYER_OF = {name: row for row, names in enumerate(LAYERS) for name in names}
# Third-party libraries and the path prefixes of the modules that may import them, lazily or not.
CONFINED = {
    "hydra": ("cli/",),
    "omegaconf": ("cli/", "config/schema.py"),
    "rich": ("terminal/",),
    "matplotlib": ("results/matplotlib_",),
    "jinja2": ("report/page.py",),
    "PIL": ("benchmarks/sources/image_", "evaluation/audit_images.py", "report/page_pictures.py", "results/canvas.py"),
    "fcntl": ("system/locks.py", "system/signals.py"),
    "filelock": ("system/locks.py",),
    "pydantic": ("config/arguments.py",),
    "pandas": ("results/frames.py", "benchmarks/sources/table"),
    "vl_convert": ("report/page.py",),
    "optuna": ("cli/sweepers/",),
    "dp_accounting": ("privacy/accounting.py",),
}
WITHOUT_TORCH = ("cli/", "config/", "report/", "terminal/")


def imported(path: Path) -> set[str]:
    """The modules that a file imports anywhere, lazy and type-only imports included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


IMPORTS = {path.relative_to(PACKAGE).as_posix(): imported(path) for path in sorted(PACKAGE.rglob("*.py"))}


@pytest.mark.parametrize("path", [path for path in IMPORTS if not path.startswith("__")])
def test_imports_follow_the_layers(path):
    """A file imports from its own package and lower layers; strategies use only the generators' base class."""
    own = path.partition("/")[0].removesuffix(".py")
    for name in IMPORTS[path]:
        first, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if first == "gr_cli" and other != own:
            assert LAYER_OF.get(other, -1) > LAYER_OF[own], f"gr_cli/{path} imports {name}"
            if own == "strategies" and other == "generators":
                assert name.startswith("gr_cli.generators.base."), f"gr_cli/{path} imports {name}"


@pytest.mark.parametrize("library", CONFINED)
def test_third_party_libraries_are_confined(library):
    users = [path for path, names in IMPORTS.items() if any(name.partition(".")[0] == library for name in names)]
    assert not [path for path in users if not path.startswith(CONFINED[library])]


def test_help_and_reports_do_not_import_torch():
    """Help and reports start fast, without importing torch."""
    for path, names in IMPORTS.items():
        if path.startswith(WITHOUT_TORCH) and not path.startswith("cli/launchers/"):
            assert not [name for name in names if name.partition(".")[0] == "torch"], path


def test_components_do_not_import_config():
    for path, names in IMPORTS.items():
        if path.startswith(("models", "generators", "strategies", "benchmarks")):
            ours = {name for name in names if name.startswith("gr_cli.config.")}
            assert ours <= {"gr_cli.config.arguments.validate_arguments"}, path


def test_no_circular_imports():
    """Lazy and type-only imports included."""
    names = {path: "gr_cli." + path.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in IMPORTS}
    known = set(names.values())
    above = {
        name: {other if other in known else other.rpartition(".")[0] for other in IMPORTS[path]} & known - {name}
        for path, name in names.items()
    }
    while free := [name for name, others in above.items() if not others & set(above)]:
        for name in free:
            del above[name]
    assert not above


def test_few_top_level_modules():
    """The list of top-level modules fits on a screen."""
    assert len(list(PACKAGE.glob("*.py"))) <= 12


def test_only_the_scenario_module_depends_on_the_scenario():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "scenario.py":
            assert "kind ==" not in path.read_text().replace("noise.kind ==", "").replace('kind == "normal"', ""), path


@pytest.mark.parametrize("path", BASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_defaults_in_yaml_are_those_of_the_signature(path):
    """Defaults in YAML equal those of the Python API."""
    node = yaml.safe_load(path.read_text())
    groups = {name for part in node.pop("defaults", []) if isinstance(part, dict) for name in part}
    parameters = inspect.signature(import_target(node.pop("_target_"), "")).parameters
    for name, value in node.items():
        default = parameters[name].default
        if default is not inspect.Parameter.empty and value is not None and not isinstance(value, dict):
            assert value == (list(default) if isinstance(default, tuple) else default), name
    if path.parent.name != "benchmark":
        missing = (
            set(parameters) - set(node) - groups - set(PROVIDED_ARGUMENTS.get(path.relative_to(CONF).parts[0], ()))
        )
        assert not missing, f"{path} leaves out {missing}"


@pytest.mark.parametrize("preset", sorted(path.stem for path in (CONF / "preset").glob("*.yaml")))
@pytest.mark.parametrize("strategy", [None, *sorted(path.stem for path in (CONF / "strategy").glob("*.yaml"))])
def test_every_yaml_composes(preset, strategy):
    from hydra import compose, initialize_config_module
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from gr_cli.config.schema import RunConfig
    from gr_cli.config.settings import Settings

    ConfigStore.instance().store("schema", RunConfig)
    GlobalHydra.instance().clear()
    words = [f"preset={preset}"] + (
        [f"strategy={strategy}"] if strategy and not preset.startswith(("dgr", "best", "dp", "replay")) else []
    )
    with initialize_config_module("gr_cli.conf", version_base="1.3"):
        others = OPTIONS if preset == "none" and strategy is None else []
        for option in [[], *([f"{path.parent.name}={path.stem}"] for path in others)]:
            config = OmegaConf.to_container(compose("config", overrides=[*words, *option]), resolve=True)
            Settings.validated(config, {}, words)


def test_importing_has_no_effects(tmp_path):
    import subprocess
    import sys

    script = (
        "import torch; state, threads = torch.get_rng_state(), torch.get_num_threads()\n"
        "import gr_cli.cli.main, gr_cli.runner.run, gr_cli.training.trainer, gr_cli.terminal.run_display\n"
        "import gr_cli.results.figures, gr_cli.evaluation.audit\n"
        "assert torch.equal(state, torch.get_rng_state()) and threads == torch.get_num_threads()"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_public_classes_and_functions_have_docstrings():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


@pytest.mark.parametrize(("group", "noun"), [("strategy", "strategies"), ("generator", "generators")])
def test_the_readme_counts_strategies_and_generators(group, noun):
    root = Path(__file__).parents[1]
    number = len(list((root / "conf" / group).glob("*.yaml")))
    assert f"{number} {noun}" in (root / "README.md").read_text(encoding="utf-8")
