"""Training of tokeniser, target and draft from demonstrations (torch, no Ray)."""
