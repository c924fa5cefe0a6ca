# SPDX-License-Identifier: Apache-2.0
"""The stand-in metadata repairs `vllm serve` on the CPU build and never shadows a real vLLM."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

TOOL = Path(__file__).resolve().parents[3] / "tools" / "install_vllm_metadata.py"


def run_tool(target: Path, version: str) -> subprocess.CompletedProcess[str]:
    """Run the tool in an interpreter that sees no installed packages but those in target."""
    command = [sys.executable, "-S", str(TOOL), version, "--target", str(target)]
    environment = {"PYTHONPATH": str(target)}
    return subprocess.run(command, check=False, env=environment, capture_output=True, text=True)


def test_metadata_names_vllm_with_the_version(tmp_path: Path) -> None:
    """Afterwards importlib.metadata finds vllm of that version, without files."""
    assert run_tool(tmp_path, "0.32.0+cpu").returncode == 0
    (dist,) = metadata.distributions(name="vllm", path=[str(tmp_path)])
    assert dist.version == "0.32.0+cpu"
    assert dist.files is None


def test_another_version_replaces_the_first(tmp_path: Path) -> None:
    """The folder never holds two versions."""
    for version in ("0.31.0+cpu", "0.32.0+cpu"):
        assert run_tool(tmp_path, version).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["vllm-0.32.0+cpu.dist-info"]


def test_real_vllm_stays_untouched(tmp_path: Path) -> None:
    """A distribution vllm with files is somebody's vLLM: the tool refuses and changes nothing."""
    real = tmp_path / "vllm-0.32.0.dist-info"
    real.mkdir()
    (real / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")
    (real / "RECORD").write_text("vllm/__init__.py,,\n")
    run = run_tool(tmp_path, "0.32.0+cpu")
    assert run.returncode == 1
    assert "vllm 0.32.0 is installed" in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["vllm-0.32.0.dist-info"]


def test_version_without_cpu_is_refused(tmp_path: Path) -> None:
    """vLLM would not find its platform: the error shows the version to use."""
    run = run_tool(tmp_path, "0.32.0")
    assert run.returncode == 2
    assert "use 0.32.0+cpu" in run.stderr
    assert not list(tmp_path.iterdir())
