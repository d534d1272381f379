"""Analysing files for people: finding and reading pictures, rendering, storing results."""
