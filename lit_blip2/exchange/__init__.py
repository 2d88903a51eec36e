"""BLIP-2's weights in and out: from and to LAVIS' files and Hugging Face's classes."""
