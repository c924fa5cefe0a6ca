# SPDX-License-Identifier: Apache-2.0
"""Stands in for a device: how long a step would take on a GPU that is not here."""
