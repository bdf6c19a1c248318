"""Training-data reconstruction, and a verdict on whether a classifier leaks.

A reconstruction that resembles a training image proves nothing by itself: it may resemble *any*
image of the class. Every figure here stands beside that of held-out images.
"""
