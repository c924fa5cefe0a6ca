# SPDX-License-Identifier: Apache-2.0
"""All that knows vLLM: the scheduler, its hook, and every question asked of vLLM's state."""
