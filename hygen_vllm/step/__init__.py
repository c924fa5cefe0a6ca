# SPDX-License-Identifier: Apache-2.0
"""One step without vLLM: what online takes of it, what offline may, how long it took."""
