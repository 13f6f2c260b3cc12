"""The house keeps its walls: who may import whom, and where a default lives."""

import ast
import inspect
from pathlib import Path

import pytest
import yaml

import gr_cli
from gr_cli.config.groups import NESTED as NESTED_GROUPS
from gr_cli.config.instantiate import resolve
from gr_cli.config.settings import PROVIDED

PACKAGE = Path(gr_cli.__file__).parent
CONF = PACKAGE.parent / "conf"
OPTIONS = sorted(path for group in PROVIDED for path in (CONF / group).glob("*.yaml"))
NESTED = sorted(path for group in NESTED_GROUPS for path in (CONF / group).glob("*.yaml"))
# What inherits from another option says only in what it differs: it has no defaults of a class to agree with.
BASES = [path for path in [*OPTIONS, *NESTED] if "_target_" in (yaml.safe_load(path.read_text()) or {})]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def users_of(library: str) -> set[str]:
    return {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(name == library or name.startswith(f"{library}.") for name in imports(path))
    }


def test_only_the_door_knows_hydra():
    door = {f"cli/{name}.py" for name in ("main", "compose", "hydra_errors", "sweep", "overrides")}
    door |= {f"cli/launchers/{name}.py" for name in ("register", "batched", "sweeper")}
    assert users_of("hydra") <= door
    assert users_of("omegaconf") <= door | {"config/schema.py"}


def test_only_the_terminal_knows_rich():
    assert all(path.startswith("terminal/") for path in users_of("rich"))


def test_only_figures_know_matplotlib_and_nothing_pandas():
    assert users_of("matplotlib") == {"results/drawing.py"}
    decoding = {f"benchmarks/sources/image_{part}.py" for part in ("decoding", "folder")}
    assert users_of("PIL") == decoding | {"evaluation/audit_images.py", "report/charts.py"}
    assert users_of("pandas") == set()


def test_a_report_reads_folders_without_what_trains():
    """It looks at a thousand runs in the time that torch takes to be imported."""
    for path in (PACKAGE / "report").glob("*.py"):
        ours = {name for name in imports(path) if name.startswith("gr_cli.")}
        allowed = {"cli", "errors", "report", "results", "config", "system", "terminal"}
        assert {name.split(".")[1] for name in ours} <= allowed, path
    assert not {path for path in users_of("torch") if path.startswith("report")}


def test_kinds_of_components_do_not_import_each_other():
    kinds = ("models", "generators", "strategies", "benchmarks")
    for kind in kinds:
        for path in (PACKAGE / kind).rglob("*.py"):
            for other in set(kinds) - {kind}:
                reached = {name for name in imports(path) if name.startswith(f"gr_cli.{other}")}
                assert reached <= {"gr_cli.generators.base"}, f"{path} imports {reached}"


def test_components_know_no_configuration():
    for kind in ("models", "generators", "strategies", "benchmarks"):
        for path in (PACKAGE / kind).rglob("*.py"):
            assert not {"gr_cli.config.settings", "gr_cli.config.schema", "gr_cli.config.instantiate"} & imports(path)


def test_nothing_asks_for_the_scenario_but_the_scenario():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "scenario.py":
            assert "kind ==" not in path.read_text().replace("noise.kind ==", "").replace('kind == "normal"', ""), path


@pytest.mark.parametrize("path", BASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_defaults_in_yaml_are_those_of_the_signature(path):
    """Defaults live once: what the YAML says, the Python API must say too, where it says anything."""
    node = yaml.safe_load(path.read_text())
    groups = {name for part in node.pop("defaults", []) if isinstance(part, dict) for name in part}
    parameters = inspect.signature(resolve(node.pop("_target_"), "")).parameters
    for name, value in node.items():
        default = parameters[name].default
        if default is not inspect.Parameter.empty and value is not None and not isinstance(value, dict):
            assert value == (list(default) if isinstance(default, tuple) else default), name
    if path.parent.name != "benchmark":
        missing = set(parameters) - set(node) - groups - set(PROVIDED.get(path.relative_to(CONF).parts[0], ()))
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
        [f"strategy={strategy}"] if strategy and not preset.startswith(("dgr", "best")) else []
    )
    with initialize_config_module("gr_cli.conf", version_base="1.3"):
        others = OPTIONS if preset == "none" and strategy is None else []
        for option in [[], *([f"{path.parent.name}={path.stem}"] for path in others)]:
            config = OmegaConf.to_container(compose("config", overrides=[*words, *option]), resolve=True)
            Settings.checked(config, {}, words)


def test_importing_has_no_effects(tmp_path):
    import subprocess
    import sys

    script = (
        "import torch; state, threads = torch.get_rng_state(), torch.get_num_threads()\n"
        "import gr_cli.cli.main, gr_cli.runner.run, gr_cli.training.trainer, gr_cli.terminal.run_view\n"
        "import gr_cli.results.figures, gr_cli.evaluation.audit\n"
        "assert torch.equal(state, torch.get_rng_state()) and threads == torch.get_num_threads()"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_public_thing_says_what_it_is():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"
