"""What an evaluation collects batch by batch, and scores at its end."""
