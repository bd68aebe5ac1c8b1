import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from harness import Cluster, Evidence  # noqa: E402


@pytest.fixture
def cluster():
    """Three nodes, three agents, fresh for one test."""
    with Cluster() as c:
        yield c


@pytest.fixture(scope="module")
def shared():
    """Three nodes, three agents for the tests of one file; they must leave it healthy."""
    with Cluster() as c:
        yield c


@pytest.fixture
def evidence(tmp_path):
    return Evidence(tmp_path)
