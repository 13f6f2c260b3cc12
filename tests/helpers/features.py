"""Vectors of a whole data set, as if all its training samples were of the first task."""

from gr_cli.benchmarks.features.base import FeatureExtractor
from gr_cli.benchmarks.sources.base import Dataset


def vectors_of(extractor: FeatureExtractor, data: Dataset) -> Dataset:
    """The vectors of `data`, a stream of one task."""
    return extractor.extract(data, data.train)
