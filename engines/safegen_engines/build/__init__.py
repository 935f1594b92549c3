"""Graphs to a sealed engine folder, part by part, for one target."""
