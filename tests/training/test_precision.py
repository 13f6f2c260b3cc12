"""The precision of a run follows from the processor and is kept when the run resumes."""

import platform
from pathlib import Path

import pytest
import torch
import yaml

from gr_cli.cli.compose import compose_settings
from gr_cli.errors import ConfigError, FolderError
from gr_cli.results.folder import RunFolder
from gr_cli.results.stored_config import stored_settings
from gr_cli.runner import checkpoints
from gr_cli.system import devices
from gr_cli.training.experiment import prepare

CPU = torch.device("cpu")
SMALL = ["train.iterations=4", "threads=1", "evaluate.generated_samples=0", "strategy=finetune"]


@pytest.fixture
def processor(monkeypatch):
    """A processor with arithmetic in bfloat16, or without."""

    def of(has: bool) -> None:
        devices.warn_if_bfloat16_is_emulated.cache_clear()
        monkeypatch.setattr(devices, "supports_bfloat16", lambda device: has)

    yield of
    devices.warn_if_bfloat16_is_emulated.cache_clear()


@pytest.mark.parametrize(("has", "expected"), [(True, "bf16"), (False, "float32")])
def test_auto_precision_follows_the_processor(processor, tmp_path, has, expected):
    processor(has)
    auto, named = compose_settings(["precision=auto"]), compose_settings([f"precision={expected}"])
    assert auto.config["precision"] == expected
    assert auto.identity == named.identity and auto.folder(tmp_path) == named.folder(tmp_path)
    assert f"precision={expected}" in auto.folder(tmp_path).name
    assert yaml.safe_load(auto.as_yaml())["precision"] == expected
    other = compose_settings([f"precision={'float32' if has else 'bf16'}"])
    assert auto.identity != other.identity
    # An explicit precision is used on any processor.
    assert [compose_settings([f"precision={p}"]).config["precision"] for p in ("bf16", "float64")] == [
        "bf16",
        "float64",
    ]
    assert compose_settings([]).config["precision"] == "float32"


def test_resumed_run_keeps_its_precision_with_a_warning(processor, gr_run, interrupted):
    processor(True)
    interrupted("precision=auto", *SMALL)
    (folder,) = [path.parent for path in Path("outputs").rglob("config.yaml")]
    processor(False)
    code, _, err = gr_run(f"resume={folder}")
    assert code == 0
    assert [line for line in err.splitlines() if "precision" in line] == [
        "gr-run: precision=bf16: is emulated on this processor, and slow; precision=auto picks float32"
    ]
    assert stored_settings(folder).config["precision"] == "bf16"
    # With auto, the same command is another run on this processor, in another folder.
    assert compose_settings(["precision=auto", *SMALL]).folder(Path("outputs")) != folder
    # A checkpoint of another precision is refused.
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"precision": "float32"}))
    experiment = prepare(stored_settings(folder))
    with pytest.raises(FolderError, match="precision is bf16 there, float32 here"):
        checkpoints.resumable_states(experiment, RunFolder(folder))


def test_slow_precision_warns_once_per_process(processor, capsys):
    processor(False)
    for _ in range(3):
        devices.warn_if_bfloat16_is_emulated(CPU)
    assert capsys.readouterr().err.count("precision=bf16") == 1
    processor(True)
    devices.warn_if_bfloat16_is_emulated(CPU)
    assert capsys.readouterr().err == ""


def test_missing_device_has_no_precision(processor):
    with pytest.raises(ConfigError, match="usable GPUs"):
        compose_settings(["precision=auto", "device=cuda:99"])


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="features of x86")
@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "capability", "held", "expected"),
    [
        (True, False, "AVX512", {}, True),
        (True, True, "AVX512", {}, True),
        (False, True, "AVX512", {}, True),
        (False, False, "AVX512", {}, False),
        (False, False, "AVX2", {}, False),
        (True, False, "AVX2", {}, False),  # ATEN_CPU_CAPABILITY=avx2
        (True, False, "DEFAULT", {}, False),
        (True, False, "AVX512", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, False),
        (True, False, "AVX512", {"ONEDNN_MAX_CPU_ISA": "avx512_core"}, False),
        (True, False, "AVX512", {"DNNL_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, False),
        (True, False, "AVX512", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, True),
        (True, False, "AVX512", {"ONEDNN_MAX_CPU_ISA": "DEFAULT"}, True),
    ],
)
def test_processor_features_decide_bfloat16_support(monkeypatch, avx512_bf16, amx, capability, held, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in held.items():
        monkeypatch.setenv(name, value)
    assert devices.supports_bfloat16(CPU) is expected
    assert devices.fastest_precision("cpu") == ("bf16" if expected else "float32")
