"""The laws that `make fuzz` looks for breaches of hold for what it begins with."""

import pytest

from tools.fuzz.targets import TARGETS, seeds


@pytest.mark.parametrize("target", TARGETS)
def test_no_seed_breaks_a_law(target: str) -> None:
    begun = seeds(target)
    assert begun
    for seed in begun[:: 1 + len(begun) // 200]:
        TARGETS[target](seed)
