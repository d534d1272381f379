"""All that exists for the demo only: its run and report, its ablation, its small CLIP."""
