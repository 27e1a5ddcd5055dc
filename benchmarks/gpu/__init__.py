"""Figures for one GPU: programs that a machine with a GPU runs, and the page that is made of what they wrote."""
