# SPDX-License-Identifier: Apache-2.0
"""Profiles: the cost of a step on one engine, as JSON. Data only, nothing in it runs.

A profile is a folder with `profile.json` (this file), made by `hygen profile` or `hygen fit`; those
that ship are found by name, DEVICE-MODEL for `profiles/DEVICE/MODEL`.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hygen_vllm.config import ConfigError
from hygen_vllm.cost.curve import TokenCurve
from hygen_vllm.cost.engine_info import EngineInfo
from hygen_vllm.cost.step_cost import StepCost
from hygen_vllm.files import one_line_errors, write_text
from hygen_vllm.json_types import Json, JsonView

FORMAT = "hygen-profile"
VERSION = 1
"""Of the file's format."""
SOURCES = ("measured", "modelled", "derived")
FILE_NAME = "profile.json"
_PACKAGE = Path(__file__).parents[1]
SHIPPED = (_PACKAGE / "profiles", _PACKAGE.parent / "profiles")
"""Where an installed package and a checkout keep them."""
REMEDY = "make a new one with: hygen profile --model MODEL [engine flags] --out DIR"


@dataclass(frozen=True)
class Profile:
    """The cost of a step on an engine.

    Args:
        source: "measured" on it, "modelled" from figures published about it, or "derived" from
            those of another model or device.
        fit: figures about how it was made and how well it fits, by name.
    """

    engine: EngineInfo
    source: str
    cost: StepCost
    fit: JsonView = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {self.source!r}")
        if not isinstance(self.fit, Mapping):
            raise TypeError(f"fit must be an object, got {self.fit!r}")

    def check_engine(self, engine: EngineInfo, path: str | Path) -> None:
        """Raise ConfigError, one line, if the profile is for another kind of engine."""
        difference = self.engine.difference(engine)
        if difference is not None:
            raise ConfigError(f"profile {path} is for {difference}; {REMEDY}")


def save_profile(profile: Profile, folder: Path) -> Path:
    """Write a profile into a folder, replacing the one in it; returns the file."""
    cost = profile.cost
    names = [name for name in StepCost.__dataclass_fields__ if name != "curve"]
    document = {
        "format": FORMAT,
        "version": VERSION,
        "source": profile.source,
        "engine": profile.engine.as_mapping(),
        "coefficients": {name: getattr(cost, name) for name in names},
        "curve": {"knees": list(cost.curve.knees), "slopes_s": list(cost.curve.slopes_s)},
        "fit": dict(profile.fit),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    write_text(path, json.dumps(document, indent=2) + "\n")
    return path


def shipped_profiles() -> dict[str, Path]:
    """Return the folders of the profiles that come with the package, by name."""
    root = next((path for path in SHIPPED if path.is_dir()), None)
    files = sorted(root.glob(f"*/*/{FILE_NAME}")) if root else []
    return {f"{file.parent.parent.name}-{file.parent.name}": file.parent for file in files}


def find_profile(name: str | Path) -> Path:
    """Return the file of a profile given by path, folder or name. Raises ConfigError."""
    path = Path(name).expanduser()
    if path.is_dir():
        path /= FILE_NAME
    if path.is_file():
        return path
    shipped = shipped_profiles()
    if str(name) in shipped:
        return shipped[str(name)] / FILE_NAME
    close = difflib.get_close_matches(str(name), shipped, n=1)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    raise ConfigError(
        f"cannot read profile {name}: no such file, nor a profile that ships "
        f"({', '.join(shipped) or 'none'}){hint}"
    )


def load_profile(name: str | Path) -> Profile:
    """Return the profile at a path or of a name. Raises ConfigError, one line, if it is not one."""
    subject = f"profile {name}"
    with one_line_errors(subject, subject, f"{FORMAT} {VERSION}", f"; {REMEDY}"):
        return _parse(json.loads(find_profile(name).read_text(encoding="utf-8")))


def _parse(document: Json) -> Profile:
    if (document["format"], document["version"]) != (FORMAT, VERSION):
        raise ValueError(f"format is {document['format']} {document['version']}")
    curve = document["curve"]
    return Profile(
        engine=EngineInfo.from_mapping(document["engine"]),
        source=document["source"],
        cost=StepCost(
            **document["coefficients"],
            curve=TokenCurve(tuple(curve["knees"]), tuple(curve["slopes_s"])),
        ),
        fit=document["fit"],
    )
