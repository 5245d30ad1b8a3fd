"""What a trial leaves on disk: strict JSON, rows of metrics, checkpoints, one writer."""
