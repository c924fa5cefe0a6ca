# SPDX-License-Identifier: Apache-2.0
"""Several engines as one: what each has to do, who gets a request, where offline work waits. Pure.

Simulated fleets and replicas on Ray (`ray_serving`) run the same code.
"""
