"""Generators: networks that dream samples of earlier tasks."""

from gr_cli.generators.base import Generator as Generator
from gr_cli.generators.conv_vae import ConvVAE as ConvVAE
from gr_cli.generators.vae import VAE as VAE
