"""Experiment trackers: TensorBoard, MLflow, Weights & Biases. A tracker's library is imported when a run uses it."""

from gr_cli.trackers.base import RunInfo, RunLogger, Tracker
from gr_cli.trackers.mlflow import MLflow
from gr_cli.trackers.tensorboard import TensorBoard
from gr_cli.trackers.wandb import WandB

__all__ = ["MLflow", "RunInfo", "RunLogger", "TensorBoard", "Tracker", "WandB"]
