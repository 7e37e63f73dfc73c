"""The store: what is kept of runs, how it is written and read back, and how it moves from one place to another.

It knows configurations, and what their files must hold. What is computed, and what is asked of it, is above.
"""
