"""What an ablation asks: a checked grid."""
