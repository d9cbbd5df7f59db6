"""The drawn world: scenes, questions and the small model that is trained on them."""
