"""Objectives, recipes and the loop."""
