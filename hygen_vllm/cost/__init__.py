# SPDX-License-Identifier: Apache-2.0
"""Seconds of a step from what is in it: features, cost, learning, file."""
