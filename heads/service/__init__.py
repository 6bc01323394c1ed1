"""The head service: heads of one recipe behind HTTP.

Private: `heads.serve` is the public name.
"""
