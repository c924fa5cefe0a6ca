# SPDX-License-Identifier: Apache-2.0
"""What the documents name exists."""

import dataclasses
import re
from pathlib import Path

import pytest

from hygen_vllm.cli import build_parser
from hygen_vllm.config import HyGenConfig
from hygen_vllm.simulator.policies import NAMES

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "DESIGN.md", "CHANGELOG.md", "patches/README.md", "experiments/README.md"]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_named_in_a_document_exist(name: str) -> None:
    """A path in backticks is a path from the root, the package, or the document's folder."""
    for path in re.findall(r"`([\w./-]+(?:\.py|\.md|\.patch|/))`", text_of(name)):
        if path.startswith("v1/") or "..." in path:  # vLLM's
            continue
        places = [ROOT, ROOT / "hygen_vllm", (ROOT / name).parent, ROOT / "patches/vllm-0.32.0"]
        assert any((place / path).exists() for place in places), path


def test_make_targets_named_in_the_readme_exist() -> None:
    """`make X` works."""
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), flags=re.MULTILINE))
    named = set(re.findall(r"(?:^    |`)make ([a-z-]+)", text_of("README.md"), re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= targets


def test_first_two_commands_of_the_readme_are_demo_and_test() -> None:
    """Nothing is installed by hand before them."""
    commands = re.findall(r"^    (make .*?|pip .*?)(?:  .*)?$", text_of("README.md"), re.MULTILINE)
    assert commands[:2] == ["make demo", "make test"]


def test_settings_in_the_readme_are_those_of_the_configuration() -> None:
    """The table has one row for each field, with its default, and no other."""
    section = text_of("README.md").split("\n## Settings\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", section, flags=re.MULTILINE)
    assert [name for name, _ in rows] == [field.name for field in dataclasses.fields(HyGenConfig)]
    for name, default in rows:
        if re.fullmatch(r"[\d.]+", default):
            assert float(default) == getattr(HyGenConfig, name)


def test_names_of_the_package_in_the_readme_resolve() -> None:
    """`hygen_vllm.X` is something."""
    import hygen_vllm

    names = set(re.findall(r"\bhygen_vllm\.([A-Z]\w+)", text_of("README.md")))
    assert names <= set(hygen_vllm.__all__)


def test_policies_in_the_readme_are_those_that_can_be_simulated() -> None:
    """The table names each of them once, and no other."""
    section = text_of("README.md").split("\n## Try a policy")[1].split("\n## ")[0]
    cells = "".join(re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE))
    assert sorted(NAMES) == sorted(re.findall(r"`([\w-]+)`", cells))


def test_simulations_in_the_readme_can_be_parsed() -> None:
    """Every flag is one of the command's."""
    text = text_of("README.md").replace("\\\n", " ")
    commands = re.findall(r"^ +hygen (simulate .*)$", text, flags=re.MULTILINE)
    assert commands
    for command in commands:
        build_parser().parse_args(command.split())


def test_demo_flags_in_the_readme_exist() -> None:
    """Flags in DEMO_ARGS are flags of `hygen demo`."""
    for arguments in re.findall(r'DEMO_ARGS="(.*?)"', text_of("README.md")):
        build_parser().parse_args(["demo", *arguments.split()])
