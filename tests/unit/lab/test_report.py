# SPDX-License-Identifier: Apache-2.0
"""Results of simulations as one HTML page."""

import html
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hygen_vllm.lab.cli import build_parser, main
from hygen_vllm.lab.report.number_text import NOTHING
from hygen_vllm.lab.report.page import report_page
from hygen_vllm.lab.report.result_file import FORMAT, VERSION
from tests.support.results import NO_STATS, OPTIONS, RESULT, Page, document, page, result, undrawn

HOSTILE = '</title><script>alert("x")</script><img src=x onerror=y> $x^{$ & -->'


@pytest.fixture(scope="module")
def two_html() -> str:
    """The page of two results that differ in their policy."""
    return report_page([result(), result("b.json", policy="vllm-fcfs")])


class TestCommand:
    def test_report_of_results_writes_the_page_and_prints_its_path(
        self, write_result, tmp_path, capsys
    ):
        """Two files in, one page out."""
        out = tmp_path / "page.html"
        files = [write_result("a.json"), write_result("b.json", policy="vllm-priority")]
        assert 0 == main(["report", *files, "--out", str(out)])
        assert (f"{out}\n", "") == tuple(capsys.readouterr())
        assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")

    def test_report_without_out_writes_report_html_here(self, write_result, tmp_path, monkeypatch):
        """The default is a file in the current folder."""
        monkeypatch.chdir(tmp_path)
        assert 0 == main(["report", write_result()])
        assert (tmp_path / "report.html").is_file()

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"policy": ...}, "no policy"),
            ({"online__ttft_s": ...}, "no online.ttft_s"),
            ({"online": 3}, "online must be an object"),
            ({"slo": {}}, "slo must be a list"),
            ({"slo": [{"slo": 1}]}, "slo[0].slo must not be '1'"),
            ({"online__ttft_s__mean": "fast"}, "online.ttft_s.mean must not be 'fast'"),
            ({"virtual_s": True}, "virtual_s must not be 'True'"),
            ({"virtual_s": float("inf")}, "virtual_s must not be 'inf'"),
            ({"total_tokens_per_s": float("nan")}, "total_tokens_per_s must not be 'nan'"),
            ({"details": []}, "details must be an object"),
            ({"details__format": ...}, "no details.format"),
            ({"details__format": "other"}, "details say other 1; make it again with: hygen sim"),
            ({"details__version": 2}, "details say hygen-result 2; make it again"),
            ({"details__kind": "guessed"}, "details.kind must be simulated or measured, got 'gu"),
            ({"details__engine__device": ...}, "no details.engine.device"),
            ({"details__series__step_s": [1.0]}, "details.series.step_s has 1 members, time_s"),
            ({"details__series__samples__refusals": {"x": [1]}}, "samples.x has 1 members"),
            ({"details__quantiles__tbt_s": [1.0]}, "details.quantiles.tbt_s has 1 members"),
            ({"details__num_samples": 3}, "details.num_samples must be an object"),
        ],
    )
    def test_bad_result_exits_2_with_one_line_that_names_the_file(
        self, changes, reason, write_result, tmp_path, capsys
    ):
        """The reader learns which file and which member; no page is made."""
        path, out = write_result(**changes), tmp_path / "page.html"
        assert 2 == main(["report", path, "--out", str(out)])
        output = capsys.readouterr()
        assert output.err.startswith(f"hygen: {path} is not a {FORMAT} {VERSION} file: ")
        assert reason in output.err
        assert (1, "") == (output.err.count("\n"), output.out)
        assert not out.exists()

    @pytest.mark.parametrize(
        "content", [b"", b"[]", b"3", b"{", b"\xff\xfe", b"[" * 100_000, b"policy,ttft\n1,2\n"]
    )
    def test_foreign_file_exits_2_with_its_name(self, content, tmp_path, capsys):
        """Whatever is in it."""
        path = tmp_path / "foreign.json"
        path.write_bytes(content)
        assert 2 == main(["report", str(path), "--out", str(tmp_path / "page.html")])
        error = capsys.readouterr().err
        assert error.startswith(f"hygen: {path} is not a {FORMAT} {VERSION} file: ")
        assert 1 == error.count("\n")

    def test_file_that_cannot_be_read_exits_2_with_its_name(self, tmp_path, capsys):
        """A missing file, and a folder."""
        for path in (tmp_path / "none.json", tmp_path):
            assert 2 == main(["report", str(path), "--out", str(tmp_path / "page.html")])
            error = capsys.readouterr().err
            assert error.startswith(f"hygen: cannot read result {path}: ")
            assert 1 == error.count("\n")

    def test_out_that_would_harm_exits_2(self, write_result, tmp_path, capsys):
        """No folder is made, and no result is overwritten."""
        path = write_result()
        for out, reason in (
            (tmp_path / "no" / "page.html", "a file in a folder that exists"),
            (tmp_path, "a file in a folder that exists"),
            (path, "not be one of the results"),
        ):
            assert 2 == main(["report", path, "--out", str(out)])
            assert f"--out must {reason}" in capsys.readouterr().err.replace("name ", "")
        assert document() == json.loads(Path(path).read_text(encoding="utf-8"))

    def test_missing_matplotlib_gives_the_command_that_installs_it(
        self, write_result, tmp_path, monkeypatch, capsys
    ):
        """One line, and no page without its charts."""
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        out = tmp_path / "page.html"
        assert 2 == main(["report", write_result(), "--out", str(out)])
        hint = 'hygen: the charts need matplotlib: pip install "hygen-vllm[lab]"\n'
        assert (hint, False) == (capsys.readouterr().err, out.exists())
        assert 0 == main(["report", write_result(details=...), "--out", str(out)])

    def test_importing_the_report_loads_no_engine(self):
        """It works where vLLM is not installed."""
        code = "import sys, hygen_vllm.lab.report.report\n"
        code += "print(sorted({'vllm', 'torch', 'matplotlib', 'pandas'} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        assert b"[]" == done.stdout.strip()


class TestPage:
    def test_page_says_once_what_all_results_share(self):
        """Engine, limits, workload, seed and virtual time."""
        text = page(undrawn(), undrawn("b.json", policy="vllm-priority")).text
        for fact in (
            "engine Tiny on Abacus, float16, TP 1, PP 1",
            "2,600 KV blocks of 16 tokens; up to 512 tokens and 8 requests a step",
            "synchronous stepping",
            "online conv.csv; 4 requests",
            "offline arxiv.csv; 20 requests",
            "seed 0",
            "virtual time 4.0 s",
        ):
            assert 1 == text.count(fact), fact
        assert "differ" not in text

    def test_page_of_different_runs_says_first_in_what_they_differ(self):
        """So that nobody compares policies where something else changed too."""
        other = {"profile": "big", "details__engine__device": "Loom", "seed": 3}
        text = page(undrawn(), undrawn("b.json", policy="vllm-fcfs", **other)).text
        assert text.index("These results differ in more than the policy") < text.index("TTFT")
        assert "seed: 0 (slo); 3 (vllm-fcfs)" in text
        assert "profile: tiny (slo); big (vllm-fcfs)" in text
        assert "Tiny on Loom, float16, TP 1, PP 1 (vllm-fcfs)" in text

    def test_flag_that_only_one_run_had_is_a_difference(self):
        """A run with half its steps 30 % slower is another run."""
        plain = {name: value for name, value in OPTIONS.items() if name != "slowdown"}
        text = page(undrawn(), undrawn("b.json", policy="x", details__options=plain)).text
        assert "slowdown: 2:1.3 (slo); not given (x)" in text

    def test_workload_that_a_policy_leaves_out_is_no_difference(self):
        """online-only is compared with the others, though it serves no offline request."""
        alone = {"policy": "online-only", "details__workload__offline": "none"}
        assert "differ" not in page(undrawn(), undrawn("b.json", **alone)).text
        assert "offline: arxiv.csv; 20 requests (slo); none (vllm-fcfs)" in (
            page(undrawn(), undrawn("b.json", **{**alone, "policy": "vllm-fcfs"})).text
        )

    def test_table_has_every_policy_with_its_slos_in_words(self):
        """Measured beside the limit; a colour alone would say nothing on paper."""
        names = ("online-only", "vllm-fcfs", "slo", "hygen")
        text = page(*(undrawn(f"{name}.json", policy=name) for name in names)).text
        for name in names:
            assert re.search(rf"\b{name} HyGen with SLOs mode fixed", text)
        assert (
            4
            == text.count("met tbt_p99 40.0 ≤ 60.0 ms")
            == text.count("NOT met tbt_mean 20.0 > 15.2 ms")
        )
        assert "latency_budget_s 0.2 20.0 40.0 20.0 40.0 1,417 1,560 2,977 7" in text
        assert "25.0 % 3" in text.replace("\N{NO-BREAK SPACE}", " ")

    def test_result_without_online_requests_has_no_numbers_for_them(self):
        """A dash is not a zero, and an unknown SLO is neither met nor missed."""
        unknown = {"slo": "tbt_p99=60ms", "limit_s": 0.06, "measured_s": None, "met": None}
        nothing = {"levels": [0.0, 1.0], "ttft_s": [], "tbt_s": []}
        found = page(
            result(
                online__ttft_s=NO_STATS,
                online__tbt_s=NO_STATS,
                slo=[unknown],
                details__quantiles=nothing,
                details__series__online_arrivals_per_s=[0.0] * 4,
            )
        )
        assert "no data tbt_p99=60ms" in found.text
        assert f"0.2 {NOTHING} {NOTHING} {NOTHING} {NOTHING} 1,417" in found.text
        assert not any("TBT" in title or "load" in title for title in found.charts)

    def test_ttft_of_requests_that_got_no_token_is_a_lower_bound(self):
        """The table marks it, a note says of how many."""
        text = page(undrawn(details__unserved=2)).text
        assert "≥20.0 ≥40.0 20.0 40.0" in text
        assert "slo: 2 of 4 online requests had no token when the run ended." in text

    def test_best_policy_meets_all_slos(self):
        """More offline work does not count where an SLO is missed."""
        met = [RESULT["slo"][0]]
        results = [
            undrawn("a.json", policy="rate-capped", slo=met, offline__tokens_per_s=100.0),
            undrawn("b.json", policy="slo", slo=met, offline__tokens_per_s=200.0),
            undrawn("c.json", policy="vllm-fcfs", slo=[{**met[0], "met": False}]),
        ]
        found = page(*results)
        assert "Most offline work with all SLOs met: slo , 200 offline tokens/s." in found.text
        rows = [attributes.get("class") for tag, attributes in found.elements if tag == "tr"][2:]
        assert ["hygen", "hygen best", "baseline"] == rows
        missed = undrawn(slo=[{**met[0], "met": False}])
        assert "No policy does offline work with all SLOs met." in page(results[2], missed).text

    def test_best_policy_is_not_named_where_runs_differ(self):
        """With another seed the difference may be luck."""
        met = [RESULT["slo"][0]]
        text = page(undrawn("a.json", slo=met), undrawn("b.json", slo=met, seed=1)).text
        assert "Most offline work" not in text

    def test_whatever_a_result_says_is_text(self):
        """Names from a file become neither elements nor attributes, in HTML and in SVG."""
        unknown = {"slo": HOSTILE, "limit_s": 0.06, "measured_s": None, "met": None}
        named = {"policy": HOSTILE, "profile": HOSTILE, "slo": [unknown]}
        detailed = {
            "details__policy": HOSTILE,
            "details__settings": {HOSTILE: HOSTILE},
            "details__engine__model": HOSTILE,
            "details__workload__online": HOSTILE,
            "details__options": {HOSTILE: [HOSTILE]},
        }
        refusals = {"details__series__samples__refusals": {HOSTILE: [1, 1, 1]}}
        drawn = result(f"{HOSTILE}.json", **named, **detailed, **refusals)
        for results in (
            [drawn, undrawn("b.json")],
            [undrawn(**named, **detailed)],
            [undrawn(**named, details=...)],
        ):
            found = page(*results)
            assert HOSTILE in found.text
            assert not {"script", "img"} & {tag for tag, _ in found.elements}
            assert not any(name.startswith("on") for _, names in found.elements for name in names)
        assert any(HOSTILE[:20] in title for title in page(drawn).charts)

    def test_page_needs_no_other_file(self, two_html):
        """It works offline and years later."""
        assert "http" not in two_html
        assert "@import" not in two_html
        assert not re.search(r"url\((?!#)", two_html)
        for tag, attributes in Page(two_html).elements:
            assert tag not in {"script", "link", "img", "iframe", "image"}
            assert "src" not in attributes
            assert (attributes.get("xlink:href") or "#").startswith("#")

    def test_same_results_give_the_same_bytes(self, write_result, tmp_path):
        """No date, no random identifier."""
        path, outs = write_result(), [tmp_path / name for name in ("a.html", "b.html")]
        for out in outs:
            assert 0 == main(["report", path, "--out", str(out)])
        assert outs[0].read_bytes() == outs[1].read_bytes()

    def test_result_without_details_has_a_row_and_a_note_instead_of_charts(self):
        """Other tools may have stripped them; results beside it keep their charts."""
        text = page(result(details=...)).text
        assert "NOT met tbt_mean" in text
        assert "No charts of slo: they need the member details" in text
        both = page(result(details=...), result("b.json", policy="vllm-fcfs"))
        assert "No charts of slo: they need" in both.text
        assert "Simulated throughput: vllm-fcfs" in both.charts
        assert not any(title.endswith("slo") for title in both.charts)

    def test_commands_in_the_footer_make_the_results_again(self):
        """Each parses to the options that the result says it was made with."""
        found = re.search(r"<pre>(.*?)</pre>", report_page([undrawn("my file.json")]))
        command = shlex.split(html.unescape(found[1]))
        parsed = vars(build_parser().parse_args(command[1:]))
        expected = {**OPTIONS, "slowdown": [(2.0, 1.3)], "json": "my file.json"}
        assert expected == {name: parsed[name] for name in expected}
