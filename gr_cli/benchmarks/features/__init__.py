"""Frozen feature extractors, one file per kind of network.

- `base`: the base class; `vectors`: the features of all images, cached; `output`: scaling and principal components
- `convolutions`, `batch_norm_convolutions`, `backbones`, `patches`: the extractors
- `weights`, `pretraining`: weights from a file, or from training on another data set
"""
