# SPDX-License-Identifier: Apache-2.0
"""Latency targets of the online class."""
