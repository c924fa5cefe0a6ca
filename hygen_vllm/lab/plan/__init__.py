# SPDX-License-Identifier: Apache-2.0
"""`hygen plan`: what share of the GPUs that serve a trace becomes offline work.

`slots.py` cuts the trace, `slot_job.py` is what is asked of a process, in which `sampled_slots.py`
serves some of it in the simulator, `plan.py` says from these what all of it leaves, `report.py`
shows it.
"""
