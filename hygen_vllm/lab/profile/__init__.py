# SPDX-License-Identifier: Apache-2.0
"""`hygen profile`: runs a real engine over a grid of batch shapes and fits what it measured.

`batch_shapes` says what to run, `shape_runner` makes a real engine run exactly that, `run` keeps
the measured steps in a file that a second start goes on from, `fit` makes a profile of them and
`report` shows how good it is.
"""
