"""Where runs are told of as they go: one file for each tracker, none of which imports its library before it is used."""

from gr_cli.trackers.base import RunInfo, RunLogger, Tracker
from gr_cli.trackers.mlflow import MLflow
from gr_cli.trackers.tensorboard import TensorBoard
from gr_cli.trackers.wandb import WandB

__all__ = ["RunLogger", "MLflow", "TensorBoard", "RunInfo", "Tracker", "WandB"]
