"""How an ablation is run in its folder."""
