"""Turn published checkpoints into denoisers, one file per checkpoint family."""
