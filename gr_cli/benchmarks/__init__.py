"""Benchmarks: sources that load data sets, and streams that divide them into tasks."""

from gr_cli.benchmarks.base import Benchmark as Benchmark
from gr_cli.benchmarks.base import Samples as Samples
from gr_cli.benchmarks.base import Task as Task
from gr_cli.benchmarks.features.backbones import TimmFeatureExtractor as TimmFeatureExtractor
from gr_cli.benchmarks.features.backbones import TorchvisionFeatureExtractor as TorchvisionFeatureExtractor
from gr_cli.benchmarks.features.batch_norm_convolutions import (
    BatchNormConvFeatureExtractor as BatchNormConvFeatureExtractor,
)
from gr_cli.benchmarks.features.convolutions import ConvFeatureExtractor as ConvFeatureExtractor
from gr_cli.benchmarks.features.energies import EnergyFeatureExtractor as EnergyFeatureExtractor
from gr_cli.benchmarks.features.patches import PatchFeatureExtractor as PatchFeatureExtractor
from gr_cli.benchmarks.labels import with_few_labels as with_few_labels
from gr_cli.benchmarks.labels import with_label_noise as with_label_noise
from gr_cli.benchmarks.sources.arrays import Arrays as Arrays
from gr_cli.benchmarks.sources.digits import Digits as Digits
from gr_cli.benchmarks.sources.glyphs import SyntheticGlyphs as SyntheticGlyphs
from gr_cli.benchmarks.sources.image_folder import ImageFolder as ImageFolder
from gr_cli.benchmarks.sources.sklearn_sets import SklearnSet as SklearnSet
from gr_cli.benchmarks.sources.table import Table as Table
from gr_cli.benchmarks.sources.tensors import Tensors as Tensors
from gr_cli.benchmarks.sources.torchvision import Torchvision as Torchvision
from gr_cli.benchmarks.streams.permuted import permuted as permuted
from gr_cli.benchmarks.streams.rotated import rotated as rotated
from gr_cli.benchmarks.streams.split import split as split
