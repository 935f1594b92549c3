"""Noise, schedules, solvers and the one loop: what every model and every guard shares."""
