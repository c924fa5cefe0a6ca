# SPDX-License-Identifier: Apache-2.0
"""`hygen demo`: a real model on a real vLLM engine, the same input under five policies.

The path of a run: policies.py (what is compared) -> workload.py (the input, the same for all) ->
engine.py (vLLM) -> client.py (sends requests, notes when tokens come) -> measure.py (figures) ->
report.py (table, JSON, CSV) and picture.py (PNG). run.py ties them together.
"""
