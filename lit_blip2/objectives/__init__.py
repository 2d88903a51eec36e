"""The training objectives, which a YAML file can drop, weigh or replace, and the networks Stage1, Stage2 and Joint."""
