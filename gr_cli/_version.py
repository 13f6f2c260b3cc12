"""The version of this program, as it is installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("gr-cli")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "unknown"
