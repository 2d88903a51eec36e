"""The commands other than fit, validate, test and predict: each parses its options and calls the package."""
