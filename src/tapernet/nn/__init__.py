"""Layers whose work a budget cuts, and the network they make up."""
