# SPDX-License-Identifier: Apache-2.0
"""Offline jobs: a file of requests in, a file of responses out, through an application on Ray.

`batch_file` is the format, `results_file` what was written, `job` runs rows through Ray Data.
"""
