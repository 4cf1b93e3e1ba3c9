"""`tiny-reviews`, a language model small enough for studies with many runs on a laptop, and how it is made."""
