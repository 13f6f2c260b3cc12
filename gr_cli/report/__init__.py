"""Reports over many runs: table, page, figures for papers, and the command line `gr-report`."""
