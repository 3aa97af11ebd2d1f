"""The tiny checkpoints of families.py, a test each, on the CPU."""
import pytest

from families import check_family, names


@pytest.mark.parametrize("name", names())
def test_equals_transformers(name, tmp_path):
    check_family(name, tmp_path, "cpu")
