# SPDX-License-Identifier: Apache-2.0
"""KV blocks without vLLM: who will want how many."""
