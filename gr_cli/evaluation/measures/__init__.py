"""The evaluations: each module defines subclasses of `Evaluation`."""
