# SPDX-License-Identifier: Apache-2.0
"""Profiles: what was saved is loaded bit for bit, for its own engine, and nothing else is."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hygen_vllm.config import ConfigError
from hygen_vllm.cost import profile as profile_file
from hygen_vllm.cost.composition import StepComposition
from hygen_vllm.cost.curve import TokenCurve
from hygen_vllm.cost.profile import (
    FILE_NAME,
    FORMAT,
    SOURCES,
    VERSION,
    Profile,
    find_profile,
    load_profile,
    save_profile,
    shipped_profiles,
)
from hygen_vllm.cost.step_cost import StepCost
from tests.support.engines import ENGINE, OTHERS

COST = StepCost(
    0.1, 1 / 3, 1e-9, 2e-3, 1e-4, 1.7e-8, 5e-324, TokenCurve((0, 64, 72), (0.0, 1e-5, 0.1))
)
PROFILE = Profile(ENGINE, "measured", COST, {"mape": 0.021, "regions": {"both": [1, None]}})
OTHER = Profile(replace(ENGINE, device="H100"), "modelled", StepCost(1, 2, 3, 4, 5, 6, 7))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A saved profile."""
    return save_profile(PROFILE, tmp_path)


def _error(path: Path) -> str:
    """Return the one line that refuses a profile; it names the file."""
    with pytest.raises(ConfigError) as caught:
        load_profile(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _change(path: Path, *keys: str, value: Any) -> None:
    """Set one value in a profile."""
    document = json.loads(path.read_text(encoding="utf-8"))
    part = document
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path.write_text(json.dumps(document), encoding="utf-8")


# --- there and back ----------------------------------------------------------------------------


def test_saved_profile_loads_as_the_same_numbers(path: Path) -> None:
    """Nothing is lost on the way through the file, to the last bit, by file or by folder."""
    assert load_profile(str(path)) == PROFILE
    assert load_profile(path.parent) == PROFILE


def test_save_to_an_existing_folder_replaces_the_profile(path: Path) -> None:
    """Whatever the file held before is gone."""
    path.write_text("x" * 10_000)
    assert save_profile(OTHER, path.parent) == path
    assert load_profile(path) == OTHER


def test_save_makes_the_folder(tmp_path: Path) -> None:
    """Nobody has to make it first."""
    assert load_profile(save_profile(OTHER, tmp_path / "a" / "b").parent) == OTHER


def test_saved_file_states_format_and_version(path: Path) -> None:
    """A reader can tell what it is before it reads a number."""
    assert path.name == FILE_NAME
    document = json.loads(path.read_text(encoding="utf-8"))
    assert (document["format"], document["version"]) == (FORMAT, VERSION)
    assert document["coefficients"]["base_s"] == COST.base_s
    assert document["curve"] == {"knees": [0, 64, 72], "slopes_s": [0.0, 1e-5, 0.1]}
    assert document["engine"] == ENGINE.as_mapping()


def test_profile_in_the_home_folder_is_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may begin with a tilde."""
    monkeypatch.setenv("HOME", str(path.parent))
    assert load_profile("~/profile.json") == PROFILE
    assert load_profile("~") == PROFILE


@pytest.mark.parametrize("source", ["guessed", "", None, []])
def test_profile_of_an_unknown_source_is_refused_with_it(source: Any) -> None:
    """Measured and modelled are told apart, always."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        replace(PROFILE, source=source)
    assert f"source must be one of measured, modelled, derived, got {source!r}" == str(caught.value)


# --- the engine it is for ----------------------------------------------------------------------


@pytest.mark.parametrize(("field", "value"), OTHERS)
def test_profile_of_another_engine_is_refused_with_both_values_and_the_remedy(
    field: str, value: Any
) -> None:
    """Model, dtype, parallelism and device decide; the line says how to make one that fits."""
    with pytest.raises(ConfigError) as caught:
        PROFILE.check_engine(replace(ENGINE, **{field: value}), "my-profile")
    line = str(caught.value)
    assert line.startswith("profile my-profile is for ")
    assert f"{getattr(ENGINE, field)}, not {value}; " in line
    assert "hygen profile" in line
    assert "\n" not in line


def test_profile_of_another_model_is_refused_with_both_names() -> None:
    """A person knows a model by its name."""
    other = replace(ENGINE, model="Llama-2-13b", architecture="LlamaForCausalLM, 40 layers")
    with pytest.raises(ConfigError, match=r"model Llama-2-7b \(.*\), not Llama-2-13b \(.*\); make"):
        PROFILE.check_engine(other, "my-profile")


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "vicuna-7b"},
        {"vllm_version": "0.33.0"},
        {"is_async": False},
        {"max_num_batched_tokens": 8192, "max_num_seqs": 256, "max_model_len": 4096},
        {"block_size": 16, "num_kv_blocks": 0},
    ],
)
def test_profile_of_an_engine_of_the_same_step_times_is_accepted(changes: dict[str, Any]) -> None:
    """A fine-tuned model, another release or other limits change no price."""
    PROFILE.check_engine(replace(ENGINE, **changes), "my-profile")


# --- names -------------------------------------------------------------------------------------


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of profiles that ship."""
    root = tmp_path / "profiles"
    save_profile(PROFILE, root / "a100" / "llama2-7b")
    save_profile(OTHER, root / "h100" / "llama2-7b")
    (root / "a40" / "empty").mkdir(parents=True)
    (root / "README.md").write_text("", encoding="utf-8")
    monkeypatch.setattr(profile_file, "SHIPPED", (tmp_path / "nowhere", root))
    return root


def test_profile_that_ships_is_found_by_its_name(shipped: Path) -> None:
    """DEVICE-MODEL is profiles/DEVICE/MODEL."""
    folder = shipped / "h100" / "llama2-7b"
    assert ["a100-llama2-7b", "h100-llama2-7b"] == [*shipped_profiles()]
    assert find_profile("h100-llama2-7b") == folder / FILE_NAME
    assert load_profile("h100-llama2-7b") == OTHER


def test_profile_at_a_path_goes_before_one_of_that_name(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own folder is what the user means."""
    monkeypatch.chdir(tmp_path)
    save_profile(OTHER, Path("a100-llama2-7b"))
    assert load_profile("a100-llama2-7b") == OTHER


def test_unknown_name_is_refused_with_those_that_ship_and_a_close_one(shipped: Path) -> None:
    """One line lists every name there is."""
    with pytest.raises(ConfigError) as caught:
        load_profile("h100-lama2-7b")
    assert str(caught.value) == (
        "cannot read profile h100-lama2-7b: no such file, nor a profile that ships "
        '(a100-llama2-7b, h100-llama2-7b); did you mean "h100-llama2-7b"?'
    )


def test_name_unlike_any_is_refused_without_a_guess(shipped: Path) -> None:
    """No close match is no match."""
    with pytest.raises(ConfigError) as caught:
        load_profile("tpu")
    assert str(caught.value).endswith("(a100-llama2-7b, h100-llama2-7b)")


def test_name_where_no_profile_ships_is_refused_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package without profiles says so."""
    monkeypatch.setattr(profile_file, "SHIPPED", (tmp_path / "nowhere",))
    with pytest.raises(ConfigError, match=r"nor a profile that ships \(none\)$"):
        load_profile("a100-llama2-7b")


@pytest.mark.parametrize("name", [*shipped_profiles()])
def test_every_profile_that_ships_can_be_used(name: str) -> None:
    """It loads, says where it comes from, and prices a step of its own engine."""
    profile = load_profile(name)
    assert profile.source in SOURCES
    profile.check_engine(profile.engine, name)
    one, all_s = (
        profile.cost.base_s + profile.cost.added_chunk_seconds(StepComposition(), tokens, 0)
        for tokens in (1, profile.engine.max_num_batched_tokens)
    )
    assert 0 < one < all_s < 10


def test_some_profiles_ship() -> None:
    """In a checkout they are found beside the package."""
    assert "a100-llama2-7b" in shipped_profiles()


# --- what is no profile ------------------------------------------------------------------------


def test_profile_that_is_missing_is_named_with_the_reason(tmp_path: Path) -> None:
    """A file that is not there, and a folder without one, say so."""
    for path in (tmp_path / "gone.json", tmp_path):
        assert _error(path).startswith(f"cannot read profile {path}: no such file")


@pytest.mark.parametrize("name", ["~nobody-of-this-name/profile.json", "x" * 300])
def test_profile_of_a_name_that_is_no_path_is_refused(name: str) -> None:
    """Whatever the system says of a path, it is one line with that path."""
    _error(Path(name))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_profile_cut_short_is_refused(path: Path, share: float) -> None:
    """A file that was not written to its end is no profile."""
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: int(share * len(text))], encoding="utf-8")
    assert _error(path).startswith(f"profile {path} is not a hygen-profile 1 file: ")


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"mode: fixed\n",
        b"[1, 2]",
        b"null",
        b"7",
        b'"text"',
        b"{}",
        b'{"format": 1}',
        b"[" * 100_000,
        b'{"format": "hygen-step-cost", "version": 1, "coefficients": {}}',
    ],
    ids=lambda content: content[:20].decode("latin-1"),
)
def test_profile_that_is_another_file_is_refused(path: Path, content: bytes) -> None:
    """Bytes, text and JSON of any other kind are told from a profile, and the remedy is there."""
    path.write_bytes(content)
    line = _error(path)
    assert line.startswith(f"profile {path} is not a hygen-profile 1 file: ")
    assert line.endswith("hygen profile --model MODEL [engine flags] --out DIR")


class _Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_loading_a_profile_runs_nothing_in_it(path: Path, tmp_path: Path) -> None:
    """It is JSON: neither a pickle nor a YAML tag in its place does anything."""
    target = tmp_path / "ran"
    contents = [
        pickle.dumps(_Bomb(target)),
        f"!!python/object/apply:pathlib.Path.touch [{target}]\n".encode(),
        f"__import__('pathlib').Path({str(target)!r}).touch()\n".encode(),
    ]
    for content in contents:
        path.write_bytes(content)
        _error(path)
        assert not target.exists()
    pickle.loads(contents[0])
    assert target.exists()


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("format", "hygen-step-trace", ": format is hygen-step-trace 1"),
        ("version", 2, ": format is hygen-profile 2"),
        ("version", "1", ": format is hygen-profile 1"),
        ("source", "guessed", "source must be one of measured, modelled, derived, got 'guessed'"),
        ("source", None, "source must be one of measured, modelled, derived, got None"),
        ("engine", None, "engine is not an object"),
        ("engine", {}, "engine lacks or does not know: architecture"),
        ("coefficients", None, "NoneType"),
        ("coefficients", [1, 2], "mapping"),
        ("coefficients", {}, "base_s"),
        ("curve", None, "NoneType"),
        ("curve", [], "list"),
        ("curve", {}, "knees"),
        ("fit", None, "fit"),
        ("fit", 7, "fit"),
    ],
)
def test_profile_with_a_foreign_part_is_refused_with_the_reason(
    path: Path, field: str, value: Any, reason: str
) -> None:
    """Another format or a later version is not read as if it were this one."""
    _change(path, field, value=value)
    assert reason in _error(path)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("base_s", -0.1, "must be finite and >= 0, got -0.1"),
        ("decode_token_s", float("nan"), "must be finite and >= 0, got nan"),
        ("prefill_s", float("inf"), "must be finite and >= 0, got inf"),
        ("prefill_s", True, "must be finite and >= 0, got True"),
        ("prefill_token_s", "0.1", "not supported between instances"),
        ("prefill_attention_s", None, "not supported between instances"),
        ("prefill_attention_s", [0.1], "not supported between instances"),
        ("extra_s", 0.1, "extra_s"),
        ("curve", {"knees": [], "slopes_s": []}, "curve"),
    ],
)
def test_profile_with_a_wrong_coefficient_is_refused_with_the_reason(
    path: Path, name: str, value: Any, reason: str
) -> None:
    """One bad number is enough: the rest is not used."""
    _change(path, "coefficients", name, value=value)
    assert reason in _error(path)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("knees", [0, 64], "2 knees have 3 slopes"),
        ("knees", [0, 64, 64], "knees must be >= 0 and rise"),
        ("knees", [0, 64, 64.5], "knees must be whole numbers"),
        ("knees", ["0", "64", "72"], "knees must be whole numbers"),
        ("knees", 64, "not iterable"),
        ("slopes_s", [0.0, 0.0, -1e-9], "slopes must be finite and >= 0, got -1e-09"),
        ("slopes_s", [0.0, float("nan"), 0.0], "slopes must be finite and >= 0, got nan"),
        ("slopes_s", [0.0, "0.1", 0.0], "not supported between instances"),
        ("slopes_s", None, "not iterable"),
    ],
)
def test_profile_with_a_wrong_curve_is_refused_with_the_reason(
    path: Path, name: str, value: Any, reason: str
) -> None:
    """A curve that could fall, or has no order, is none."""
    _change(path, "curve", name, value=value)
    assert reason in _error(path)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("tensor_parallel", "1", "engine.tensor_parallel must be int, got '1'"),
        ("tensor_parallel", True, "engine.tensor_parallel must be int, got True"),
        ("device", None, "engine.device must be str, got None"),
        ("is_async", 1, "engine.is_async must be bool, got 1"),
        ("num_nodes", 1, "engine lacks or does not know: num_nodes"),
    ],
)
def test_profile_with_a_wrong_engine_is_refused_with_the_reason(
    path: Path, name: str, value: Any, reason: str
) -> None:
    """It could not be compared with the engine that serves."""
    _change(path, "engine", name, value=value)
    assert reason in _error(path)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("coefficients", "base_s"),
        ("coefficients", "prefill_context_token_s"),
        ("curve", "knees"),
        ("curve", "slopes_s"),
        ("engine", "dtype"),
        (None, "coefficients"),
        (None, "curve"),
        (None, "engine"),
        (None, "source"),
        (None, "fit"),
    ],
)
def test_profile_without_a_part_is_refused_with_its_name(
    path: Path, part: str | None, name: str
) -> None:
    """What is missing is not taken for zero."""
    document = json.loads(path.read_text(encoding="utf-8"))
    del (document if part is None else document[part])[name]
    path.write_text(json.dumps(document), encoding="utf-8")
    assert name in _error(path)
