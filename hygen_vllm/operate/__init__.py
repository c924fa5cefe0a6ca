# SPDX-License-Identifier: Apache-2.0
"""What an operator sees of the policy, and how it fails without harm."""
