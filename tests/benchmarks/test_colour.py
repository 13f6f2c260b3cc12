"""Every generator trains on and generates grey and colour images from 8 to 64 pixels."""

import pytest
import torch

from gr_cli.config.shipped_options import option_from_dict
from gr_cli.models import SimpleMLP
from gr_cli.nn.random_streams import RandomStreams, ReplicaStreams
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.training.build import build_generator

KINDS = [
    "vae",
    "conv_vae",
    "cvae",
    "wgan_gp",
    "flow",
    "conv_flow",
    "class_vae",
    "class_conv_vae",
    "mixture",
    "symmetric_vae",
]
SMALL = {"hidden_dims": [8], "latent_dim": 3, "num_components": 2, "steps": 2, "channels": [4, 8], "critic_steps": 1}
SHAPES = [(channels, *size) for channels in (1, 3) for size in ((8, 8), (9, 13), (28, 28), (32, 32), (64, 64))]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_training_step_and_generation(kind, shape):
    torch.manual_seed(0)
    node = option_from_dict("generator", {"type": kind}, "vae", "generator")
    node |= {name: value for name, value in SMALL.items() if name in node}
    solver = SimpleMLP(torch.Size(shape).numel(), [8], 2)
    generator = build_generator(node, SampleSpec(shape), 2, solver)
    x, y = torch.rand(20, *shape), torch.arange(20) % 2
    if generator.closed_form:
        for label in range(2):
            generator.fit_class(x[y == label], label, torch.Generator().manual_seed(label))
    noise = {
        name: v[0]
        for name, v in ReplicaStreams([RandomStreams(0)]).noise_at(generator.training_noise(20), "test", 0, 0).items()
    }
    for name, objective in generator.objectives().items():
        labels = {"labels": y} if generator.conditional else {}
        before = [p.detach().clone() for p in objective.parameters]
        loss = sum(term.mean() for term in generator.losses(name, x, noise, **labels).values())
        gradients = torch.autograd.grad(loss, objective.parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(objective.parameters, gradients, strict=True):
                if gradient is not None:
                    parameter -= 0.01 * gradient
        assert any(not torch.equal(a, b) for a, b in zip(before, objective.parameters, strict=True))
    generated = generator.generate(4)
    assert generated.shape == (4, *shape)
    assert generated.isfinite().all() and 0 <= generated.min() <= generated.max() <= 1
