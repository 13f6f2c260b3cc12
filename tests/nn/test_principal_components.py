"""Principal components: computed exactly, and by random projections where samples have many values."""

import torch

from gr_cli.nn import principal_components
from gr_cli.nn.principal_components import principal_components as pca


def test_randomized_principal_components_are_exact(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(200, 80, generator=generator, dtype=torch.float64) * 0.9 ** torch.arange(80.0).double()
    flat = flat @ torch.linalg.qr(torch.randn(80, 80, generator=generator, dtype=torch.float64))[0]
    flat = flat - flat.mean(0)
    exact = pca(flat, 5, generator)
    monkeypatch.setattr(principal_components, "MAX_EXACT_SIZE", 40)
    components = pca(flat, 5, torch.Generator().manual_seed(1))
    torch.testing.assert_close(components @ components.T, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close((components * exact).sum(1).abs(), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-6)
    few = pca(flat[:3], 5, torch.Generator().manual_seed(1))  # fewer samples than components
    torch.testing.assert_close(few @ few.T, torch.eye(5, dtype=torch.float64))
