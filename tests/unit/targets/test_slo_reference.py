# SPDX-License-Identifier: Apache-2.0
"""What relative targets are relative to, from a file: found, read, or refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from hygen_vllm.config import ConfigError, HyGenConfig
from hygen_vllm.slo import Slo
from hygen_vllm.targets.reference import FILE_NAME, Reference, find_reference, load_reference
from tests.support.results import document

ONLINE = {"ttft_s": {"mean": 0.11, "p99": 0.36}, "tbt_s": {"mean": 0.012, "p99": 0.038}}


def _write(path: Path, online: Any = ONLINE) -> str:
    path.write_text(json.dumps({"online": online}), encoding="utf-8")
    return str(path)


def _refused(text: str | bytes, path: Path) -> str:
    """Return the one line that refuses a file with this text, with its path shown as FILE."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return _error(path)


def _error(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_reference(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


# --- what is in a file -------------------------------------------------------------------------


def test_reference_in_the_documented_form_is_read(tmp_path: Path) -> None:
    """Statistics by metric and name, in seconds; its source is its path."""
    path = tmp_path / "any.json"
    _write(path)
    stats = {"ttft": {"mean": 0.11, "p99": 0.36}, "tbt": {"mean": 0.012, "p99": 0.038}}
    assert Reference(stats, str(path)) == load_reference(path)


def test_reference_written_by_a_simulation_is_read(tmp_path: Path) -> None:
    """The result file as it is, with whatever else is in it."""
    path = tmp_path / "result.json"
    result = document()
    path.write_text(json.dumps(result), encoding="utf-8")
    stats = {"mean": 0.02, "p50": 0.02, "p90": 0.03, "p99": 0.04}
    assert {"ttft": stats, "tbt": stats} == load_reference(path).stats


@pytest.mark.parametrize("online", [{}, {"tbt_s": {}}, {"ttft_s": {"mean": None}, "other": 7}])
def test_reference_in_which_nothing_was_measured_has_no_statistics(
    tmp_path: Path, online: dict[str, Any]
) -> None:
    """It is no error before a target asks for one."""
    assert {"ttft": {}, "tbt": {}} == load_reference(Path(_write(tmp_path / "r", online))).stats


def test_reference_with_whole_numbers_has_seconds(tmp_path: Path) -> None:
    """JSON writes 1.0 as 1 in some languages."""
    stats = load_reference(Path(_write(tmp_path / "r", {"tbt_s": {"p50": 1}}))).stats
    assert ({"p50": 1.0}, float) == (stats["tbt"], type(stats["tbt"]["p50"]))


# --- targets -----------------------------------------------------------------------------------

REFERENCE = Reference({"ttft": {"mean": 0.1}, "tbt": {"mean": 0.02, "p99": 0.04}}, "FILE")


@pytest.mark.parametrize(
    ("text", "limit_s"),
    [("tbt_p99=+50%", 0.06), ("tbt_mean=+0%", 0.02), ("ttft_mean=+10%", 0.11)],
)
def test_relative_target_gets_a_limit_in_seconds(text: str, limit_s: float) -> None:
    """Its own statistic, risen by its share; afterwards it is a target like any other."""
    slo, resolved = Slo.parse(text), REFERENCE.resolved(Slo.parse(text))
    assert (slo.metric, slo.statistic) == (resolved.metric, resolved.statistic)
    assert (pytest.approx(limit_s), None) == (resolved.limit_s, resolved.rise)


@pytest.mark.parametrize("text", ["tbt_p99=45ms", "ttft_p50=1s"])
def test_target_in_seconds_needs_no_reference(text: str) -> None:
    """It stays what it is, whether its statistic is in the file or not."""
    assert Slo.parse(text) == REFERENCE.resolved(Slo.parse(text))


@pytest.mark.parametrize("text", ["tbt_p50=+5%", "ttft_p99=+5%"])
def test_relative_target_without_its_statistic_is_refused_in_one_line(text: str) -> None:
    """The line names file, statistic and target."""
    with pytest.raises(ConfigError) as caught:
        REFERENCE.resolved(Slo.parse(text))
    assert f"FILE has no {text.removesuffix('=+5%')} for {text}" == str(caught.value)


def test_relative_target_of_a_metric_that_is_not_there_is_refused() -> None:
    """As if its statistic were missing."""
    with pytest.raises(ConfigError, match=r"^FILE has no ttft_mean for ttft_mean=\+5%$"):
        Reference({}, "FILE").resolved(Slo.parse("ttft_mean=+5%"))


# --- files that cannot be used -----------------------------------------------------------------


def test_reference_that_is_missing_or_a_folder_is_named_with_the_reason(tmp_path: Path) -> None:
    """What the system says about the path is in the line."""
    prefix = "cannot read reference FILE: "
    assert prefix + "No such file or directory" == _error(tmp_path / "gone.json")
    assert prefix + "Is a directory" == _error(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("mean: 0.1\n", "Expecting value"),
        ('{"online": {"tbt_s"\n', "Expecting ':' delimiter"),
        (b"\xff\xfe", "'utf-8' codec can't decode"),
        ("{}", "no 'online'"),
        ('{"offline": {}}', "no 'online'"),
        ("[1]", "list indices must be"),
        ("7", "'int' object is not subscriptable"),
        ('{"online": null}', "'NoneType' object has no attribute"),
        ('{"online": {"tbt_s": null}}', "'NoneType' object has no attribute"),
        ('{"online": {"tbt_s": [0.1]}}', "'list' object has no attribute"),
        ('{"online": {"tbt_s": {"mean": "fast\\nenough"}}}', "could not convert string to float"),
        ('{"online": {"tbt_s": {"mean": [0.1]}}}', "float() argument must be"),
        (f'{{"online": {{"tbt_s": {{"mean": {10**400}}}}}}}', "int too large to convert"),
        ("[" * 100_000, ""),
    ],
)
def test_reference_that_is_something_else_is_refused_in_one_line(
    tmp_path: Path, text: str | bytes, reason: str
) -> None:
    """Whatever is in it, the line names the file and what is wrong."""
    assert _refused(text, tmp_path / "r").startswith(f"reference FILE is not a JSON file: {reason}")


@pytest.mark.parametrize("value", ["-0.1", "NaN", "Infinity", "-Infinity", "false"])
@pytest.mark.parametrize("metric", ["ttft_s", "tbt_s"])
def test_statistic_that_is_no_time_is_refused_with_its_name(
    tmp_path: Path, metric: str, value: str
) -> None:
    """No latency is negative or infinite: nothing could be relative to it."""
    text = f'{{"online": {{"{metric}": {{"mean": 0.1, "p99": {value}}}}}}}'
    line = _refused(text, tmp_path / "r")
    expected = "reference FILE is not a JSON file: p99 must be > 0 and finite, got "
    assert f"{expected}{json.loads(value)}" == line


@pytest.mark.parametrize("value", ["0", "0.0", "null"])
def test_statistic_that_says_nothing_is_as_if_it_were_not_there(tmp_path: Path, value: str) -> None:
    """A median of 0 s, of tokens that came at once, spoils no other statistic."""
    path = tmp_path / "r"
    path.write_text(f'{{"online": {{"tbt_s": {{"p50": {value}, "p99": 0.1}}}}}}', encoding="utf-8")
    reference = load_reference(path)
    assert {"p99": 0.1} == reference.stats["tbt"]


# --- where it is found -------------------------------------------------------------------------


def _profile(folder: Path) -> str:
    """Make a folder with a profile, and return it."""
    folder.mkdir()
    (folder / "profile.json").write_text("{}", encoding="utf-8")
    return str(folder)


def _config(**values: Any) -> HyGenConfig:
    return HyGenConfig(slos=["tbt_p99=+20%"], **values)


def test_reference_that_is_nowhere_is_estimated(tmp_path: Path) -> None:
    """Neither named nor in the profile's folder, or without a profile."""
    assert find_reference(_config()) is None
    assert find_reference(_config(profile=_profile(tmp_path / "p"))) is None
    (tmp_path / "p" / FILE_NAME).mkdir()
    assert find_reference(_config(profile=str(tmp_path / "p"))) is None


def test_reference_in_the_folder_of_the_profile_is_found(tmp_path: Path) -> None:
    """Under its name, with the profile given as a folder or as a file."""
    folder = _profile(tmp_path / "p")
    path = _write(tmp_path / "p" / "online-alone.json")
    for profile in (folder, f"{folder}/profile.json"):
        reference = find_reference(_config(profile=profile))
        assert reference is not None
        assert (path, 0.038) == (reference.source, reference.stats["tbt"]["p99"])


def test_reference_that_is_named_wins_over_the_one_of_the_profile(tmp_path: Path) -> None:
    """Also if that one could not be read, or there is no such profile."""
    named = _write(tmp_path / "named.json", {"tbt_s": {"p99": 0.5}})
    folder = _profile(tmp_path / "p")
    (tmp_path / "p" / FILE_NAME).write_text("{", encoding="utf-8")
    for profile in (folder, "nosuchprofile", None):
        reference = find_reference(_config(profile=profile, slo_reference=named))
        assert reference is not None
        assert (named, {"p99": 0.5}) == (reference.source, reference.stats["tbt"])


def test_reference_in_the_home_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path may begin with a tilde."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = _write(tmp_path / "r.json")
    reference = find_reference(_config(slo_reference="~/r.json"))
    assert reference is not None
    assert path == reference.source


@pytest.mark.parametrize("content", [None, "{"])
def test_reference_that_is_named_and_cannot_be_used_is_refused(
    tmp_path: Path, content: str | None
) -> None:
    """What was asked for is not silently replaced by an estimate."""
    folder = _profile(tmp_path / "p")
    _write(tmp_path / "p" / FILE_NAME)
    if content is not None:
        (tmp_path / "r.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"reference .*r\.json"):
        find_reference(_config(profile=folder, slo_reference=str(tmp_path / "r.json")))


def test_reference_of_the_profile_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """It is there to be used."""
    folder = _profile(tmp_path / "p")
    (tmp_path / "p" / FILE_NAME).write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"reference .*online-alone\.json is not a JSON file"):
        find_reference(_config(profile=folder))


def test_reference_beside_a_profile_that_does_not_exist_is_no_estimate() -> None:
    """The line is about the profile."""
    with pytest.raises(ConfigError, match="cannot read profile nosuchprofile"):
        find_reference(_config(profile="nosuchprofile"))
