"""Protocols, floors, sweeps, intervals, reports, and what a calibration is made from."""
