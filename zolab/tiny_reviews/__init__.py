"""`tiny-reviews`, a language model small enough for studies with many runs on a laptop.

`python -m zolab pretrain tiny-reviews` makes it, and `pretrain tiny-reviews-critic` makes another model of it.
Load either with `zolab.models.load_model`; the cards are beside the weights, in `reviews/` and `reviews-critic/`.
"""
