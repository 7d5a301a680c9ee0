"""Peers: what a user would otherwise pick, in the form their own pages show, on the same endpoint."""
