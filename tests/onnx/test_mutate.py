"""500 broken files give modules or errors of ours, each within a second and 200 MB."""

from __future__ import annotations

import resource
import time
import warnings
from collections import Counter

import pytest

from tests.onnx.mutate import MOST_SECONDS, give, mutants, seeds

_COUNT = 500
_MOST_MIB = 200


@pytest.mark.filterwarnings("ignore")
def test_broken_files() -> None:
    seeds()
    outcomes: Counter[str] = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index, data in mutants(7, _COUNT):
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcomes[give(data, trace=False)] += 1
        assert time.process_time() - start < MOST_SECONDS, index
        if index % 4 == 0:  # what loads is traced too, which takes longer
            give(data, trace=True)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < _MOST_MIB
    assert outcomes["InvalidModelError"] > _COUNT / 4
    assert outcomes["module"] > 10
