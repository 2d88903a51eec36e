"""Which rows make up a batch, and how rows become one."""
