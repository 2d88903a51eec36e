"""The commands beside LightningCLI's: thin mains over what they use."""
