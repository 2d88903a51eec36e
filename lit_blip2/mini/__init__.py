"""The embedded mini-world: scenes, captions, questions, and the small frozen models beside it."""
