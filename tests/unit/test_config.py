# SPDX-License-Identifier: Apache-2.0
"""HyGenConfig: every setting that cannot be used is refused in one line that says what to do."""

import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.config import DEFAULT_SLOS, ConfigError, HyGenConfig

FIELDS = [*HyGenConfig.model_fields]
ONE_LINE_TEXT = st.text(string.ascii_letters + string.digits + string.punctuation, max_size=12)
ANY_VALUE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), ONE_LINE_TEXT, st.lists(st.integers())
)


def _error(values: dict[str, Any]) -> str:
    """Return the one line that refuses `values`."""
    with pytest.raises(ConfigError) as caught:
        HyGenConfig.from_mapping(values, "here")
    message = str(caught.value)
    assert message.startswith("here: ")
    assert "\n" not in message
    return message.removeprefix("here: ")


def _file_error(path: Path) -> str:
    """Return the one line that refuses a file, with its path shown as FILE."""
    with pytest.raises(ConfigError) as caught:
        HyGenConfig.from_file(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


def test_config_with_nothing_set_is_the_safe_default() -> None:
    """Left alone, offline may lengthen online's mean TTFT and TBT by a fifth."""
    config = HyGenConfig.load(None, environ={})
    expected = HyGenConfig(
        mode=None,
        slos=None,
        slo_reference=None,
        slo_window_s=900.0,
        latency_budget_s=None,
        idle_step_s=0.1,
        default_class="online",
        offline_priority_above=None,
        min_chunk_tokens=16,
        profile=None,
        trace=None,
        trace_max_steps=200_000,
    )
    assert expected == config
    assert config.gate_mode == "slo"
    assert config.targets == ["tbt_mean=+20%", "ttft_mean=+20%"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "slo"),
        ({"mode": "off"}, "off"),
        ({"latency_budget_s": 0.1}, "fixed"),
        ({"latency_budget_s": 1, "mode": "fixed"}, "fixed"),
        ({"slos": ["tbt_p99=45ms"]}, "slo"),
        ({"slos": ["tbt_p99=45ms"], "mode": "slo"}, "slo"),
        ({"slos": []}, "slo"),
        ({"slos": [], "latency_budget_s": 0.1}, "fixed"),
    ],
)
def test_gate_mode_without_a_mode_follows_what_is_set(
    values: dict[str, Any], expected: str
) -> None:
    """A mode that is named holds; else targets mean `slo`, a latency budget means `fixed`, a
    tolerance `tolerance`, and nothing the default targets.
    """
    assert HyGenConfig(**values).gate_mode == expected


def test_config_field_assignment_is_refused() -> None:
    """A configuration never changes after start-up."""
    config = HyGenConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.idle_step_s = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "remedy"),
    [
        ("latency_budget_s", "the default is null"),
        ("idle_step_s", "the default is 0.1"),
        ("offline_max_wait_s", "the default is 3600.0"),
        ("min_chunk_tokens", "the default is 16"),
        ("trace_max_steps", "the default is 200000"),
    ],
)
@pytest.mark.parametrize("value", [0, -1])
def test_config_number_not_above_zero_is_refused_with_limit_and_remedy(
    field: str, remedy: str, value: int
) -> None:
    """Seconds and tokens that allow no work at all are a mistake, not a setting."""
    expected = f"{field} must be greater than 0, got {value} (int); {remedy}"
    assert _error({field: value}) == expected


@pytest.mark.parametrize("value", [-1, 0, 1e-310])
def test_window_in_which_nothing_can_happen_is_refused(value: float) -> None:
    """A moment that a clock cannot tell is none."""
    expected = f"slo_window_s must be greater than 0.001, got {value} ("
    assert _error({"slo_window_s": value}).startswith(expected)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("field", ["latency_budget_s", "idle_step_s", "slo_window_s"])
def test_config_number_not_finite_is_refused_with_its_value(field: str, value: float) -> None:
    """No setting is infinite or NaN: comparisons with it would decide nothing."""
    message = _error({field: value})
    assert message.startswith(f"{field} must be a finite number, got {value} (float); ")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("mode", 3, "mode must be 'slo', 'fixed' or 'off', got 3 (int)"),
        ("latency_budget_s", "0.1", "latency_budget_s must be a valid number, got '0.1' (str)"),
        ("latency_budget_s", True, "latency_budget_s must be a valid number, got True (bool)"),
        ("idle_step_s", None, "idle_step_s must be a valid number, got None (NoneType)"),
        ("latency_budget_s", [1], "latency_budget_s must be a valid number, got [1] (list)"),
        ("min_chunk_tokens", 1.5, "min_chunk_tokens must be a valid integer, got 1.5 (float)"),
        ("min_chunk_tokens", True, "min_chunk_tokens must be a valid integer, got True (bool)"),
        (
            "offline_priority_above",
            "0",
            "offline_priority_above must be a valid integer, got '0' (str)",
        ),
        ("profile", 1, "profile must be a valid string, got 1 (int)"),
        ("trace", True, "trace must be a valid string, got True (bool)"),
        ("slos", "tbt", "slos must be a valid list, got 'tbt' (str)"),
        ("slos", {"tbt": 1}, "slos must be a valid list, got {'tbt': 1} (dict)"),
        ("slos", [7], "slos[0] must be a valid string, got 7 (int)"),
        ("slo_reference", 1, "slo_reference must be a valid string, got 1 (int)"),
        ("slo_window_s", "60", "slo_window_s must be a valid number, got '60' (str)"),
        ("slo_window_s", None, "slo_window_s must be a valid number, got None (NoneType)"),
        ("trace_max_steps", 1.5, "trace_max_steps must be a valid integer, got 1.5 (float)"),
    ],
)
def test_config_value_of_wrong_type_is_refused_with_field_and_type(
    field: str, value: Any, expected: str
) -> None:
    """The message names the field, the type it takes, and what it got; a bool is no number."""
    assert _error({field: value}).startswith(expected)


@pytest.mark.parametrize(
    ("field", "value", "choices", "closest"),
    [
        ("mode", "fixd", "'slo', 'fixed' or 'off'", "fixed"),
        ("mode", "Slo", "'slo', 'fixed' or 'off'", "slo"),
        ("default_class", "ofline", "'online' or 'offline'", "offline"),
    ],
)
def test_config_unknown_choice_names_all_and_the_closest(
    field: str, value: str, choices: str, closest: str
) -> None:
    """A misspelt word is answered with the words there are and the one that was meant."""
    expected = f'{field} must be {choices}, got {value!r}; did you mean "{closest}"?'
    assert _error({field: value}) == expected


def test_config_choice_like_no_other_names_all_and_guesses_none() -> None:
    """Where no word is close there is no guess."""
    expected = "mode must be 'slo', 'fixed' or 'off', got 'xyz' (str); the default is null"
    assert _error({"mode": "xyz"}) == expected


@pytest.mark.parametrize("field", FIELDS)
def test_config_misspelt_key_names_the_closest_key_and_all_keys(field: str) -> None:
    """An unknown key never passes silently, whichever key was meant."""
    expected = f"unknown key '{field}x'; did you mean \"{field}\"? valid keys: " + ", ".join(FIELDS)
    assert _error({field + "x": 1}) == expected


@pytest.mark.parametrize("key", ["zzz", 7])
def test_config_key_like_no_other_lists_all_keys_and_guesses_none(key: Any) -> None:
    """Where no key is close there is no guess, only the list."""
    assert _error({key: 1}) == f"unknown key '{key}'; valid keys: " + ", ".join(FIELDS)


def test_mode_fixed_without_latency_budget_is_refused_with_the_remedy() -> None:
    """A mode that lacks its number says which one and what else to do."""
    message = _error({"mode": "fixed"})
    assert message.startswith('mode "fixed" needs latency_budget_s (seconds')
    assert "set it or leave out the mode" in message


def test_latency_budget_in_a_mode_without_it_is_refused() -> None:
    """A number that would change nothing is not accepted."""
    assert _error({"mode": "off", "latency_budget_s": 0.5}) == (
        'latency_budget_s = 0.5 has no effect in mode "off"; remove it or set mode "fixed"'
    )


@pytest.mark.parametrize("bad", ["tbt_p99", "tbt_max=45ms", "tbt_p99=+5", "tbt_p99=0ms", "", 45])
def test_slo_that_is_none_is_refused_with_its_text(bad: Any) -> None:
    """Wherever in the list it stands; what is no text is refused by its type."""
    for slos in ([bad], ["ttft_mean=+10%", bad]):
        message = _error({"slos": slos})
        assert message.startswith("slos")
        assert f"got {bad!r}" in message


@pytest.mark.parametrize("second", ["tbt_p99=45ms", "tbt_p99=+5%"])
def test_slo_of_a_statistic_that_has_one_is_refused(second: str) -> None:
    """One of the two would have no effect; other statistics and metrics may have theirs."""
    slos = ["tbt_p99=45ms", "tbt_p95=45ms", "ttft_p99=1s"]
    assert HyGenConfig(slos=slos).slos == slos
    assert _error({"slos": [*slos, second]}) == "slos: two targets for tbt_p99"


@pytest.mark.parametrize("values", [{}, {"slos": []}, {"mode": "slo"}])
def test_slos_that_are_none_are_the_default_targets(values: dict[str, Any]) -> None:
    """They may have a reference like any others; in other modes there are none."""
    config = HyGenConfig(**values, slo_reference="a.json")
    assert config.targets == DEFAULT_SLOS
    assert HyGenConfig(mode="off").targets == []
    expected = 'slo_reference = a.json has no effect in mode "off"; remove it or set mode "slo"'
    assert _error({"slo_reference": "a.json", "mode": "off"}) == expected


@pytest.mark.parametrize("mode", ["fixed", "off"])
def test_slos_in_a_mode_without_them_are_refused(mode: str) -> None:
    """As is a latency budget where there are targets."""
    values = {"slos": ["tbt_p99=1s"], "latency_budget_s": 0.5 if mode == "fixed" else None}
    expected = f"slos = ['tbt_p99=1s'] has no effect in mode \"{mode}\"; remove it or set mode"
    assert _error({"mode": mode, **values}) == f'{expected} "slo"'
    expected = 'latency_budget_s = 0.5 has no effect in mode "slo"; remove it or set mode "fixed"'
    assert _error({**values, "latency_budget_s": 0.5}) == expected


def test_config_file_with_slos_is_read(tmp_path: Path) -> None:
    """A list in YAML, with signs and percent signs as they are written."""
    path = tmp_path / "hygen.yaml"
    path.write_text("slos:\n- tbt_p99=+20%\n- ttft_mean=0.5s\nslo_reference: r.json\n")
    expected = HyGenConfig(slos=["tbt_p99=+20%", "ttft_mean=0.5s"], slo_reference="r.json")
    assert HyGenConfig.from_file(str(path)) == expected


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.dictionaries(st.one_of(st.sampled_from(FIELDS), ONE_LINE_TEXT), ANY_VALUE, max_size=3))
def test_config_from_any_mapping_holds_it_or_refuses_it_in_one_line(values: dict[str, Any]) -> None:
    """Whatever is in the mapping, nothing but a ConfigError of one line comes out."""
    try:
        config = HyGenConfig.from_mapping(values, "here")
    except ConfigError as error:
        assert str(error).startswith("here: ")  # noqa: PT017 - most draws raise, not all
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert values == {key: getattr(config, key) for key in values}


@pytest.mark.parametrize(
    "text",
    [
        "latency_budget_s: 0.12\ndefault_class: offline\n",
        "hygen:\n  latency_budget_s: 0.12\n  default_class: offline\n",
        '{"latency_budget_s": 0.12, "default_class": "offline"}',
        '{"hygen": {"latency_budget_s": 0.12, "default_class": "offline"}}',
    ],
)
def test_config_file_in_yaml_or_json_with_or_without_its_section_is_the_same(
    tmp_path: Path, text: str
) -> None:
    """YAML and JSON, with the key `hygen` around the settings or not, mean the same."""
    path = tmp_path / "hygen.yaml"
    path.write_text(text, encoding="utf-8")
    expected = HyGenConfig(latency_budget_s=0.12, default_class="offline")
    assert HyGenConfig.from_file(str(path)) == expected


@pytest.mark.parametrize("text", ["", "# all defaults\n", "{}"])
def test_config_file_with_nothing_in_it_is_the_default(tmp_path: Path, text: str) -> None:
    """A file in which everything is commented out changes nothing."""
    path = tmp_path / "hygen.yaml"
    path.write_text(text, encoding="utf-8")
    assert HyGenConfig.from_file(str(path)) == HyGenConfig()


def test_config_file_in_the_home_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path may begin with a tilde."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "hygen.yaml").write_text("idle_step_s: 0.5")
    assert HyGenConfig.from_file("~/hygen.yaml") == HyGenConfig(idle_step_s=0.5)


def test_config_file_that_is_missing_or_a_folder_is_named_with_the_reason(tmp_path: Path) -> None:
    """What the system says about the path is in the line."""
    prefix = "cannot read HyGen configuration file FILE: "
    assert _file_error(tmp_path / "gone.yaml") == prefix + "No such file or directory"
    assert _file_error(tmp_path) == prefix + "Is a directory"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe\x00", "cannot read HyGen configuration file FILE: not UTF-8 text"),
        (b"mode: [fixed\nprofile: x\n", "FILE is not valid YAML or JSON: while parsing"),
        (b"{'a': 1", "FILE is not valid YAML or JSON: while parsing"),
        (b"? [a]\n: b\n", "FILE is not valid YAML or JSON: while constructing"),
        (b"\x07", "FILE is not valid YAML or JSON: "),
        (b"just words", "FILE must hold key: value pairs, got str"),
        (b"- mode\n", "FILE must hold key: value pairs, got list"),
        (b"idle_step: 1\n", "FILE: unknown key 'idle_step'; did you mean \"idle_step_s\"?"),
        (b"hygen: {idle_step_s: -1}\n", "FILE: idle_step_s must be greater than 0, got -1"),
        (b"hygen: 7\n", "FILE"),
    ],
)
def test_config_file_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    """Whatever is wrong inside, the line names the file and the reason."""
    path = tmp_path / "hygen.yaml"
    path.write_bytes(content)
    assert _file_error(path).startswith(reason)


def test_load_prefers_additional_config_to_the_environment(tmp_path: Path) -> None:
    """What the command line says wins over what the environment says."""
    path = tmp_path / "hygen.json"
    path.write_text(json.dumps({"idle_step_s": 0.5}))
    environ = {"HYGEN_CONFIG": str(path)}
    inline = HyGenConfig.load({"hygen": {"idle_step_s": 0.25}, "other": 1}, environ)
    assert inline == HyGenConfig(idle_step_s=0.25)
    assert HyGenConfig.load({"hygen": {}}, environ) == HyGenConfig()
    assert HyGenConfig.load({"other": 1}, environ) == HyGenConfig(idle_step_s=0.5)
    assert HyGenConfig.load({"hygen": str(path)}, {}) == HyGenConfig(idle_step_s=0.5)
    assert HyGenConfig.load({}, {"HYGEN_CONFIG": ""}) == HyGenConfig()


def test_mode_off_without_quotes_is_off_wherever_it_stands() -> None:
    """To YAML 1.1, in a file of Ray Serve as well, it is false."""
    assert HyGenConfig.load({"hygen": {"mode": False}}, {}).gate_mode == "off"
    with pytest.raises(ConfigError, match="got True"):
        HyGenConfig.load({"hygen": {"mode": True}}, {})


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"\ud800": 1}, "unknown key '\\ud800'; valid keys: "),
        ({"default_class": None}, "default_class must be 'online' or 'offline', got None (None"),
        ({"tenant_weights": {"a": {}}}, "tenant_weights['a'] must be a valid number, got {} (di"),
    ],
)
def test_odd_keys_and_values_are_refused_as_others_are(values: dict[str, Any], line: str) -> None:
    """Whatever pydantic makes of them."""
    assert _error(values).startswith(line)


def test_load_without_environ_reads_the_process_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine core process inherits HYGEN_CONFIG and reads it at its start."""
    (tmp_path / "hygen.yaml").write_text("min_chunk_tokens: 32")
    monkeypatch.setenv("HYGEN_CONFIG", str(tmp_path / "hygen.yaml"))
    assert HyGenConfig.load() == HyGenConfig(min_chunk_tokens=32)


def test_load_of_bad_additional_config_names_its_place() -> None:
    """The line says where the setting stands."""
    with pytest.raises(ConfigError, match=r'^additional_config\["hygen"\]: idle_step_s must be'):
        HyGenConfig.load({"hygen": {"idle_step_s": 0}}, {})
    expected = r'^additional_config\["hygen"\] must be an object or the path of a file, got list$'
    with pytest.raises(ConfigError, match=expected):
        HyGenConfig.load({"hygen": ["idle_step_s"]}, {})


@pytest.mark.parametrize(
    "text",
    ["mode: off\n", '{"idle_step_s": 1e-05}', '{\n\t"idle_step_s": 0.05\n}', "hygen:\n# x: 1\n"],
)
def test_config_file_as_people_and_programs_write_it_is_read(tmp_path: Path, text: str) -> None:
    """YAML's off, JSON's exponents and tabs, and a section with everything commented out."""
    path = tmp_path / "hygen.yaml"
    path.write_text(text)
    HyGenConfig.from_file(str(path))


@pytest.mark.parametrize("text", ["idle_step_s: 2001-13-45\n", "mode: |\n  fixed\n"])
def test_config_file_with_odd_yaml_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    """Whatever YAML makes of a value, the error is a ConfigError of one line."""
    path = tmp_path / "hygen.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        HyGenConfig.from_file(str(path))
    assert "\n" not in str(caught.value)


def test_config_number_beyond_floats_is_refused() -> None:
    """A whole number that no float can hold is none."""
    with pytest.raises(ConfigError, match="idle_step_s must be a valid number"):
        HyGenConfig(idle_step_s=10**400)


def test_config_file_in_an_unknown_home_is_refused() -> None:
    """A path that cannot be expanded is a file that cannot be read."""
    with pytest.raises(ConfigError, match="cannot read"):
        HyGenConfig.from_file("~nosuchuser/hygen.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"offline_max_wait_s": 0}, "offline_max_wait_s must be greater than 0, got 0"),
        ({"offline_order": "fifo"}, "offline_order must be 'prefix' or 'fcfs', got 'fifo'"),
        ({"tenant_weights": {"a": 0}}, "tenant_weights['a'] must be greater than 0, got 0"),
        ({"tenant_weights": {"a": True}}, "tenant_weights['a'] must be a valid number, got True"),
        ({"tenant_weights": {"a": "2"}}, "tenant_weights['a'] must be a valid number, got '2'"),
        ({"tenant_weights": {7: 1.0}}, "tenant_weights[7] must be a valid string, got 7"),
        ({"tenant_weights": ["a"]}, "tenant_weights must be a valid dictionary, got ['a']"),
    ],
)
def test_config_of_the_offline_lane_is_checked(values: dict[str, Any], message: str) -> None:
    """One line with field, value, limit and remedy."""
    with pytest.raises(ConfigError) as caught:
        HyGenConfig.from_mapping(values, "here")
    assert str(caught.value).startswith(f"here: {message}")


def test_config_of_the_offline_lane_may_be_at_its_limits() -> None:
    """No bound, small weights."""
    for values in (
        {"offline_max_wait_s": None},
        {"tenant_weights": {"a": 1e-9, "b": 3}},
        {"tenant_weights": {}},
    ):
        HyGenConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", HyGenConfig.gone)
def test_setting_of_an_earlier_version_is_answered_with_what_there_is_instead(name: str) -> None:
    """In one line; a misspelt one is no such setting."""
    assert _error({name: 1}).startswith(f"{name} is no setting any more: ")
    assert "valid keys" in _error({f"{name}s": 1})
