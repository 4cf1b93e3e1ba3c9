"""How weights are seen on both sides of a step: moved and put back, block by block, without an interrupt in between."""
