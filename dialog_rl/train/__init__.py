"""Training stages: one stage, one file. The only place that imports trl."""
