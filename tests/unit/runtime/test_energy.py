"""Energy counters, in directories as the kernel has them."""

from __future__ import annotations

from pathlib import Path

from bagpipe_hpc.runtime.energy import EnergyMeter, WrappingCounter, rapl_counters


def domain(root: Path, directory: str, name: str, microjoules: int, limit: int = 1000) -> Path:
    """A domain of RAPL."""
    path = root / directory
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{limit}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    return path / "energy_uj"


def test_a_counter_that_begins_again() -> None:
    values = iter([900, 950, 50, 40])
    counter = WrappingCounter(lambda: next(values), 1000)
    totals = []
    for _ in range(3):
        counter.update()
        totals.append(counter.total)
    assert totals == [50, 150, 1140]


def test_packages_and_memory_count_once(tmp_path: Path) -> None:
    domain(tmp_path, "intel-rapl:0", "package-0", 1)
    domain(tmp_path, "intel-rapl:0:0", "core", 2)
    domain(tmp_path, "intel-rapl:0:1", "dram", 3)
    domain(tmp_path, "intel-rapl:1", "psys", 4)
    domain(tmp_path, "intel-rapl-mmio:0", "package-0", 5)
    (tmp_path / "intel-rapl:2").mkdir()  # its files are hidden
    assert len(rapl_counters(tmp_path)) == 2


def test_a_meter_reads_node_and_gpu(tmp_path: Path) -> None:
    package, gpu = domain(tmp_path, "intel-rapl:0", "package-0", 10**6, 10**7), iter([5.0, 7.5])
    meter = EnergyMeter(("GPU-1", lambda: next(gpu)), tmp_path)
    package.write_text("3500000")
    reading = meter.reading()
    assert (reading["node"], reading["gpus"]) == (2.5, {"GPU-1": 2.5})
    package.unlink()  # it cannot be read any more
    meter._gpu = None
    assert meter.reading()["node"] is None
    meter.close()


def test_without_counters_nothing_is_known(tmp_path: Path) -> None:
    reading = EnergyMeter(root=tmp_path / "none").reading()
    assert (reading["node"], reading["gpus"]) == (None, {})
