# SPDX-License-Identifier: Apache-2.0
import gzip
import json
import random

import numpy as np
import pytest

from hygen_vllm.lab.workloads import few_shot
from hygen_vllm.lab.workloads.arrival_processes import (
    PROCESSES,
    generate_azure_like,
    generate_process,
)
from hygen_vllm.lab.workloads.sources import (
    ARXIV,
    AZURE,
    MOONCAKE,
    SHAREGPT,
    OnlineQuery,
    Workload,
    find_offline,
    find_online,
)
from tests.support.workload_files import LetterTokenizer, refusal, write_lines

AZURE_LINES = (
    "TIMESTAMP,ContextTokens,GeneratedTokens",
    *(f"2023-11-16 18:{s // 60:02}:{s % 60:02}.0000000,{100 + s},5" for s in range(101)),
)
LENGTHS_LINES = (
    "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio",
    *(f"{number},{number},0,1" for number in range(50, 1250, 50)),
)
MOONCAKE_LINES = tuple(
    json.dumps({"timestamp": 3000 * n, "input_length": 9, "output_length": 7, "hash_ids": [n]})
    for n in range(20)
)
PROMPTS_LINES = tuple(json.dumps({"prompt": "x" * (n + 1)}) for n in range(40))
FILES = {
    "azure": (AZURE_LINES, 101),
    "lengths": (LENGTHS_LINES, 24),
    "mooncake": (MOONCAKE_LINES, 20),
    "prompts": (PROMPTS_LINES, 40),
}
UNKNOWN = {
    "empty": b"",
    "blank": b" \n\n",
    "prose": b"A letter to {you}, with braces.\n",
    "other csv": b'time,"{in}",out\n1,2,3\n',
    "json array": b'[{"prompt": "a"}]',
    "gzip": gzip.compress("\n".join(PROMPTS_LINES).encode(), mtime=0),
    "utf-16": AZURE_LINES[0].encode("utf-16"),
    "binary": random.Random(0).randbytes(5000),
    "zeros": bytes(5000),
}


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    """Without HYGEN_DATA unless a test asks for it."""
    monkeypatch.delenv("HYGEN_DATA", raising=False)


@pytest.fixture
def data(monkeypatch, tmp_path):
    """A data folder with small traces under their real names."""
    for name, lines in (
        (AZURE, AZURE_LINES),
        (MOONCAKE, MOONCAKE_LINES),
        (ARXIV, LENGTHS_LINES),
        (SHAREGPT, LENGTHS_LINES),
    ):
        write_lines(tmp_path / "data" / name, *lines)
    monkeypatch.setenv("HYGEN_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def write(tmp_path):
    return lambda *lines: str(write_lines(tmp_path / "mine.txt", *lines))


def online(what, rate_per_s=None, duration_s=None, seed=0) -> Workload:
    return find_online(OnlineQuery(str(what), rate_per_s, duration_s, seed), LetterTokenizer())


def offline(what, count=None, seed=0) -> Workload:
    return find_offline(str(what), count, seed, LetterTokenizer())


def _lengths(workload: Workload) -> list[tuple[int, int]]:
    return [(item.prompt_tokens, item.output_tokens) for item in workload.requests]


@pytest.mark.parametrize("kind", FILES)
def test_file_of_any_kind_is_known_by_its_content_not_its_name(write, kind):
    """Online with a rate and offline, all of its requests come."""
    lines, count = FILES[kind]
    path = write(*lines)
    assert count == len(offline(path).requests)
    served = online(path) if kind in {"azure", "mooncake"} else online(path, 1.0)
    assert count == len(served.requests)
    assert served.source.startswith("mine.txt")


@pytest.mark.parametrize("text", ["What is TIMESTAMP?", "num_prefill_tokens", 'a "hash_ids" key'])
def test_file_of_prompts_is_one_whatever_its_first_prompt_says(write, text):
    """Names of columns within a text are no columns."""
    path = write("", json.dumps({"prompt": text}))
    assert [(len(text), 128)] == _lengths(offline(path))


@pytest.mark.parametrize("kind", UNKNOWN)
@pytest.mark.parametrize("find", [online, offline])
def test_file_of_an_unknown_kind_is_refused_with_the_known_ones(tmp_path, find, kind):
    """One line with file and formats for text, packed files and any bytes."""
    path = tmp_path / "mine"
    path.write_bytes(UNKNOWN[kind])
    message = refusal(lambda: find(path))
    assert message.startswith(f"{path}:1: neither a CSV with known columns: azure (TIMESTAMP,")
    assert "(num_prefill_tokens,num_decode_tokens)" in message
    assert message.endswith("nor a Mooncake JSONL or a JSONL of prompts")


@pytest.mark.parametrize("start", [b"{", b"TIMESTAMP", b'{"hash_ids"', b"num_prefill_tokens"])
@pytest.mark.parametrize("find", [online, offline])
def test_file_that_only_begins_like_a_known_kind_is_refused_in_one_line(tmp_path, find, start):
    """Whatever the reader of that kind finds, it names the line."""
    path = tmp_path / "mine"
    path.write_bytes(start + UNKNOWN["binary"])
    assert refusal(lambda: find(path)).startswith(f"{path}:1: ")


@pytest.mark.parametrize("what", ["gone.csv", "", "arxiv ", "~nobody-has-this-name/x", "Azure"])
def test_workload_that_is_neither_file_nor_name_is_refused_with_the_names(what):
    """Also a name that is nearly right, or a home folder of nobody."""
    message = refusal(lambda: online(what))
    expected = f"cannot read {what}: no such file, nor one of azure, mooncake, poisson, gamma, "
    assert f"{expected}diurnal, on-off, spike, steps" == message
    assert refusal(lambda: offline(what)).endswith(
        "nor one of arxiv, sharegpt, cnn-dailymail, mmlu, gsm8k"
    )


def test_names_of_one_class_are_none_of_the_other():
    """An online trace has no offline name, and the other way round; files serve both."""
    assert "nor one of arxiv" in refusal(lambda: offline("azure"))
    assert "nor one of azure" in refusal(lambda: online("mmlu"))


def test_file_in_the_home_folder_may_be_named_with_a_tilde(monkeypatch, tmp_path):
    """As a shell would have it; a quoted one comes here as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write_lines(tmp_path / "mine.csv", *LENGTHS_LINES)
    assert 24 == len(offline("~/mine.csv").requests)


@pytest.mark.parametrize(("what", "path"), [("azure", AZURE), ("mooncake", MOONCAKE)])
def test_online_name_is_the_trace_of_the_data_folder(data, what, path):
    """Its own requests at its own times."""
    served = online(what)
    assert path.name == served.source
    assert FILES[what][1] == len(served.requests)
    assert online(data / path, seed=0) == served


@pytest.mark.parametrize("what", ["azure", "mooncake", *PROCESSES])
def test_online_name_without_data_is_generated_and_says_so(what):
    """At the Azure trace's rate unless asked otherwise, for an hour unless asked otherwise."""
    served = online(what, duration_s=600.0)
    kind = what if what in PROCESSES else "gamma gaps"
    expected = f"generated, {kind}, lengths as in the Azure 2023 conversation trace, 5.53 req/s"
    assert expected == served.source
    assert len(served.requests) == pytest.approx(3318, rel=0.1)
    assert 500 < served.requests[-1].time_s < 600
    assert online(what, 0.5, seed=1).requests[-1].time_s == pytest.approx(3600, abs=200)
    assert served == online(what, duration_s=600.0)
    assert served != online(what, duration_s=600.0, seed=1)


@pytest.mark.parametrize("what", ["azure", "mooncake"])
def test_online_trace_without_data_has_gaps_and_lengths_of_the_azure_trace(what):
    """Not those of a process: its gaps vary a little more than independent ones."""
    assert generate_azure_like(5.53, 60.0, seed=3) == online(what, None, 60.0, seed=3).requests


@pytest.mark.parametrize("what", PROCESSES)
def test_process_is_generated_also_where_there_is_data(data, what):
    """A process has no file that could take its place."""
    served = online(what, 1.0, 130.0, seed=3)
    assert served.source.startswith(f"generated, {what}, ")
    assert generate_process(what, 1.0, 130.0, seed=3) == served.requests


def test_trace_is_cut_to_the_duration_and_thinned_to_the_rate(data):
    """A request a second for 100 s, of which the first 50 s are asked for, then half of them."""
    assert [float(second) for second in range(50)] == [
        item.time_s for item in online("azure", duration_s=50.0).requests
    ]
    served = online("azure", 0.5, 50.0)
    assert f"{AZURE.name}, thinned to 0.5 req/s" == served.source
    assert 25 == len(served.requests)
    assert set(_lengths(served)) <= {(100 + second, 5) for second in range(50)}
    assert served == online("azure", 0.5, 50.0)
    assert served != online("azure", 0.5, 50.0, seed=1)


def test_trace_is_thinned_over_its_own_length_where_the_run_is_longer(data):
    """The rate of a trace of 100 s stays the rate, also if asked for an hour."""
    for duration_s in (None, 100.0, 3600.0):
        assert 50 == len(online("azure", 0.5, duration_s).requests)


@pytest.mark.parametrize(("duration_s", "highest"), [(None, "1.01"), (50.0, "1.00")])
def test_rate_above_that_of_the_trace_is_refused_with_it(data, duration_s, highest):
    """With that of the part that is asked for: 101 requests in 100 s, 50 in 50 s."""
    message = refusal(lambda: online("azure", 3.0, duration_s))
    assert f"rate_per_s must be <= {highest}, " in message
    assert message.endswith("got 3.0")


@pytest.mark.parametrize("kind", ["lengths", "prompts"])
def test_file_without_times_needs_a_rate(write, kind):
    """One line that says what is missing."""
    path = write(*FILES[kind][0])
    message = refusal(lambda: online(path))
    assert f"{path} has no times: say at which rate its requests arrive" == message


def test_file_without_times_comes_as_a_poisson_process_in_its_order(write):
    """Independent gaps of the mean that the rate says; the seed chooses them."""
    path = write(*(json.dumps({"prompt": [n], "max_tokens": n + 1}) for n in range(4000)))
    served = online(path, 8.0)
    assert "mine.txt, Poisson, 8 req/s" == served.source
    assert [n + 1 for n in range(4000)] == [item.output_tokens for item in served.requests]
    gaps_s = np.diff([item.time_s for item in served.requests])
    assert gaps_s.mean() == pytest.approx(1 / 8, rel=0.04)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1.0, rel=0.05)
    assert served == online(path, 8.0)
    assert served != online(path, 8.0, seed=1)


def test_file_without_times_is_cut_only_to_a_duration_that_is_asked_for(write):
    """All 40 requests come in their own time, be it hours; in 100 s those that are due."""
    path = write(*PROMPTS_LINES)
    whole = online(path, 0.001).requests
    assert 40 == len(whole)
    assert 10_000 < whole[-1].time_s
    assert [item for item in whole if item.time_s < 9000.0] == online(path, 0.001, 9000.0).requests


@pytest.mark.parametrize("kind", FILES)
def test_offline_file_is_all_there_from_the_start_in_a_seeded_order(write, kind):
    """Every seed has all requests, whatever their times were; a count takes the first of them."""
    path = write(*FILES[kind][0])
    first, again, other = (offline(path, seed=seed) for seed in (1, 1, 2))
    assert {0.0} == {item.time_s for item in first.requests}
    assert first == again
    assert first != other
    assert FILES[kind][1] == len(first.requests)
    if kind != "mooncake":
        assert _lengths(first) != _lengths(other)
        assert sorted(_lengths(first)) == sorted(_lengths(other))
    assert first.requests[:3] == offline(path, 3, seed=1).requests
    assert first == offline(path, 1000, seed=1)


def test_arxiv_rows_that_were_cut_oddly_are_left_out(data):
    """Under 100 prompt tokens or over 1000 output tokens: 50 and 1050 to 1200 of 24 rows."""
    kept = [(number, number) for number in range(100, 1001, 50)]
    assert kept == sorted(_lengths(offline("arxiv")))
    assert ARXIV.name == offline("arxiv").source
    assert kept == sorted(_lengths(offline(data / ARXIV)))


def test_lengths_of_other_files_are_all_kept(data, write):
    """Only the arXiv file is known to have odd rows."""
    assert 24 == len(offline("sharegpt").requests)
    assert SHAREGPT.name == offline("sharegpt").source
    assert 24 == len(offline(write(*LENGTHS_LINES)).requests)


@pytest.mark.parametrize(
    ("what", "mean_prompt", "mean_output"),
    [("arxiv", 2686, 186), ("sharegpt", 2340, 439), ("cnn-dailymail", 781, 56)],
)
def test_offline_lengths_without_data_are_generated_and_say_so(what, mean_prompt, mean_output):
    """Ten thousand of them with the means of the set that is named."""
    made = offline(what)
    assert f"generated, lengths as in {what}" == made.source
    assert 10_000 == len(made.requests)
    assert np.mean(_lengths(made), axis=0) == pytest.approx([mean_prompt, mean_output], rel=0.03)
    assert made.requests[:9] == offline(what, 9).requests
    assert made.requests[:9] != offline(what, 9, seed=1).requests


@pytest.mark.parametrize("count", [0, 1, 7, 12_000])
def test_offline_generated_requests_are_as_many_as_asked(count):
    """Also none; and more than there are otherwise."""
    assert count == len(offline("arxiv", count).requests)


@pytest.mark.parametrize("what", ["mmlu", "gsm8k"])
def test_offline_few_shot_name_is_served_with_and_without_data(monkeypatch, tmp_path, what):
    """From the folder if there is one; else from built-in questions, which the source says."""
    monkeypatch.setattr(few_shot, "NUM_BUILT_IN_SUBJECTS", 2)
    monkeypatch.setattr(few_shot, "BUILT_IN_QUESTIONS", 30)
    made = offline(what)
    assert f"{what.upper()}, few-shot, built-in questions" == made.source
    assert made.requests[:3] == offline(what, 3).requests
    monkeypatch.setenv("HYGEN_DATA", str(tmp_path))
    for part, name in (("dev", "train"), ("test", "test")):
        rows = ("question,a,b,c,d,answer", "Why?,1,2,3,4,0")
        write_lines(tmp_path / "mmlu" / part / f"zoo_{part}.csv", *rows)
        write_lines(tmp_path / "gsm8k" / f"{name}.jsonl", '{"question": "a", "answer": "b"}')
    read = offline(what)
    assert f"{what.upper()}, few-shot" == read.source
    assert 1 == len(read.requests)


def test_data_folder_without_the_trace_is_an_error_of_that_file(monkeypatch, tmp_path):
    """It is never replaced by generated requests in silence."""
    monkeypatch.setenv("HYGEN_DATA", str(tmp_path))
    for find, what in ((online, "azure"), (online, "mooncake"), (offline, "sharegpt")):
        with pytest.raises(OSError, match=r"\.(csv|jsonl)"):
            find(what)
