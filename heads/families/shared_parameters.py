"""Parameters and grids that several families of heads declare."""

import numpy as np

from heads.parameters import Parameter

LARGEST_INT = 10**9
"""Limit of whole numbers: libraries store them in 32 bits."""

STANDARDIZE = Parameter(
    "standardize", "bool", default=True, help="Scale every feature to mean 0 and deviation 1 over the training rows."
)
NO_STANDARDIZE = Parameter("standardize", "bool", default=False, help=STANDARDIZE.help)
CLASS_WEIGHT = Parameter(
    "class_weight",
    "choice",
    "none",
    "balanced: rows of a class weigh more if the class is rare.",
    choices=("none", "balanced"),
)
MAX_ITER = Parameter("max_iter", "int", 1000, "Largest number of iterations of the solver.", low=1, high=LARGEST_INT)
C = Parameter("C", "float", 1.0, "Inverse of the strength of the l2 penalty.", above=0)

C_GRID = tuple(float(value) for value in 10 ** np.linspace(-6, 5, 45))
"""The grid of the linear evaluations of DINOv2 and VISSL."""
ALPHA_GRID = tuple(float(1 / value) for value in reversed(C_GRID))
