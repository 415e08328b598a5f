"""Machine unlearning that survives quantization, as a PyTorch Lightning application."""
