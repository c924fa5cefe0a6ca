# SPDX-License-Identifier: Apache-2.0
"""Every reader of people's files: whatever is in one, it is read or refused in one line.

Files are damaged by bytes, as a disk or a transfer does, and by values, as people and other
programs do: JSON and YAML have more than a format expects.
"""

import copy
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.batch.batch_file import read_rows
from hygen_vllm.batch.results_file import ResultsFile
from hygen_vllm.config import HyGenConfig
from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.profile import Profile, load_profile, save_profile
from hygen_vllm.cost.trace import TracedStep, header, row
from hygen_vllm.lab.profile.read_trace import read_trace
from hygen_vllm.lab.report import page
from hygen_vllm.lab.report.report import write_report
from hygen_vllm.lab.report.result_file import read_result
from hygen_vllm.lab.simulator.device_model import load_device
from hygen_vllm.lab.workloads.prompts import read_gsm8k
from hygen_vllm.lab.workloads.sources import OnlineQuery, find_offline, find_online
from hygen_vllm.lab.workloads.tokenizers import HashTokenizer
from hygen_vllm.ray_serving.app_config import AppConfig
from hygen_vllm.targets.reference import load_reference
from tests.support.results import document
from tests.support.step_traces import COST, ENGINE

LAW = settings(deadline=None, max_examples=25)
LONGEST_LINE = 700
PROFILE = Path(__file__).parents[2] / "profiles" / "a100" / "llama2-7b"


def _lines(*values: Any) -> bytes:
    return "".join(f"{json.dumps(value)}\n" for value in values).encode()


def _read_app(path: Path) -> None:
    AppConfig.from_mapping(yaml.safe_load(path.read_text(encoding="utf-8")))


def _read_workload(path: Path) -> None:
    tokenizer = HashTokenizer(0)
    find_offline(str(path), None, 0, tokenizer)
    find_online(OnlineQuery(str(path), 0.001, 10.0, 0), tokenizer)


def _resume(path: Path) -> None:
    ResultsFile(path, resume=True).close()


def _read_rows(path: Path) -> None:
    with path.open("rb") as lines:
        for row in read_rows(lines):
            if row.request is not None:
                request = row.request.as_offline()
                assert 0 < request.tokens < math.inf
                assert isinstance(request.tenant, str)
                request.prefix_hashes()
            else:
                assert len(row.problem) < LONGEST_LINE


CHAT = {"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 4}
ROW = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
DONE = {"custom_id": "a", "response": {"status_code": 200, "body": {}}, "error": None}
TICK = {"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}
SETTINGS = {
    "slos": ["tbt_p99=45ms"],
    "slo_window_s": 900.0,
    "tenant_weights": {"a": 2.0},
    "idle_step_s": 0.1,
    "offline_order": "fcfs",
}
APP = {
    "model": "m",
    "num_replicas": 2,
    "hygen": SETTINGS,
    "engine": {"max_model_len": 100},
    "env": {"A": "b"},
    "lease_s": 5.0,
}
ALONE = {"online": {"ttft_s": {"mean": 0.11, "p99": 0.4}, "tbt_s": {"mean": 0.01, "p99": 0.04}}}
AZURE = (
    b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
    b"2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
)
BURSTGPT = (
    b"Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    b"5,ChatGPT,472,18,490,API\n45,GPT-4,1087,230,1317,API\n"
)

Reader = tuple[str, Any, Callable[[Path], object]]
"""File name, content (bytes, or a value that is dumped as the name says) and what reads it."""
READERS: dict[str, Reader] = {
    "azure": ("t.csv", AZURE, _read_workload),
    "burstgpt": ("t.csv", BURSTGPT, _read_workload),
    "lengths": ("t.csv", b"num_prefill_tokens,num_decode_tokens\n10,20\n11,21.0\n", _read_workload),
    "mooncake": ("t.jsonl", [TICK, {**TICK, "timestamp": 6000}], _read_workload),
    "prompts": ("p.jsonl", [{"prompt": "a", "output_tokens": 3}, {"body": CHAT}], _read_workload),
    "gsm8k": ("g.jsonl", [{"question": "a", "answer": "b"}], read_gsm8k),
    "batch": ("b.jsonl", [ROW, {**ROW, "custom_id": "b"}], _read_rows),
    "results of a batch": ("out.jsonl", [DONE, {**DONE, "custom_id": "b"}], _resume),
    "settings": ("hygen.json", SETTINGS, lambda path: HyGenConfig.from_file(str(path))),
    "settings in YAML": ("hygen.yaml", SETTINGS, lambda path: HyGenConfig.from_file(str(path))),
    "application": ("app.yaml", APP, _read_app),
    "reference": ("online-alone.json", ALONE, load_reference),
    "result": ("r.json", document(), read_result),
    "profile": ("profile.json", None, load_profile),
    "device": ("device.json", None, lambda path: load_device(path.parent)),
    "step trace": ("trace.csv", None, read_trace),
}
OF_VALUES = [name for name, (_, content, _) in READERS.items() if not isinstance(content, bytes)]
OF_VALUES.remove("step trace")
YAML_OF_RAY = "application"
"""Serve reads this file; YAML that is none is its to say."""

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 7.5, 10**30, 10**400, 1e308, -1e308, 1e-320),
    *(math.nan, math.inf, -math.inf, "", "x", "1", "nan", "off", "\x00", "\ud800", "é\u2028\n"),
    *("x" * 5000, [], {}, [[]], [None], [1, "a"], {"a": {}}, {"": None}, [1e308, 1e308]),
]


def _dumped(name: str, content: Any) -> bytes:
    if isinstance(content, bytes):
        return content
    if name.endswith(".jsonl"):
        return _lines(*content)
    if name.endswith(".yaml"):
        return yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass")
    return json.dumps(content).encode()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    """Return the readers with content for those whose files a program of ours makes."""
    folder = tmp_path_factory.mktemp("good")
    profile = save_profile(Profile(ENGINE, "measured", COST), folder)
    contents = {
        "profile": json.loads(profile.read_text()),
        "device": json.loads((PROFILE / "device.json").read_text()),
        "step trace": _step_trace(),
    }
    return {
        name: (file, contents.get(name, content), read)
        for name, (file, content, read) in READERS.items()
    }


def _step_trace() -> bytes:
    step = StepComposition()
    step.add_decode(1, 30)
    steps = [TracedStep(n, 0.1 * n, step, 0.1, 0.1) for n in (1, 2, 3)]
    return (header(ENGINE) + "".join(map(row, steps))).encode()


def check_read_or_refused(path: Path, read: Callable[[Path], object]) -> None:
    """Raise AssertionError unless a file is read or refused in one line, not too long."""
    try:
        read(path)
    except (ValueError, OSError) as error:
        message = " ".join(str(error).split(" "))
        assert message.isprintable(), message
        assert len(message) < LONGEST_LINE + len(str(path)), message


@pytest.mark.parametrize("kind", READERS)
def test_good_file_is_read(good, tmp_path, kind):
    """Else what follows would prove nothing."""
    name, content, read = good[kind]
    path = tmp_path / name
    path.write_bytes(_dumped(name, content))
    read(path)


@pytest.mark.parametrize("kind", READERS)
def test_file_with_damaged_bytes_is_read_or_refused_in_one_line(good, tmp_path_factory, kind):
    """Bytes are lost, come twice, are others; a file ends early."""
    name, content, read = good[kind]
    whole = _dumped(name, content)
    path = tmp_path_factory.mktemp("damaged") / name

    @LAW
    @given(st.data())
    def check(data: st.DataObject) -> None:
        found = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 4))):
            start = data.draw(st.integers(0, len(found)))
            end = data.draw(st.sampled_from([start, start + 1, start + 7, len(found)]))
            found[start:end] = data.draw(
                st.one_of(
                    st.binary(max_size=6),
                    st.sampled_from([b"", b"\n", b"\r\n", b'"', b",", b"{", b"\xef\xbb\xbf"]),
                )
            )
        path.write_bytes(found)
        try:
            check_read_or_refused(path, read)
        except yaml.YAMLError:
            assert kind == YAML_OF_RAY

    check()


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all members of a value, at any depth."""
    members = value.items() if isinstance(value, dict) else enumerate(value)
    inner = [(*place, name) for name, _ in members]
    for name in list(value) if isinstance(value, dict) else range(len(value)):
        if isinstance(value[name], dict | list):
            inner += _places(value[name], (*place, name))
    return inner


def _changed(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    found = copy.deepcopy(content)
    holder = found
    for name in place[:-1]:
        holder = holder[name]
    if value is ...:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return found


def _with_odd_values(content: Any, data: st.DataObject) -> Any:
    for _ in range(data.draw(st.integers(1, 2))):
        places = _places(content)
        if places:
            value = data.draw(st.sampled_from([..., *ODD]))
            content = _changed(content, data.draw(st.sampled_from(places)), value)
    return content


@pytest.mark.parametrize("kind", OF_VALUES)
def test_file_with_odd_values_is_read_or_refused_in_one_line(good, tmp_path_factory, kind):
    """A member is missing, null, of another type, out of all bounds, or not finite."""
    name, content, read = good[kind]
    path = tmp_path_factory.mktemp("odd") / name

    @settings(LAW, max_examples=60)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        path.write_bytes(_dumped(name, _with_odd_values(content, data)))
        try:
            check_read_or_refused(path, read)
        except yaml.YAMLError:
            assert kind == YAML_OF_RAY

    check()


def test_result_that_is_read_can_be_shown(tmp_path, monkeypatch):
    """One odd value in a result file ended `hygen report` with a TypeError."""
    path, out = tmp_path / "r.json", tmp_path / "report.html"
    rng = random.Random(0)
    content = document()
    drawn = rng.sample(_places(content), 8)
    for place in drawn:
        path.write_bytes(_dumped(path.name, _changed(content, place, rng.choice(ODD))))
        check_read_or_refused(path, lambda path: write_report([path], out))
    monkeypatch.setattr(page, "timelines_of", lambda *_: [])
    for place in _places(content):
        for value in rng.sample(ODD, 6):
            path.write_bytes(_dumped(path.name, _changed(content, place, value)))
            check_read_or_refused(path, lambda path: write_report([path], out))
