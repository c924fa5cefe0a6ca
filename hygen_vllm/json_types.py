# SPDX-License-Identifier: Apache-2.0
"""JSON objects as they were parsed: whoever uses a value looks at its type first."""

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]
JsonView = Mapping[str, Any]
"""One that is only read."""
