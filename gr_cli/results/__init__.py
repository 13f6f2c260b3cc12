"""A run's folder, its tables, status and figures, and what reads them back."""
