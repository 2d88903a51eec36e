"""What an ablation found: its page."""
