"""Generators: models of the samples of earlier tasks, for generative replay."""

from gr_cli.generators.base import Generator as Generator
from gr_cli.generators.class_conv_vae import ClassConvVAE as ClassConvVAE
from gr_cli.generators.class_vae import ClassVAE as ClassVAE
from gr_cli.generators.conv_flow import ConvFlowMatching as ConvFlowMatching
from gr_cli.generators.conv_vae import ConvVAE as ConvVAE
from gr_cli.generators.cvae import CVAE as CVAE
from gr_cli.generators.feedback import Feedback as Feedback
from gr_cli.generators.flow import FlowMatching as FlowMatching
from gr_cli.generators.gaussian import ClassGaussian as ClassGaussian
from gr_cli.generators.mixture import GaussianMixture as GaussianMixture
from gr_cli.generators.private_gaussian import PrivateGaussian as PrivateGaussian
from gr_cli.generators.vae import VAE as VAE
from gr_cli.generators.wgan_gp import WGANGP as WGANGP
