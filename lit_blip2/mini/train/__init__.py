"""How the mini-world's frozen models were trained."""
