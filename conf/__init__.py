"""What may be chosen: the configuration groups, shipped as `gr_cli.conf`."""
