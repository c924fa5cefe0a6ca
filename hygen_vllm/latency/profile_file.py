# SPDX-License-Identifier: Apache-2.0
"""Reads and writes the coefficients of a StepCost as JSON: data only, nothing in it runs."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from hygen_vllm.config import ConfigError
from hygen_vllm.latency.step_cost import StepCost

FORMAT = "hygen-step-cost"
VERSION = 1


def save_cost(cost: StepCost, path: Path) -> None:
    """Write a cost to a file, replacing it."""
    values = {each.name: getattr(cost, each.name) for each in fields(cost) if each.init}
    document = {"format": FORMAT, "version": VERSION, "coefficients": values}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def load_cost(path: str | Path) -> StepCost:
    """Return the cost in a file. Raises ConfigError, one line, if it is not one."""
    try:
        return _parse(json.loads(Path(path).expanduser().read_text(encoding="utf-8")))
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot read profile {path}: {reason}") from None
    except KeyError as error:
        raise ConfigError(f"profile {path} is not a {FORMAT} {VERSION} file: no {error}") from None
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"profile {path} is not a {FORMAT} {VERSION} file: {reason}") from None


def _parse(document: dict[str, Any]) -> StepCost:
    if (document["format"], document["version"]) != (FORMAT, VERSION):
        raise ValueError(f"format is {document['format']} {document['version']}")
    values = dict(document["coefficients"])
    values["hinge_token_s"] = tuple(values["hinge_token_s"])
    return StepCost(**values)
