# SPDX-License-Identifier: Apache-2.0
"""The order of the offline requests that wait.

Reading order: `offline_queue.py` (what the scheduler sees), `fair_share.py` (whose turn it is),
`admission_order.py` (which request of theirs), `prefix_tree.py` (which one shares most).
"""
