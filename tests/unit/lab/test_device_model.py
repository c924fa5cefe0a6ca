# SPDX-License-Identifier: Apache-2.0
"""Device models and the profiles that ship: what they say is what was measured or is marked."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.config import ConfigError
from hygen_vllm.cost.composition import FEATURES
from hygen_vllm.cost.profile import load_profile, shipped_profiles
from hygen_vllm.lab.profile.batch_shapes import BatchShape, design
from hygen_vllm.lab.profile.read_trace import read_trace
from hygen_vllm.lab.simulator.device_model import DeviceModel, load_device, save_device
from hygen_vllm.lab.simulator.modelled_steps import modelled_steps
from hygen_vllm.lab.simulator.step_work import StepWork
from tests.support.step_traces import ENGINE, composition

LAW = settings(derandomize=True, deadline=None, max_examples=80)
README = Path(__file__).parents[3] / "profiles" / "README.md"
ROWS = dict(re.findall(r"^\| `([\w.-]+)` \| (\w+) \|", README.read_text("utf-8"), re.MULTILINE))
"""What profiles/README.md says ships: source by name."""
MODELLED = [name for name, source in ROWS.items() if source != "measured"]
DEVICE = DeviceModel(
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_size=8,
    bytes_per_number=2,
    peak_flops=1.5e5,
    memory_bytes_per_s=1e5,
    compute_share=0.5,
    memory_share=0.25,
    tokens=(1, 4, 8),
    operators_s=(1.0, 2.0, 6.0),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A saved device model."""
    save_device(DEVICE, tmp_path, notes="made up")
    return tmp_path / "device.json"


def _error(path: Path) -> str:
    """Return the one line that refuses a device model; it names the file."""
    with pytest.raises(ConfigError) as caught:
        load_device(path.parent)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- files -------------------------------------------------------------------------------------


def test_saved_device_loads_as_the_same_numbers(path: Path) -> None:
    """Nothing is lost on the way through the file, and it says where the numbers come from."""
    assert DEVICE == load_device(path.parent)
    assert "made up" == json.loads(path.read_text(encoding="utf-8"))["notes"]


def test_device_that_is_missing_is_named_with_the_reason(tmp_path: Path) -> None:
    """What the system says about the path is in the line."""
    expected = f"cannot read device model {tmp_path / 'device.json'}: No such file or directory"
    assert expected == _error(tmp_path / "device.json")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_device_cut_short_is_refused(path: Path, share: float) -> None:
    """A file that was not written to its end is no device model."""
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: int(share * len(text))], encoding="utf-8")
    assert f"{path} is not a hygen-device-model 1 file: " in _error(path)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\x00", b"mode: fixed\n", b"[1, 2]", b"null", b"7", b'"text"', b"{}", 10**5 * b"["],
    ids=lambda content: content[:12],
)
def test_device_that_is_another_file_is_refused(path: Path, content: bytes) -> None:
    """Bytes, text and JSON of any other kind are told from a device model."""
    path.write_bytes(content)
    assert f"{path} is not a hygen-device-model 1 file: " in _error(path)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("format", "hygen-profile", "format is hygen-profile 1"),
        ("version", 2, "format is hygen-device-model 2"),
        ("num_layers", 0, "all numbers must be finite and > 0"),
        ("peak_flops", -1.0, "all numbers must be finite and > 0"),
        ("memory_share", float("nan"), "all numbers must be finite and > 0"),
        ("num_heads", "4", "not supported between"),
        ("tokens", [1, 4], "tokens must rise and have one time each"),
        ("tokens", [1, 8, 4], "tokens must rise and have one time each"),
        ("tokens", ["1", "2", "3"], ""),
        ("operators_s", [1.0, 0.0, 6.0], "all numbers must be finite and > 0"),
        ("operators_s", None, "not iterable"),
    ],
)
def test_device_with_a_wrong_part_is_refused_with_the_reason(
    path: Path, field: str, value: Any, reason: str
) -> None:
    """One bad number is enough: the rest is not used."""
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(document | {field: value}), encoding="utf-8")
    assert reason in _error(path)


@pytest.mark.parametrize("field", ["format", "num_kv_heads", "operators_s"])
def test_device_without_a_part_is_refused_with_its_name(path: Path, field: str) -> None:
    """What is missing has no default."""
    document = json.loads(path.read_text(encoding="utf-8"))
    del document[field]
    path.write_text(json.dumps(document), encoding="utf-8")
    assert field in _error(path)


# --- seconds -----------------------------------------------------------------------------------


def test_operators_take_the_measured_time_at_each_measured_point() -> None:
    """Between two points the time is straight, past the last likewise, below the first constant."""
    no_attention = replace(DEVICE, peak_flops=1e300, memory_bytes_per_s=1e300)
    expected = {0: 1.0, 1: 1.0, 2: 4 / 3, 4: 2.0, 6: 4.0, 8: 6.0, 10: 8.0}
    found = {tokens: _seconds([(tokens, 0)], no_attention) for tokens in expected}
    assert expected == pytest.approx(found)


def test_attention_takes_the_longer_of_arithmetic_and_reading() -> None:
    """4 operations a pair, head and width; keys and values read once a chunk; every layer."""
    attention_s = _seconds([(1, 0), (3, 5)]) - 2.0
    arithmetic_s = [4 * pairs * 4 * 8 / (0.5 * 1.5e5) for pairs in (1, 6 + 7 + 8)]
    reading_s = [2 * tokens * 2 * 8 * 2 / (0.25 * 1e5) for tokens in (1, 8)]
    assert reading_s[0] > arithmetic_s[0]
    assert arithmetic_s[1] > reading_s[1]
    assert attention_s == pytest.approx(2 * (reading_s[0] + arithmetic_s[1]))


REQUEST = st.tuples(st.integers(1, 64), st.integers(0, 2000))


@LAW
@given(st.lists(REQUEST, min_size=1, max_size=6), st.integers(1, 64), st.integers(0, 2000))
def test_seconds_with_more_tokens_are_never_fewer(
    requests: list[tuple[int, int]], new_tokens: int, computed_tokens: int
) -> None:
    """A longer context, a longer chunk or one more request never makes a step shorter."""
    (first_new, first_computed), *others = requests
    before = _seconds(requests)
    assert before <= _seconds([(first_new, first_computed + computed_tokens), *others])
    assert before <= _seconds([(first_new + new_tokens, first_computed), *others])
    assert before < _seconds([*requests, (new_tokens, computed_tokens)])


def test_modelled_steps_are_the_shapes_of_a_design_with_the_seconds_of_the_device() -> None:
    """Each shape is one step, with its own sums and a time without noise."""
    steps = modelled_steps(DEVICE, ENGINE, num_mixes=3)
    shapes = design(ENGINE, num_mixes=3, seed=0)
    assert [composition(shape).features() for shape in shapes] == steps.X.tolist()
    assert [DEVICE.step_seconds(StepWork.of(shape)) for shape in shapes] == steps.seconds.tolist()
    assert len(shapes) == len(set(steps.group))


def test_decode_takes_as_long_as_a_chunk_of_one_token() -> None:
    """Decodes are summed and chunks are not; both are the same arithmetic."""
    contexts = (0, 7, 300)
    chunks = [(1, context) for context in contexts]
    decodes = DEVICE.step_seconds(StepWork.of(BatchShape(contexts=contexts)))
    assert decodes == pytest.approx(_seconds(chunks))


def _seconds(requests: list[tuple[int, int]], device: DeviceModel = DEVICE) -> float:
    """Return the seconds of a step of chunks: (new tokens, tokens computed before)."""
    return device.step_seconds(StepWork(0, 0, requests))


# --- the profiles that ship --------------------------------------------------------------------


def test_shipped_profiles_are_those_that_their_readme_lists() -> None:
    """Each is found by its name and says itself whether it was measured or modelled."""
    found = {name: load_profile(name).source for name in shipped_profiles()}
    assert found == ROWS
    assert 8 == len(MODELLED)


@pytest.mark.parametrize("name", ROWS)
def test_shipped_profile_predicts_its_own_engine_well(name: str) -> None:
    """Its figures are those of held-out batches, and its prices are not all zero."""
    profile = load_profile(name)
    assert 0 < profile.fit["mape"] < 0.1
    assert 0 < profile.cost.seconds(composition(BatchShape(contexts=(64,))))


@pytest.mark.parametrize("name", [name for name in ROWS if name not in MODELLED])
def test_shipped_measured_profile_comes_with_its_measured_steps(name: str) -> None:
    """Whoever doubts a measured profile can fit it again."""
    profile = load_profile(name)
    engine, table = read_trace(shipped_profiles()[name] / "trace.csv.gz")
    assert profile.engine == engine
    assert profile.fit["num_steps"] == len(table)
    assert set(FEATURES) <= set(table.columns)


@pytest.mark.parametrize("name", MODELLED)
def test_shipped_modelled_profile_prices_random_mixes_as_its_device(name: str) -> None:
    """Its prices stand for the device model beside it within a few percent."""
    profile, device = load_profile(name), load_device(shipped_profiles()[name])
    mixes = _random_mixes(random.Random(0), num_mixes=40)
    errors = [
        abs(profile.cost.seconds(composition(mix)) / device.step_seconds(StepWork.of(mix)) - 1)
        for mix in mixes
    ]
    assert sum(errors) / len(errors) < 0.05


def _random_mixes(rng: random.Random, num_mixes: int) -> list[BatchShape]:
    """Return mixes of up to 512 tokens and 128 requests, none longer than 4,096 tokens."""
    mixes = []
    for _ in range(num_mixes):
        contexts = tuple(rng.randrange(1, 4000) for _ in range(rng.randrange(1, 60)))
        sizes = [rng.randrange(2, 220) for _ in range(rng.randrange(3))]
        chunks = tuple((size, rng.choice([0, rng.randrange(3800)])) for size in sizes)
        mixes.append(BatchShape(contexts, chunks))
    return mixes


def test_a100_runs_llama2_7b_in_the_times_that_were_published() -> None:
    """Operators take the same 9 to 10 ms up to 64 tokens, 34 ms for 512, 70 ms for 1,024."""
    device = load_device(shipped_profiles()["a100-llama2-7b"])
    operators_ms = {n: 1e3 * s for n, s in zip(device.tokens, device.operators_s, strict=True)}
    assert all(9 < ms < 10 for tokens, ms in operators_ms.items() if tokens <= 64)
    assert [34, 70] == [round(operators_ms[512]), round(operators_ms[1024])]
