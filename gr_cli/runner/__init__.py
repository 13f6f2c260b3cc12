"""Run settings in a folder: task by task train, evaluate and save; resume, verify and load runs."""
