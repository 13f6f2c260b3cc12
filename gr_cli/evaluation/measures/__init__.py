"""What is measured after each task: each module is found by looking; `Evaluation` shows how to write one."""
