"""The embedded mini-world: scenes, captions, questions, and the two small frozen models beside it."""
