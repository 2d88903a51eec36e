"""lit_blip2: a PyTorch Lightning experiment suite for BLIP-2. Importing the package imports nothing heavy."""
