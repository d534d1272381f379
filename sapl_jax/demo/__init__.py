"""The demo: its run and report; the ablation at its size; pretraining of the small CLIPs."""
