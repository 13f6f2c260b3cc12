"""Energy is the difference of the machine's counters."""

import pytest
import torch

from gr_cli.system.energy import EnergyMeter

CPU = torch.device("cpu")


def package(folder, name, microjoules, limit=1000_000_000, label="package"):
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "name").write_text(f"{label}\n", encoding="ascii")
    (folder / name / "energy_uj").write_text(f"{microjoules}\n", encoding="ascii")
    (folder / name / "max_energy_range_uj").write_text(f"{limit}\n", encoding="ascii")


def test_the_packages_of_the_processor_are_summed(tmp_path):
    package(tmp_path, "intel-rapl:0", 1_000_000)
    package(tmp_path, "intel-rapl:1", 5_000_000)
    package(tmp_path, "intel-rapl:0:0", 0)  # cores, a part of package 0
    meter = EnergyMeter(CPU, tmp_path)
    package(tmp_path, "intel-rapl:0", 4_000_000)
    package(tmp_path, "intel-rapl:1", 7_500_000)
    package(tmp_path, "intel-rapl:0:0", 2_000_000)
    assert meter.read() == {"cpu_energy_joules": pytest.approx(5.5)}
    assert meter.read() == {"cpu_energy_joules": 0}


def test_the_counter_of_the_platform_contains_that_of_the_package(tmp_path):
    package(tmp_path, "intel-rapl:0", 0, label="package-0")
    package(tmp_path, "intel-rapl:1", 0, label="psys")
    meter = EnergyMeter(CPU, tmp_path)
    package(tmp_path, "intel-rapl:0", 2_000_000, label="package-0")
    package(tmp_path, "intel-rapl:1", 9_000_000, label="psys")
    assert meter.read() == {"cpu_energy_joules": pytest.approx(2)}


def test_a_counter_that_started_again(tmp_path):
    package(tmp_path, "intel-rapl:0", 9_000_000, limit=10_000_000)
    meter = EnergyMeter(CPU, tmp_path)
    package(tmp_path, "intel-rapl:0", 500_000, limit=10_000_000)
    assert meter.read()["cpu_energy_joules"] == pytest.approx(1.5)


def test_counters_that_may_not_be_read_give_no_column(tmp_path):
    (tmp_path / "intel-rapl:0").mkdir()
    assert EnergyMeter(CPU, tmp_path).read() == {}
    assert EnergyMeter(CPU, tmp_path / "none").read() == {}
