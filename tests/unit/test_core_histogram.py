"""Histograms count into fixed buckets, add up, and tell percentiles within their bucket."""

from __future__ import annotations

import pytest

from jobpipe.core.histogram import Histogram


def test_a_bound_belongs_to_its_own_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.add(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.sum == 14.0


def test_percentiles_are_linear_within_a_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.merge([0, 10, 0])
    assert histogram.percentile(0.5) == pytest.approx(1.5)
    assert histogram.percentile(1.0) == pytest.approx(2.0)


def test_nothing_has_no_percentile_and_what_is_above_all_bounds_is_the_last() -> None:
    histogram = Histogram((1.0, 2.0))
    assert histogram.percentile(0.5) is None
    histogram.add(100.0)
    assert histogram.percentile(0.5) == 2.0


def test_histograms_add_up() -> None:
    one, other = Histogram((1.0,)), Histogram((1.0,))
    one.add(0.5)
    other.add(3.0)
    one.merge(other.counts, other.sum)
    assert (one.counts, one.sum, one.count) == ([1, 1], 3.5, 2)
