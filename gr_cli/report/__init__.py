"""Pictures of what a run found, and tables, pages and figures over many."""
