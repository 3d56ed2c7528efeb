"""Recorded episodes, simulated again from the books alone: no policy, no torch, no Ray.

`choice` says which episodes; `again` simulates one and compares how it ended; `film` and `strip`
draw it, `video` makes an mp4 of the pictures.
"""
