"""The networks: plain nn.Modules."""
