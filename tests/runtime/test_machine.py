"""What a machine says of itself. If these fail, a build starts that its memory or its GPU cannot end."""

from pathlib import Path

from safegen.machine import available_memory, jetpack


def test_facts_of_a_jetson(tmp_path: Path) -> None:
    release = tmp_path / "nv_tegra_release"
    assert jetpack(release) is None
    release.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n")
    assert jetpack(release) == "L4T 36.4.3"
    release.write_text("what is this")
    assert jetpack(release) == "unknown"


def test_free_memory_is_read_in_bytes(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       100 kB\nMemAvailable:    42 kB\n")
    assert available_memory(meminfo) == 42 * 1024
    assert available_memory(tmp_path / "none") is None
