# SPDX-License-Identifier: Apache-2.0
"""Time for the schedulers of this folder."""

from tests.support.clocks import no_real_clock  # noqa: F401 - a fixture, used by every test
