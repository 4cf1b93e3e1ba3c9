"""`tiny-reviews`, a language model small enough for studies with many runs on a laptop.

`python -m zolab.tiny_reviews train` makes it, `derive` makes `tiny-reviews-critic` of it, `study` measures what MeZO learns with it,
`seeds` makes and studies it from other seeds.
Load either with `zolab.models.load_model`; the cards are beside the weights, in `reviews/` and `reviews-critic/`.
"""
