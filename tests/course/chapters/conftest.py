"""What the tests of the chapters share: the numbers that a notebook measured."""

from __future__ import annotations

import pytest
from checking import facts_of


@pytest.fixture
def facts(request, tmp_path):
    """What the notebook that the marker `notebook` names keeps in its last cell."""
    return facts_of(*request.node.get_closest_marker("notebook").args, tmp_path)
