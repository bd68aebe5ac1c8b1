"""A short run of rounds.py; scripts/rounds runs it at full length."""

from harness import SANITIZED
from rounds import rounds


def test_rounds(cluster):
    """P1, P2, P3, P5, P12 with a random node killed in the middle of 50 submits."""
    count = 2 if SANITIZED else 5
    total = rounds(cluster, count, 50, seed=20)
    assert total["ok"] >= count * 25
