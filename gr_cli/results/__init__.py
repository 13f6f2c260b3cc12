"""What a run found, and the folder it is kept in."""
