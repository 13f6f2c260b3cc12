"""What networks and training steps are made of.

- `losses`: cross-entropy, distillation loss, likelihoods, Kullback-Leibler divergence
- `gradient_projection`: the gradient projection of A-GEM; `gradient_rules`: gradient clipping
- `layers`, `linear`, `convolutions`, `initialization`, `normalization`, `augmentation`: parts of networks
- `replicas`: networks of several runs, called as one; `random_streams`: all random numbers; `batch_order`: shuffling
- `sample_spec`: shape, range and likelihood of samples; `supervised`: training a plain classifier
"""
