# SPDX-License-Identifier: Apache-2.0
"""ClassRule: label over priority over default, and an unknown label is never guessed at."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hygen_vllm.labels import OTHERS, ClassRule, RequestClass, tenant_of

ONLINE, OFFLINE = RequestClass.ONLINE, RequestClass.OFFLINE
BY_PRIORITY = ClassRule(offline_priority_above=0, default_class=ONLINE)
LABELS_ONLY = ClassRule(offline_priority_above=None, default_class=ONLINE)


@pytest.mark.parametrize("extra_args", [None, {}, {"other": "offline"}, {"slo_class": None}])
@pytest.mark.parametrize("default_class", list(RequestClass))
def test_classify_without_label_or_priority_returns_the_default(
    extra_args: dict[str, Any] | None, default_class: RequestClass
) -> None:
    """A request that says nothing gets the default class, whatever else is in vllm_xargs."""
    for above in (None, 0):
        rule = ClassRule(above, default_class)
        assert rule.classify(extra_args, priority=0) == default_class


@pytest.mark.parametrize(
    ("above", "priority", "expected"),
    [
        (0, -1, ONLINE),
        (0, 0, ONLINE),
        (0, 1, OFFLINE),
        (5, 5, ONLINE),
        (5, 6, OFFLINE),
        (-3, -2, OFFLINE),
        (None, 10**6, ONLINE),
    ],
)
def test_classify_without_label_compares_priority_with_the_limit(
    above: int | None, priority: int, expected: RequestClass
) -> None:
    """Strictly above the limit is offline; without a limit priority says nothing."""
    assert ClassRule(above, ONLINE).classify(None, priority) == expected


def test_classify_with_low_priority_keeps_an_offline_default() -> None:
    """Priority makes requests offline, never online."""
    assert ClassRule(0, OFFLINE).classify(None, priority=-5) == OFFLINE


@pytest.mark.parametrize("rule", [BY_PRIORITY, LABELS_ONLY])
@pytest.mark.parametrize("priority", [-1, 0, 1])
@pytest.mark.parametrize(
    ("label", "expected"),
    [("online", ONLINE), ("offline", OFFLINE), ("Offline", OFFLINE), (" ONLINE\n", ONLINE)],
)
def test_classify_with_label_ignores_priority_and_default(
    rule: ClassRule, priority: int, label: str, expected: RequestClass
) -> None:
    """A label wins over priority in both directions; case and outer spaces do not matter."""
    assert rule.classify({"slo_class": label}, priority) == expected


@pytest.mark.parametrize("label", ["", "batch", "off line", 0, 1, True, ["offline"], {}])
@pytest.mark.parametrize("priority", [0, 1])
def test_classify_with_unknown_label_returns_none(label: Any, priority: int) -> None:
    """What is no class is reported as none: neither priority nor default answers for it."""
    assert BY_PRIORITY.classify({"slo_class": label}, priority) is None


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    st.sampled_from(["online", "offline"]) | st.text("onfli OE\n-", max_size=9),
    st.integers(),
    st.none() | st.integers(),
    st.sampled_from(RequestClass),
)
def test_classify_of_any_text_returns_the_class_it_names_or_none(
    label: str, priority: int, above: int | None, default_class: RequestClass
) -> None:
    """No text stops the engine, and priority and default never answer for it."""
    classes = {"online": ONLINE, "offline": OFFLINE}
    rule = ClassRule(above, default_class)
    assert rule.classify({"slo_class": label}, priority) == classes.get(label.strip().lower())


@pytest.mark.parametrize(
    ("extra_args", "tenant"),
    [
        (None, ""),
        ({}, ""),
        ({"tenant": None}, ""),
        ({"tenant": "a b"}, "a b"),
        ({"tenant": 7}, "7"),
        ({"tenant": "x" * 128}, "x" * 128),
        ({"tenant": "x" * 129}, OTHERS),
        ({"tenant": ["a"]}, OTHERS),
        ({"tenant": 10**4000}, OTHERS),
    ],
)
def test_tenant_is_the_text_of_its_label(extra_args: dict[str, Any] | None, tenant: str) -> None:
    """Whatever JSON holds; without one it is the tenant without a name."""
    assert tenant == tenant_of(extra_args)
