# SPDX-License-Identifier: Apache-2.0
"""`hygen report`: results of `hygen simulate` as one HTML page that needs no other file.

The path of a result: result_file.py (reads and checks it) -> comparison.py (what the results have
in common, in what they differ) -> table.py (a row for each policy, numbers from number_text.py) and
distributions.py, timelines.py (charts, drawn by svg_chart.py, colours from chart_style.py) ->
page.py (the page, by page.html) -> report.py (the file). Same results, same bytes.

Everything that comes from a result is text to escape, never HTML. Nothing here imports vllm.
"""
