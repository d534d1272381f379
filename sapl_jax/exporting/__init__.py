"""Exports of a trained model: what each format holds, how it is written and checked."""
