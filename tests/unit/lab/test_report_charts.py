# SPDX-License-Identifier: Apache-2.0
"""Charts, numbers and names on the page about results."""

import re
from pathlib import Path

import pytest

from hygen_vllm.config import ConfigError
from hygen_vllm.lab.report.chart_style import policy_lines
from hygen_vllm.lab.report.comparison import labels_of
from hygen_vllm.lab.report.distributions import distribution_legend, slo_limits
from hygen_vllm.lab.report.number_text import rounded, told_apart
from hygen_vllm.lab.report.page import report_page
from hygen_vllm.lab.report.result_file import Result, read_result, read_results
from tests.support.results import Page, page, result

HOSTILE = '</title><script>alert("x")</script><img src=x onerror=y> $x^{$ & -->'


@pytest.fixture(scope="module")
def two_html() -> str:
    """The page of two results that differ in their policy."""
    return report_page([result(), result("b.json", policy="vllm-fcfs")])


def legend_of(shown: Result) -> list[str]:
    """Return the texts of the legend of the distributions."""
    return [entry.text for entry in distribution_legend([shown], ["slo"], policy_lines(["slo"]))]


class TestCharts:
    def test_every_chart_says_in_its_title_that_it_is_simulated(self, two_html):
        """It will be cut out of the page and shown alone."""
        found = Page(two_html)
        assert [
            "Simulated online TTFT",
            "Simulated online TBT",
            "Simulated online load: the same for all",
            *(f"Simulated throughput: {name}" for name in ("slo", "vllm-fcfs")),
            *(f"Simulated step time: {name}" for name in ("slo", "vllm-fcfs")),
            *(f"Simulated offline refusals: {name}" for name in ("slo", "vllm-fcfs")),
            *(f"Simulated KV cache: {name}" for name in ("slo", "vllm-fcfs")),
        ] == found.charts
        for title in found.charts:
            assert title in found.texts, "the title is text in the chart"

    def test_titles_of_measured_results_say_measured(self):
        """The word comes from the result."""
        measured = result("b.json", policy="hygen", details__kind="measured")
        assert all(title.startswith("Measured ") for title in page(measured).charts)
        both = page(result(), measured)
        assert "Simulated and measured online TBT" in both.charts
        assert "Measured KV cache: hygen" in both.charts
        assert "kind: simulated (slo); measured (hygen)" in both.text

    def test_slos_are_lines_in_the_chart_of_their_metric(self, two_html):
        """Red and dashed, with the limit in words; a relative one stands where it was resolved."""
        ttft, tbt = re.findall(r"<svg[^>]*aria-label.*?</svg>", two_html, re.DOTALL)[:2]
        dashed = re.compile(r"stroke-dasharray: [\d., ]+;[^\"]*stroke: #c62828")
        assert (0, 2) == (len(dashed.findall(ttft)), len(dashed.findall(tbt)))
        assert "P99 ≤ 60 ms" in tbt
        assert "mean ≤ 15.2 ms" in tbt

    def test_equal_limits_of_several_results_are_one_line(self):
        """Different ones are all drawn, the smallest first."""
        other = [{"slo": "tbt_p90=5ms", "limit_s": 0.005, "measured_s": None, "met": None}]
        limits = slo_limits("tbt", [result(), result("b.json"), result("c.json", slo=other)])
        assert ["P90 ≤ 5 ms", "mean ≤ 15.2 ms", "P99 ≤ 60 ms"] == [x.text for x in limits]
        assert [10.0, None, 1.0] == [limit.percent for limit in limits]
        assert [] == slo_limits("ttft", [result()])

    def test_sample_counts_stand_in_the_legend(self):
        """Requests as arrived; gaps where the result counts them."""
        assert "slo (n = 4 requests)" in legend_of(result())
        counted = result(details__num_samples={"ttft_s": 4, "tbt_s": 1200})
        assert "slo (n = 4 requests, 1,200 gaps)" in legend_of(counted)

    def test_identifiers_of_all_charts_are_unique_and_known(self, two_html):
        """Charts in one page do not take each other's clip paths."""
        identifiers = re.findall(r' id="([^"]+)"', two_html)
        assert len(identifiers) == len(set(identifiers)) > 0
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', two_html)) == set(identifiers)

    def test_policy_without_refusals_gets_no_chart_of_them(self):
        """Stock vLLM refuses nothing; an empty chart would say it was measured."""
        quiet = {"details__series__samples__refusals": {}}
        found = page(result(), result("b.json", policy="vllm-fcfs", **quiet))
        assert ["Simulated offline refusals: slo"] == [
            title for title in found.charts if "refusals" in title
        ]

    def test_different_online_loads_are_all_drawn(self):
        """In the order of the results."""
        other = {"details__series__online_arrivals_per_s": [3.0, 0.0, 0.0, 0.0]}
        found = page(result(), result("b.json", policy="vllm-fcfs", **other))
        assert [f"Simulated online load: {name}" for name in ("slo", "vllm-fcfs")] == [
            title for title in found.charts if "load" in title
        ]

    def test_run_without_a_step_is_shown_all_the_same(self):
        """Nothing arrived in it."""
        samples = {"time_s": [], "online_kv_share": [], "offline_kv_share": [], "refusals": {}}
        nothing = {
            "virtual_s": 0.0,
            "details__series__samples": samples,
            "details__series__step_s": [None] * 4,
            "details__series__limit_s": [None] * 4,
        }
        titles = page(result(**nothing)).charts
        assert "Simulated throughput: slo" in titles
        assert not any("step" in title or "KV" in title for title in titles)

    @pytest.mark.filterwarnings("error")
    def test_letters_that_the_drawing_library_lacks_stay_text_without_a_warning(self):
        """The browser has them."""
        assert "Simulated KV cache: \u7b56\u7565" in page(result(policy="\u7b56\u7565")).texts

    def test_long_names_keep_their_ends_in_titles(self):
        """Names of results often differ in the last letters."""
        results = [result(f"{'x' * 200}-{number}.json") for number in (1, 2)]
        titles = [title for title in page(*results).charts if "KV" in title]
        assert ["-1]", "-2]"] == [title[-3:] for title in titles]
        assert all(len(title) < 90 for title in titles)


class TestParts:
    def test_results_of_one_policy_are_told_apart_by_their_files(self):
        """By name, then by path."""
        assert ["slo [a]", "slo [b]", "x"] == labels_of(
            [result("a.json"), result("b.json"), result("a.json", policy="x")]
        )
        assert ["slo [d/a.json]", "slo [e/a.json]"] == labels_of(
            [result("d/a.json"), result("e/a.json")]
        )

    def test_result_named_twice_is_refused(self, write_result):
        """Two equal rows are a slip."""
        path = Path(write_result())
        with pytest.raises(ConfigError, match="is named twice"):
            read_results([path, path])

    def test_unprintable_letters_of_a_result_become_spaces(self, write_result):
        """They would break the page, or could not be written."""
        assert "a b c" == read_result(Path(write_result(policy="a\u0000b\ud800c"))).policy

    def test_baselines_are_grey_and_no_two_lines_are_alike(self):
        """Also where one policy comes five times."""
        names = ["online-only", "offline-only", "vllm-fcfs", "vllm-priority", "vllm-fcfs"]
        names += ["slo", "slo", "hygen", "fixed-budget", "rate-capped", "online-first", "other"]
        lines = policy_lines(names)
        assert len(names) == len(set(lines))
        spreads = [max(rgb) - min(rgb) for rgb in (bytes.fromhex(x.colour[1:]) for x in lines)]
        assert all(spread < 30 for spread in spreads[:5])
        assert all(spread > 80 for spread in spreads[5:])

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0.0, "0"),
            (0.456, "0.46"),
            (0.996, "1.0"),
            (9.96, "10.0"),
            (99.94, "99.9"),
            (99.96, "100"),
            (130890.6, "130,891"),
        ],
    )
    def test_numbers_have_about_three_digits(self, value, text):
        """And no more digits after the next power of ten than before it."""
        assert text == rounded(value)

    def test_numbers_side_by_side_never_look_equal_when_they_are_not(self):
        """A limit of 15.2 that is missed by 15.2 would look like a mistake."""
        assert ("15.2", "15.3") == told_apart(15.2, 15.3)
        assert ("15.21", "15.2") == told_apart(15.21, 15.2)
        assert ("15.2", "15.2") == told_apart(15.234, 15.234)
