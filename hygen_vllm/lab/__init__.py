# SPDX-License-Identifier: Apache-2.0
"""What measures, simulates and draws, and the `hygen` commands. Nothing that serves imports it."""
