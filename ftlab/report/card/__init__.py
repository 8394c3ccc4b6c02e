"""The savings card: the finding of a sweep as a picture fit for a slide.

`content` says what stands on it, from the runs alone; `layout` where; `svg` and `png` write it.
"""
