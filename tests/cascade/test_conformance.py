"""Every scorer and stop policy that ships has the kit's properties."""

import pytest

from toolkit import Registry
from toolkit.conformance.kit import check

NAMES = [name for kind in ("scorer", "policy") for name in Registry.installed().names(kind)]


@pytest.mark.parametrize("name", NAMES)
def test_it_conforms(name):
    found = list(check(name, max_examples=8))
    assert {f.name: f.details for f in found if f.outcome != "pass"} == {}
    assert any(finding.outcome == "pass" for finding in found)
