# SPDX-License-Identifier: Apache-2.0
"""EngineInfo: what decides step times tells engines apart, and nothing else does."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from hygen_vllm.cost.engine_info import EngineInfo
from tests.support.engines import ENGINE, OTHERS

DECIDING = [field for field, _ in OTHERS]


def test_engine_round_trips_through_json() -> None:
    """What is written into a file is what is read from it."""
    assert EngineInfo.from_mapping(json.loads(json.dumps(ENGINE.as_mapping()))) == ENGINE


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        (
            "architecture",
            "LlamaForCausalLM, 40 layers",
            "model LlamaForCausalLM, 32 layers, not LlamaForCausalLM, 40 layers",
        ),
        ("dtype", "bfloat16", "dtype float16, not bfloat16"),
        ("tensor_parallel", 2, "tensor parallel size 1, not 2"),
        ("pipeline_parallel", 4, "pipeline parallel size 1, not 4"),
        ("device", "H100", "device A100, not H100"),
    ],
)
def test_difference_of_what_decides_step_times_names_both_values(
    field: str, value: Any, expected: str
) -> None:
    """One line says what this engine is and the other is not."""
    assert expected == ENGINE.difference(replace(ENGINE, **{field: value}))


def test_difference_of_models_names_them_and_their_architectures() -> None:
    """A person knows a model by its name."""
    other = replace(ENGINE, model="Llama-2-13b", architecture="LlamaForCausalLM, 40 layers")
    expected = (
        "model Llama-2-7b (LlamaForCausalLM, 32 layers), "
        "not Llama-2-13b (LlamaForCausalLM, 40 layers)"
    )
    assert expected == ENGINE.difference(other)


@pytest.mark.parametrize(
    "name", [field.name for field in fields(EngineInfo) if field.name not in DECIDING]
)
def test_difference_of_anything_else_is_none(name: str) -> None:
    """Limits, release, scheduling and the name of a fine-tuned model do not change step times."""
    value = getattr(ENGINE, name)
    other = value + "-chat" if isinstance(value, str) else type(value)(not value)
    assert ENGINE.difference(replace(ENGINE, **{name: other})) is None


def test_difference_from_itself_is_none() -> None:
    """An engine is an engine of its own kind."""
    assert ENGINE.difference(ENGINE) is None


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("model", None, "str"),
        ("device", 7, "str"),
        ("tensor_parallel", "1", "int"),
        ("tensor_parallel", True, "int"),
        ("block_size", 16.0, "int"),
        ("is_async", 1, "bool"),
    ],
)
def test_engine_with_a_value_of_another_type_is_refused_with_it(
    name: str, value: Any, kind: str
) -> None:
    """True is no number of devices, and 16.0 no block size."""
    with pytest.raises(ValueError, match=f"^engine.{name} must be {kind}, got {value!r}$"):
        replace(ENGINE, **{name: value})


@pytest.mark.parametrize("name", [field.name for field in fields(EngineInfo)])
def test_engine_lacking_a_field_is_refused_with_its_name(name: str) -> None:
    """What is missing is not made up."""
    values = ENGINE.as_mapping()
    del values[name]
    with pytest.raises(ValueError, match=f"^engine lacks or does not know: {name}$"):
        EngineInfo.from_mapping(values)


def test_engine_with_an_unknown_field_is_refused_with_its_name() -> None:
    """A field of a later version is not ignored."""
    with pytest.raises(ValueError, match=r"^engine lacks or does not know: num_nodes$"):
        EngineInfo.from_mapping(ENGINE.as_mapping() | {"num_nodes": 2})


@pytest.mark.parametrize("values", [None, 7, "A100", ["A100"]])
def test_engine_that_is_no_object_is_refused(values: Any) -> None:
    """Anything but names with values is refused as such."""
    with pytest.raises(TypeError, match=r"^engine is not an object$"):
        EngineInfo.from_mapping(values)
