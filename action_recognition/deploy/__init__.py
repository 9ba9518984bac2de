"""Running a trained model. Without torch, but for the functions that read a checkpoint."""
