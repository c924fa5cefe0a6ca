# SPDX-License-Identifier: Apache-2.0
"""`hygen tune`: the largest fixed latency budget that meets the targets, by probing.

Reading order: `served.py` (what a probe finds), `simulated_server.py` and `engine_server.py` (who
serves it), `tune.py` (search), `report.py` (what was found). The search itself is in
`slo/budget_search.py`.
"""
